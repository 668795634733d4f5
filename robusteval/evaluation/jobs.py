"""One job: one attack on one chunk, judged."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.registry import AttackCall
from robusteval.evaluation.plan import Cell
from robusteval.evaluation.verify import Judged, judge, to_counted
from robusteval.hardware import is_out_of_memory
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

Seeds = Callable[[int], int]  # restart → seed


@dataclass(frozen=True)
class Chunk:
    """Initially correct samples of a chunk, on the model's device."""

    rows: Tensor  # (B,) into the run's samples
    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)


@dataclass
class JobResult:
    """The counted image of each of a chunk's correct samples, and what holds of it."""

    images: Tensor
    judged: Judged
    forward_passes: int
    backward_passes: int
    notes: list[str] = field(default_factory=list)


def run_job(
    model: Adapter,
    cell: Cell,
    chunk: Chunk,
    seeds: Seeds,
    deadline: float | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> JobResult:
    """Attacks a chunk's correct samples; each restart only those not yet broken.

    Raises AttackError where the attack fails, TimeLimitReached where it runs past ``deadline``
    (a time of ``time.monotonic``).
    """
    counted = Counted(model, deadline, on_pass)
    threat = cell.threats[0]
    known = cell.call.knows_eps
    images, notes = chunk.images.clone(), []
    alive = torch.arange(len(images), device=images.device)
    for restart in range(cell.spec.restarts):
        if len(alive) == 0:
            break
        clean, labels = chunk.images[alive], chunk.labels[alive]
        found, said = _attack(counted, cell.call, clean, labels, threat, seeds(restart))
        notes += said
        images[alive] = to_counted(found, clean, threat if known else None)
        if restart + 1 < cell.spec.restarts:
            fooled = judge(model, images[alive], clean, labels, threat, bound=known).fooled
            alive = alive[~fooled.to(alive.device)]
    judged = judge(model, images, chunk.images, chunk.labels, threat, bound=known)
    return JobResult(
        images,
        judged,
        counted.forward_passes,
        counted.backward_passes,
        notes,
    )


def _attack(
    model: Counted,
    call: AttackCall,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
) -> tuple[Tensor, list[str]]:
    """Calls the attack; a batch that doesn't fit in memory is halved and tried again."""
    try:
        result = call(model, images, labels, threat, seed)
        return result.images, result.notes
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(images) == 1:
            raise
    half = len(images) // 2
    first, said = _attack(model, call, images[:half], labels[:half], threat, seed)
    second, also = _attack(model, call, images[half:], labels[half:], threat, seed + 1)
    split = f"out of memory at {len(images)} images: halved"
    return torch.cat([first, second]), [split, *said, *also]
