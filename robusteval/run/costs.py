"""What a run costs at most: passes of its jobs by what they are for, and from speeds the time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from torch import Tensor

from robusteval.attacks.counting import BACKWARD
from robusteval.detection import registry as detection
from robusteval.evidence.judge import predict
from robusteval.hardware import best_seconds
from robusteval.models.acceleration import seconds_per_gradient
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.plan import Cell, Job, Plan, expected_passes
from robusteval.plan.spec import RunSpec
from robusteval.run.probes import PASSES

Purpose = Literal["clean predictions", "attacks", "detection", "diagnostics", "verification"]
PURPOSES: tuple[Purpose, ...] = (
    *("clean predictions", "attacks", "detection", "diagnostics", "verification"),
)
_WRITING = 2.0  # seconds: pages, figures and intervals
_BYTES_AT_LEAST, _BYTES_A_ROW = 250_000, 110


class Passes(NamedTuple):
    """Passes of single images."""

    forward: float = 0
    backward: float = 0

    def times(self, count: float) -> "Passes":
        return Passes(self.forward * count, self.backward * count)

    def plus(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class Speed:
    """Seconds of an image's forward pass, and of a backward pass on top of it."""

    forward: float
    backward: float

    def seconds(self, passes: Passes) -> float:
        return passes.forward * self.forward + passes.backward * self.backward


@dataclass(frozen=True)
class Speeds:
    """Of the model as it is, and of its forms for libraries and for our own gradients."""

    plain: Speed
    libraries: Speed
    gradients: Speed


@dataclass(frozen=True)
class Part:
    """What a run takes for one purpose."""

    purpose: Purpose
    jobs: int
    forward_passes: int
    backward_passes: int
    minutes: float


@dataclass(frozen=True)
class Estimate:
    """What a run will take at most: jobs, passes, minutes, bytes; and by their purpose (``parts``).

    On an honest model: where gradients are masked or outputs change, ``adaptive`` takes more.
    ``left_out``: what its budget leaves out, a line for each.
    """

    jobs: int
    forward_passes: int
    backward_passes: int
    minutes: float
    bytes: int
    parts: tuple[Part, ...] = ()
    left_out: tuple[str, ...] = ()

    def to_json(self, model: str) -> dict[str, Any]:
        """As plain data, with the model's name."""
        return {"model": model, **asdict(self)}


