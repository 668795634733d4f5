"""Carries a plan out: clean predictions, every cell chunk by chunk, detection."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.attacks.counting import TimeLimitReached
from robusteval.data.datasets import Dataset
from robusteval.data.outliers import load_outliers
from robusteval.detection.detectors import NEEDS_PROTOTYPES, scores
from robusteval.errors import AttackError, DataError
from robusteval.evaluation.jobs import Chunk, JobResult, run_job
from robusteval.evaluation.outcomes import (
    CellOutcome,
    Example,
    Progress,
    RunResult,
    Separation,
    Silent,
)
from robusteval.evaluation.plan import Cell, Plan, RunSpec, expected_passes, job_seed
from robusteval.evaluation.suite import Suite
from robusteval.evaluation.verify import NEAR_TIE, VERIFY_BATCH, predict, state_digest
from robusteval.models.adapter import Adapter

EXAMPLES_PER_THREAT = 6
# What a third-party attack may raise: its cell fails, the run goes on.
FAILURES = (
    AttackError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; what of it bears on the outcome is in the spec too."""

    device: str = "cpu"
    time_limit: float | None = None
    data_dir: Path | None = None
    outlier_folders: tuple[Path, ...] = ()
    progress: Progress = field(default_factory=Silent)


class Run:
    """One run's state while it goes on."""

    def __init__(
        self,
        model: Adapter,
        data: Dataset,
        suite: Suite,
        plan: Plan,
        spec: RunSpec,
        settings: Settings,
    ) -> None:
        self.model, self.data, self.suite = model, data, suite
        self.plan, self.spec, self.settings = plan, spec, settings
        self.names = [
            n for n in suite.detection.detectors if model.layers or n not in NEEDS_PROTOTYPES
        ]
        self.examples: list[Example] = []
        self.findings: list[str] = []
        self.attack_scores: dict[str, dict[str, list[NDArray[np.float64]]]] = {}

    def execute(self) -> RunResult:
        """Runs everything.  A failed or unfinished attack spoils its own cell, no other."""
        started = time.perf_counter()
        # The verdict is float32's: on an accelerator TF32 would round every product.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        clean, gap = self._clean_predictions()
        self._note_instability(clean, gap)
        correct = clean == self.data.labels
        state = state_digest(self.model)
        outcomes = []
        for cell in self.plan.cells:
            outcome = self._run_cell(cell, correct)
            if state_digest(self.model) != state:
                raise AttackError(
                    f"{cell.spec.title} changed the model's parameters or buffers: no number of "
                    "this run can be trusted"
                )
            self._note_drift(outcome, clean, gap)
            self.settings.progress.finish(outcome)
            outcomes.append(outcome)
        separations = self._separations(correct, outcomes)
        return RunResult(
            self.spec,
            self.plan,
            self.data.labels.numpy(),
            clean.numpy(),
            outcomes,
            separations,
            self.examples,
            self.findings,
            self.data.class_names,
            time.perf_counter() - started,
        )

    def _images(self, rows: Tensor | range) -> Tensor:
        images = self.data.images(torch.as_tensor(rows)).to(self.settings.device)
        if images.min() < 0 or images.max() > 1 or not torch.isfinite(images).all():
            raise DataError(
                f"{self.data.info.name} has pixels outside [0, 1]: scale its images to [0, 1] "
                "(normalisation belongs into the model)"
            )
        return images

    def _note_instability(self, clean: Tensor, gap: Tensor) -> None:
        """A model whose clean predictions change between passes or with the batch size."""
        changed = self._changed(clean, gap, batch_size=7)
        if changed:
            self.findings.append(
                f"{changed} of {len(clean)} clean predictions changed between two passes at "
                "different batch sizes: the model is randomised or depends on its batch, so that "
                "one lucky success inflates an attack; average over passes before trusting this"
            )

    def _note_drift(self, outcome: CellOutcome, clean: Tensor, gap: Tensor) -> None:
        if changed := self._changed(clean, gap):
            outcome.notes.append(f"{changed} clean predictions differ after this attack")

    def _changed(self, clean: Tensor, gap: Tensor, batch_size: int = VERIFY_BATCH) -> int:
        """How many clean predictions differ now, near-ties apart."""
        now, _ = self._clean_predictions(batch_size)
        return int(((now != clean) & (gap > NEAR_TIE)).sum())

    def _clean_predictions(self, batch_size: int = VERIFY_BATCH) -> tuple[Tensor, Tensor]:
        """Predictions (N,), and the gap between the two largest logits (N,)."""
        predictions, gaps = [], []
        for chunk in self.plan.chunks:
            logits = predict(self.model, self._images(chunk), batch_size)
            if logits.dim() != 2 or logits.shape[1] != self.model.classes:
                raise AttackError(
                    f"the model returns shape {tuple(logits.shape)}, not (B, {self.model.classes})"
                )
            if not torch.isfinite(logits).all():
                raise AttackError("the model returns NaN or infinite logits on clean images")
            predictions.append(logits.argmax(1).cpu())
            largest = logits.topk(2, dim=1).values
            gaps.append((largest[:, 0] - largest[:, 1]).cpu())
        return torch.cat(predictions), torch.cat(gaps)

    def _run_cell(self, cell: Cell, correct: Tensor) -> CellOutcome:
        started = time.perf_counter()
        outcome = CellOutcome.empty(cell, len(self.data))
        limit = self.settings.time_limit
        deadline = None if limit is None else time.monotonic() + limit
        self.settings.progress.start(cell, len(self.data))
        if cell.spec.name in self.suite.detection.attacks:
            self.attack_scores[cell.key] = {name: [] for name in self.names}
        for index, chunk in enumerate(self.plan.chunks):
            try:
                self._run_chunk(cell, index, chunk, correct, deadline, outcome)
            except TimeLimitReached:  # what it had so far is not counted
                outcome.status = "not_finished"
                outcome.reason = f"the time limit of {limit:g} s was reached"
                break
            except FAILURES as error:
                outcome.status = "failed"
                outcome.reason = f"{type(error).__name__}: {error}".splitlines()[0]
                break
            done = chunk.stop
            broken = outcome.success(cell.threats[0])[:done]
            robust = int(correct[:done].sum()) - int(broken.sum())
            self.settings.progress.advance(cell, done, robust, done)
        outcome.notes = merge_notes(outcome.notes)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _run_chunk(
        self,
        cell: Cell,
        index: int,
        chunk: range,
        correct: Tensor,
        deadline: float | None,
        outcome: CellOutcome,
    ) -> None:
        rows = torch.tensor([r for r in chunk if correct[r]], dtype=torch.int64)
        if len(rows) == 0:
            return
        labels = self.data.labels[rows].to(self.settings.device)
        part = Chunk(rows, self._images(rows), labels)
        most = max(expected_passes(cell, self.model.classes)[0] * len(rows), 1)
        result = run_job(
            self.model,
            cell,
            part,
            lambda restart: job_seed(self.spec.seed, cell, index, restart),
            deadline,
            lambda passes: self.settings.progress.within(
                cell, chunk.start + len(chunk) * min(passes / most, 1.0)
            ),
        )
        record(outcome, rows.numpy(), result)
        self._keep_examples(cell, part, result, outcome)
        self._score_adversarials(cell, part, result, outcome)

    def _keep_examples(
        self, cell: Cell, chunk: Chunk, result: JobResult, outcome: CellOutcome
    ) -> None:
        """One picture per attack, so that a page shows many, up to a limit per threat."""
        threat = cell.threats[0]
        shown = [e for e in self.examples if e.threat == threat]
        have = {e.row for e in shown}
        known = any(e.attack == cell.spec.title for e in shown)
        if known or len(shown) >= EXAMPLES_PER_THREAT:
            return
        success = outcome.success(threat)
        for i, row in enumerate(chunk.rows.tolist()):
            if success[row] and row not in have:
                self.examples.append(
                    Example(
                        row,
                        cell.spec.title,
                        threat,
                        int(self.data.labels[row]),
                        int(result.judged.prediction[i]),
                        _to_bytes(chunk.images[i]),
                        _to_bytes(result.images[i]),
                    )
                )
                return

    def _score_adversarials(
        self, cell: Cell, chunk: Chunk, result: JobResult, outcome: CellOutcome
    ) -> None:
        chosen = torch.from_numpy(outcome.success(cell.threats[0])[chunk.rows.numpy()])
        for name, parts in self.attack_scores.get(cell.key, {}).items():
            found = scores(name, self.model, result.images[chosen.to(result.images.device)])
            parts.append(found.numpy())

    def _separations(self, correct: Tensor, outcomes: list[CellOutcome]) -> list[Separation]:
        if not self.names:
            return []
        inside = {name: self._inside(name) for name in self.names}
        found = []
        right = correct.numpy()
        done = {o.cell.key for o in outcomes if o.status == "done"}
        for key, by_detector in self.attack_scores.items():
            if key not in done:
                continue
            for name, parts in by_detector.items():
                outside = np.concatenate(parts) if parts else np.empty(0)
                found.append(
                    Separation("attack_detection", name, key, inside[name][right], outside)
                )
        seed, shape = self.spec.seed, self.data.info.shape
        data_dir = self.settings.data_dir
        sets: list[str | Path] = [*self.spec.outliers, *self.settings.outlier_folders]
        for against in sets:
            images = load_outliers(against, len(self.data), shape, seed, data_dir)
            images = images.to(self.settings.device)
            for name in self.names:
                outside = scores(name, self.model, images).numpy()
                found.append(Separation("outliers", name, str(against), inside[name], outside))
        return found

    def _inside(self, name: str) -> NDArray[np.float64]:
        parts = [
            scores(name, self.model, self._images(chunk)).numpy() for chunk in self.plan.chunks
        ]
        return np.concatenate(parts)


