"""Which part of a suite fits into a time: chosen before the run, by what its jobs take at most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robusteval.attacks.registry import find
from robusteval.durations import duration_text
from robusteval.errors import RobustevalError
from robusteval.models.adapter import Parts
from robusteval.plan.budget import Budget, CutPart
from robusteval.plan.plan import make_plan
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import AttackSpec, Detection, Diagnostics, Suite
from robusteval.run.costs import Costs, Speeds

FEWEST = 100  # samples that a run isn't cut below: an interval is some 20 % wide there
DIAGNOSTICS: CutPart = "diagnostics"
DETECTION: CutPart = "detection"


@dataclass(frozen=True)
class Choice:
    """What fits: names of attacks and parts of the suite, so many samples, and the seconds that
    these take at most."""

    names: tuple[str, ...]
    samples: int
    seconds: float

    def cut(self, suite: Suite) -> Suite:
        """The suite with what was chosen."""
        return _cut(suite, self.names)

    def left_out(self, suite: Suite) -> tuple[str, ...]:
        """Names of the suite's attacks that don't fit."""
        return tuple(a.name for a in suite.attacks if a.name not in self.names)


def in_order_of_worth(suite: Suite) -> list[str]:
    """``adaptive``, the diagnostics, AutoAttack, attacks at prototypes, detection, the other
    attacks by gradients, and those without; alike ones in the suite's order."""
    ranked = [(_rank(attack), attack.name) for attack in suite.attacks]
    if suite.diagnostics.samples:
        ranked.append((1, DIAGNOSTICS))
    if suite.detection.detectors:
        ranked.append((4, DETECTION))
    return [name for _, name in sorted(ranked, key=lambda pair: pair[0])]


def _rank(attack: AttackSpec) -> int:
    if (attack.library, attack.attack) == ("robusteval", "adaptive"):
        return 0
    if attack.library == "autoattack":
        return 2
    record = find(attack.library, attack.attack)
    if record.needs.prototypes:
        return 3
    return 6 if record.gradients == "none" else 5


@dataclass(frozen=True)
class Chooser:
    """Chooses for one run; ``spent``: seconds that went into preparing it."""

    spec: RunSpec
    parts: Parts
    classes: int
    speeds: Speeds
    workers: int = 1
    spent: float = 0.0

    def seconds(self, names: Sequence[str], samples: int) -> float:
        """What these take at most on so many samples, the beginning and the end included."""
        suite = _cut(self.spec.suite, names)
        spec = replace(self.spec, suite=suite, samples=samples)
        if DETECTION not in names:
            spec = replace(
                spec, outliers=(), outlier_folders=(), training=(), tuning=(), own_training=False
            )
        costs = Costs(make_plan(suite, spec, self.parts), spec, self.classes)
        jobs = sum(costs.seconds(job, self.speeds) for job in costs.jobs())
        return self.spent + jobs / self.workers + costs.concluding(self.speeds)

    def choose(self, limit: float) -> Choice:
        """The most worthy attack that fits, on as many samples as fit; then what else does.

        Samples are cut where that attack and the diagnostics don't fit on all of them.  Raises
        RobustevalError where nothing fits.
        """
        order = in_order_of_worth(self.spec.suite)
        first = self._first(order, limit)
        samples = self._samples(first, limit)
        chosen = list(first)
        for name in order:
            if name not in chosen and self.seconds([*chosen, name], samples) <= limit:
                chosen.append(name)
        return Choice(tuple(chosen), samples, self.seconds(chosen, samples))

    @property
    def fewest(self) -> int:
        return min(FEWEST, self.spec.samples)

    def _first(self, order: Sequence[str], limit: float) -> list[str]:
        """The first attack that fits on the fewest samples; the diagnostics, too, if they do."""
        attacks = {attack.name for attack in self.spec.suite.attacks}
        heads = [name for name in order if name in attacks] or list(order)
        probes = [DIAGNOSTICS] if DIAGNOSTICS in order else []
        for name in heads:
            for names in ([name, *probes], [name]):
                if self.seconds(names, self.fewest) <= limit:
                    return names
        takes, name = min((self.seconds([name], self.fewest), name) for name in heads)
        raise RobustevalError(
            f"--budget {duration_text(limit)}: nothing fits: the least, {name} on {self.fewest} "
            f"samples, takes up to {duration_text(takes + 0.5)}: give that much or more"
        )

    def _samples(self, names: Sequence[str], limit: float) -> int:
        """The most samples on which these fit."""
        low, high = self.fewest, self.spec.samples
        if self.seconds(names, high) <= limit:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.seconds(names, middle) <= limit else (low, middle)
        return low


def _cut(suite: Suite, names: Sequence[str]) -> Suite:
    """A suite with these attacks and parts."""
    cut = suite.only([a.name for a in suite.attacks if a.name in names])
    changed: dict[str, object] = {}
    if DIAGNOSTICS not in names:
        changed["diagnostics"] = Diagnostics()
    if DETECTION not in names:
        changed["detection"] = Detection()
    return cut.model_copy(update=changed)


def asked_digest(asked: RunSpec, threads: int | None) -> str:
    """By which a run that was cut is found again: of what was asked for, without what the machine
    chose."""
    return replace(asked, threads=threads or 1, forms=("", "")).digest


def budget_of(choice: Choice, asked: RunSpec, limit: float, threads: int | None) -> Budget:
    """What a cut run's spec says of it."""
    suite = asked.suite
    parts: dict[CutPart, int] = {
        DIAGNOSTICS: suite.diagnostics.samples,
        DETECTION: len(suite.detection.detectors),
    }
    left_out = tuple(name for name, there in parts.items() if there and name not in choice.names)
    return Budget(
        limit,
        round(choice.seconds, 1),
        asked_digest(asked, threads),
        asked.samples,
        choice.left_out(suite),
        left_out,
    )