@dataclass(frozen=True)
class Costs:
    """What each job of a plan costs at most."""

    plan: Plan
    spec: RunSpec
    classes: int

    def jobs(self) -> list[Job]:
        """Those that take time."""
        return self.plan.counted_jobs()

    def of(self, job: Job) -> dict[Purpose, Passes]:
        """A job's passes by their purpose."""
        if job.kind in ("fit", "outliers", "pursuit"):
            return {"detection": self._of_detection(job)}
        if job.kind == "probe":
            return {"diagnostics": Passes(*PASSES[job.label]).times(self.plan.diagnosed)}
        if job.kind == "diagnostics":
            return {}
        size = len(self.plan.chunks[job.chunk])
        scored: dict[Purpose, Passes] = {"detection": _reads(job.scored_by).times(size)}
        if job.kind == "clean":
            return {"clean predictions": Passes(2).times(size), **scored}
        attack = {"attacks": self.expected[job.part].times(size), "verification": Passes(2 * size)}
        return {**attack, **scored}  # type: ignore[dict-item]

    def _of_detection(self, job: Job) -> Passes:
        """Of fits, of outliers' scores, and of attacks on detectors."""
        if job.kind == "fit":
            return self._of_fit(job)
        if job.kind == "outliers":
            return _reads(job.scored_by).times(self.spec.samples)
        asked = self.spec.suite.detection.attackers
        steps = asked.passes / (1 + BACKWARD)
        return Passes(steps, steps).times(min(asked.samples, self.spec.samples))

    def _of_fit(self, job: Job) -> Passes:
        """The first reads for all what they share."""
        training = self.spec.training[0] if self.spec.training else 0
        tuning = self.spec.tuning[1] if self.spec.tuning else 0
        shared = Passes(int(job == self.plan.fit_jobs()[0])).times(training + tuning)
        return shared.plus(Passes(detection.find(job.label).own_passes).times(training))

    @property
    def conclusion(self) -> Passes:
        """Of the stored images, which are predicted again."""
        return Passes(self.spec.samples * len(self.plan.threats))

    @cached_property
    def expected(self) -> list[Passes]:
        """Each cell's, of a sample."""
        return [Passes(*expected_passes(cell, self.classes)) for cell in self.plan.cells]

    def seconds(self, job: Job, speeds: Speeds) -> float:
        """What a job takes at most."""
        return sum(self._each(job, speeds).values())

    def concluding(self, speeds: Speeds) -> float:
        """What the end of the run takes: stored images predicted again, and the report."""
        return speeds.plain.seconds(self.conclusion) + _WRITING

    def _each(self, job: Job, speeds: Speeds) -> dict[Purpose, float]:
        found = {purpose: speeds.plain.seconds(p) for purpose, p in self.of(job).items()}
        if job.kind == "attack":
            size = len(self.plan.chunks[job.chunk])
            found["attacks"] = _seconds(
                self.plan.cells[job.part], self.expected[job.part].times(size), speeds
            )
        return found

    def parts(self, speeds: Speeds, workers: int) -> Iterator[Part]:
        """What the run takes, by purpose."""
        jobs = self.jobs()
        for purpose in PURPOSES:
            meant = [job for job in jobs if next(iter(self.of(job))) == purpose]
            passes, seconds = Passes(), 0.0
            for job in jobs:
                passes = passes.plus(self.of(job).get(purpose, Passes()))
                seconds += self._each(job, speeds).get(purpose, 0.0)
            seconds /= workers
            if purpose == "verification":
                passes = passes.plus(self.conclusion)
                seconds += self.concluding(speeds)
            if meant or purpose == "verification":
                yield Part(purpose, len(meant), round(passes[0]), round(passes[1]), seconds / 60)

    def estimate(self, speeds: Speeds, workers: int, pixels: int) -> Estimate:
        """The whole run; ``pixels``: of an image, all its channels."""
        parts = tuple(self.parts(speeds, workers))
        kept = self.spec.samples * len(self.plan.threats) * 2 * pixels  # 16 bits a pixel
        rows = self.spec.samples * len(self.plan.cells) * _BYTES_A_ROW
        return Estimate(
            sum(part.jobs for part in parts),
            sum(part.forward_passes for part in parts),
            sum(part.backward_passes for part in parts),
            sum(part.minutes for part in parts),
            _BYTES_AT_LEAST + 12 * 3 * pixels + kept + rows,
            parts,
        )


def _reads(detectors: tuple[str, ...]) -> Passes:
    """What all of these ask of one image: a pass that they share, and each one's own."""
    records = [detection.find(name) for name in detectors]
    shared = any(record.reads != "images" for record in records)
    return Passes(int(shared) + sum(record.own_passes for record in records))


def _seconds(cell: Cell, passes: Passes, speeds: Speeds) -> float:
    """An attack's: a library's on its form; of ours steps on that for gradients, and what more it
    asks on the model itself."""
    if cell.attack.library.accelerated:
        return speeds.libraries.seconds(passes)
    steps = Passes(min(passes), passes.backward)
    more = Passes(passes.forward - steps.forward)
    return speeds.gradients.seconds(steps) + speeds.plain.seconds(more)


def measured_speeds(context: Context) -> Speeds:
    """From a few passes made now; compiled forms are taken for as fast as uncompiled ones."""
    spec, forms = context.spec, context.uncompiled
    images = context.images(range(min(spec.batch_size, spec.samples)))
    found: dict[int, Speed] = {}

    def of(form: Adapter | None) -> Speed:
        form = form or context.model
        if id(form) not in found:
            found[id(form)] = speed_of(form, images)
        return found[id(form)]

    return Speeds(of(forms.plain), of(forms.libraries), of(forms.gradients))


def speed_of(model: Adapter, images: Tensor) -> Speed:
    """A model's on ``images``, by the best of two tries."""
    forward = best_seconds(lambda: predict(model, images, len(images)), str(images.device))
    try:
        both = seconds_per_gradient(model, images)
    except RuntimeError:  # no backward pass: attacks by gradients will fail
        both = forward
    return Speed(forward / len(images), max(both - forward, 0.0) / len(images))