def record(outcome: CellOutcome, rows: NDArray[np.int64], result: JobResult) -> None:
    """Writes a job's result into its samples' rows."""
    judged = result.judged
    outcome.attacked[rows] = True
    outcome.fooled[rows] = judged.fooled.numpy()
    outcome.norm[rows] = judged.norm.numpy()
    outcome.margin[rows] = judged.margin.numpy()
    outcome.survives_8_bit[rows] = judged.survives_8_bit.numpy()
    outcome.forward_passes += result.forward_passes
    outcome.backward_passes += result.backward_passes
    outcome.notes += result.notes


def merge_notes(notes: list[str]) -> list[str]:
    """Chunks' notes as one: "x broke 3 of 10" adds up, the rest loses its doubles."""
    counts: dict[str, list[int]] = {}
    rest: dict[str, None] = {}
    for note in notes:
        name, broke, share = note.partition(" broke ")
        if broke and " of " in share:
            k, n = (int(part) for part in share.split(" of "))
            total = counts.setdefault(name, [0, 0])
            total[0], total[1] = total[0] + k, total[1] + n
        else:
            rest[note] = None
    return [*rest, *(f"{name} broke {k} of {n}" for name, (k, n) in counts.items())]


def _to_bytes(image: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = (image * 255).round().to(torch.uint8).cpu().numpy()
    return array
