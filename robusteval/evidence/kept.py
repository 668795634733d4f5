"""The stored adversarial images of a run: which there are, which there should be, what holds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.attacks.losses import logit_margin
from robusteval.errors import EvidenceError
from robusteval.evidence.images import decode, digests
from robusteval.evidence.judge import predict_again
from robusteval.evidence.pieces import Piece
from robusteval.evidence.results import RunResult, to_be_kept
from robusteval.evidence.store import Kept, Store, beside_name
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, Plan

PROOF_BATCH = 48  # neither the attack's batch nor the verdict's


@dataclass(frozen=True)
class KeptImages:
    """One job's kept images with all that is claimed of them, and what they are held against."""

    job: Job
    kept: Kept
    images: Tensor  # decoded
    clean: Tensor
    labels: Tensor
    places: Any  # of the kept rows among the job's rows
    columns: dict[str, Any]


def kept_images(context: Context, store: Store) -> Iterator[KeptImages]:
    """Every job's kept images, job by job, so that memory goes with the chunk.

    Raises EvidenceError for images of samples that the job did not attack.
    """
    for job in context.plan.attack_jobs():
        if store.has(job):
            kept = store.read_images(job)
            if len(kept.rows):
                yield _joined(context, store.read(job), job, kept)


def _joined(context: Context, piece: Piece, job: Job, kept: Kept) -> KeptImages:
    chunk = context.plan.chunks[job.chunk]
    if kept.rows.min() < chunk.start or kept.rows.max() >= chunk.stop:
        raise EvidenceError(f"{job.stem} keeps images of samples that are not in its chunk")
    rows = torch.from_numpy(kept.rows)
    indices = context.data.indices[rows].numpy()
    order = {int(index): place for place, index in enumerate(piece.columns["index"])}
    places = np.array([order.get(int(index), -1) for index in indices])
    if (places < 0).any():
        raise EvidenceError(f"{job.stem} keeps images of samples that it did not attack")
    images = decode(kept.images).to(context.device)
    clean = context.images(rows)
    if images.shape != clean.shape:
        raise EvidenceError(
            f"{job.stem} keeps images of shape {tuple(images.shape[1:])}, "
            f"not {tuple(clean.shape[1:])}"
        )
    return KeptImages(job, kept, images, clean, context.labels(rows), places, piece.columns)


def image_balance(plan: Plan, store: Store, result: RunResult) -> dict[str, tuple[int, int]]:
    """For each job: how many images it lacks, and how many it has too many."""
    balance = {}
    with store.listed():
        for job in plan.attack_jobs():
            chunk = plan.chunks[job.chunk]
            wanted = np.flatnonzero(to_be_kept(result, job.part)[chunk.start : chunk.stop])
            stored = set(store.read_images(job).rows.tolist()) if store.has(job) else set()
            due = set((wanted + chunk.start).tolist())
            balance[job.stem] = len(due - stored), len(stored - due)
    return balance


@dataclass(frozen=True)
class Tally:
    """Of the kept successes: how many hold, are near-ties, fail."""

    tie: float  # the margin up to which a success is nearly a tie
    held: int = 0
    near_ties: int = 0
    failed: int = 0
    unsure: int = 0  # so near a near-tie's bounds that other kernels may count them otherwise

    def plus(self, logits: Tensor, labels: Tensor) -> "Tally":
        """With more images predicted."""
        margin = logit_margin(logits, labels)
        size = margin.abs()
        tie = size <= self.tie
        broken = (margin > 0) & ~tie
        unsure = (size >= self.tie / 2) & (size <= 2 * self.tie)
        return Tally(
            self.tie,
            self.held + int(broken.sum()),
            self.near_ties + int(tie.sum()),
            self.failed + int((~broken & ~tie).sum()),
            self.unsure + int(unsure.sum()),
        )

    def to_json(self) -> dict[str, int]:
        """As the evidence keeps it."""
        counts = {"held": self.held, "near_ties": self.near_ties, "failed": self.failed}
        return {"images": sum(counts.values()), **counts, "batch_size": PROOF_BATCH}

    @property
    def told(self) -> str:
        total = self.held + self.near_ties + self.failed
        failed = f", {self.failed} do not" if self.failed else ""
        return f"{self.held} of {total} hold, {self.near_ties} near-ties apart{failed}"


def counted_images(context: Context, store: Store) -> Iterator[KeptImages]:
    """Every job's kept images.  Raises EvidenceError where one is not what was counted."""
    for batch in kept_images(context, store):
        if altered(batch):
            raise EvidenceError(
                f"{store.where(beside_name(batch.job))} holds other images than were counted: "
                f"{store.delete_both(batch.job)}"
            )
        yield batch


def altered(batch: KeptImages) -> int:
    """How many of a job's kept images have another digest than the counted ones."""
    claimed = batch.columns["sha256"][batch.places]
    return sum(a != b for a, b in zip(claimed, digests(batch.kept.images), strict=True))


def float32_tally(context: Context, batches: Iterable[KeptImages], tie: float) -> Tally:
    """Every kept image predicted again, at a batch size of its own."""
    tally = Tally(tie)
    for batch in batches:
        tally = tally.plus(predict_again(context.model, batch.images, PROOF_BATCH), batch.labels)
    return tally
