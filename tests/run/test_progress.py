"""What a run tells of how far it is, and how long it still takes; what it would take."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from robusteval import api, stops
from robusteval.data.datasets import Dataset
from robusteval.evidence.measured import require_part
from robusteval.models.adapter import Adapter
from robusteval.plan.plan import PROBES, Cell, Job
from robusteval.run import prepare as preparing
from robusteval.run import probes
from robusteval.run.costs import Costs
from robusteval.run.diagnosing import _told
from robusteval.run.forecast import Forecast
from robusteval.run.options import Options
from robusteval.run.probes import PASSES, Subject
from robusteval.run.progress import Silent, Standing
from robusteval.run.subject import Asked
from robusteval.runs import runs_in
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.runs import attack_spec, context_of, hasty_suite, suite_of

LINF = ThreatModel("Linf", parse_eps("0.15"))


@dataclass
class Recorder(Silent):
    """Writes all down that it is told."""

    parts: list[tuple[str, float, float]] = field(default_factory=list)
    jobs: list[tuple[str, str]] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    finished: list[tuple[str, str]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    report: api.Report | None = None

    def part(self, name: str, done: float, of: float) -> None:
        self.parts.append((name, done, of))

    def job(self, name: str, found: str) -> None:
        self.jobs.append((name, found))

    def standing(self, now: Standing) -> None:
        self.standings.append(now)

    def within(self, cell: Cell, done: float) -> None:
        self.shares.append(done)

    def finish(self, cell: Cell, status: str) -> None:
        self.finished.append((cell.key, status))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("suites") / "hasty.toml"
    path.write_text(hasty_suite(), "utf-8")
    return str(path)


def asked(out: Path, **changed: Any) -> Options:
    base: dict[str, Any] = {"samples": 24, "batch_size": 12, "threads": 1, "out": out}
    return Options(**{**base, **changed})


@pytest.fixture(scope="module")
def told(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """A run of two chunks."""
    told = Recorder()
    out = tmp_path_factory.mktemp("runs")
    told.report = api.evaluate("pcl_digits", suite, options=asked(out, progress=told))
    assert told.report.complete
    again = Recorder()
    api.evaluate("pcl_digits", suite, options=asked(out, progress=again))
    assert again.jobs == again.standings == []  # nothing was to be done
    return told


def test_every_job_is_told_as_it_ends(told: Recorder) -> None:
    names = [name for name, _ in told.jobs]
    assert len(names) == len(set(names)) == told.standings[-1].jobs
    assert names[:2] == ["clean predictions, chunk 1 of 2", "clean predictions, chunk 2 of 2"]
    assert "PGD-10, L∞ 0.15, chunk 2 of 2" in names
    assert names[-6:] == [f"diagnostics: {probe}" for probe in PROBES]
    found = dict(told.jobs)
    assert found["outliers: gaussian_noise"] == "done"
    assert found["FGSM, L∞ 0.15, chunk 1 of 2"].endswith(" % robust")
    assert [status for _, status in told.finished] == ["done"] * 6


def test_the_whole_run_is_told(told: Recorder) -> None:
    """From the first job to the last; nobody knows how long it takes before an attack was seen."""
    done = [now.done for now in told.standings]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, told.standings[-1].jobs)
    assert told.standings[0].left is None
    known = [now.left for now in told.standings if now.left is not None]
    assert len(known) > 10
    assert known[-1] < max(known)
    running = {name for now in told.standings for name in now.running}
    assert running >= {name for name, _ in told.jobs}
    assert told.standings[-1].running == ()


def test_every_part_begins_and_ends(told: Recorder) -> None:
    names = list(dict.fromkeys(name for name, _, _ in told.parts))
    assert names == [
        *("model and data", "clean predictions", "outliers", "diagnostics"),
        *("stored images predicted again", "report"),
    ]
    for wanted in names:
        (_, first, of_first), *_, (_, last, of_last) = [p for p in told.parts if p[0] == wanted]
        assert first < max(of_first, 1)
        assert last >= of_last > 0
    probing = [done for name, done, _ in told.parts if name == "diagnostics"]
    assert probing == sorted(probing)


def test_probes_tell_how_far_they_are(
    pcl_digits: Adapter, digits: Dataset, tmp_path: Path, suite: str
) -> None:
    """Growth takes longest: within it the share rises from pass to pass."""
    context = preparing.prepare(Asked("pcl_digits"), suite, asked(tmp_path)).context
    shares: list[float] = []
    rows = digits.balanced_subset(2)
    on = Subject(context.model, rows.images(), rows.labels, LINF, 0)
    with _told(context.model, PASSES["growth"][0] * 2, shares.append):
        probes.probe("growth", on)
    assert shares == sorted(shares)
    assert len(shares) == 6 * 21
    assert shares[-1] == 1


class Quiet:
    """What progress was before it had more to tell."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def doubt(self, told: str) -> None:
        self.heard.append("doubt")

    def start(self, cell: Cell, samples: int) -> None:
        self.heard.append("start")

    def within(self, cell: Cell, done: float) -> None: ...

    def advance(self, cell: Cell, done: int, robust: int, of: int) -> None:
        self.heard.append(f"{done} of {of}")

    def finish(self, cell: Cell, status: str) -> None:
        self.heard.append(status)


def test_a_progress_of_five_methods_still_does(suite: str, tmp_path: Path) -> None:
    quiet = Quiet()
    api.evaluate("pcl_digits", suite, options=asked(tmp_path, only=("fgsm",), progress=quiet))
    assert quiet.heard == ["start", "12 of 12", "24 of 24", "done"]


# How long it still takes


class Clock:
    """Goes on when it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def forecast_of(
    model: Adapter, data: Dataset, clock: Clock, steps: int = 10
) -> tuple[Forecast, dict[str, Job]]:
    """Of two chunks of 40 under FGSM and PGD with so many steps."""
    pgd = attack_spec(
        "pgd", library="torchattacks", attack="PGD", parameters={"steps": steps, "alpha": 0.05}
    )
    fgsm = attack_spec("fgsm", library="torchattacks", attack="FGSM")
    context = context_of(model, data.balanced_subset(80), suite_of(fgsm, pgd), outliers=())
    forecast = Forecast(Costs(context.plan, context.spec, 10), set(), clock=clock)
    return forecast, {job.stem.replace("_Linf_0.15", ""): job for job in forecast.jobs}


# Work in forward passes, of which a backward pass makes two, and one for each job.
FGSM = 1 + 40 * (1 + 2 + 2)
PGD = 1 + 40 * (10 + 20 + 2)
END = 1 + 80


def test_the_time_left_comes_from_what_was_seen(pcl_digits: Adapter, digits: Dataset) -> None:
    clock = Clock()
    forecast, jobs = forecast_of(pcl_digits, digits, clock)
    assert sorted(jobs) == [
        *("attack-00-fgsm-0000", "attack-00-fgsm-0001", "attack-01-pgd-0000"),
        *("attack-01-pgd-0001", "clean-0000", "clean-0001"),
    ]

    def do(name: str, seconds: float) -> float | None:
        forecast.started(jobs[name])
        clock.now += seconds
        forecast.finished(jobs[name])
        return forecast.standing().left

    assert do("clean-0000", 1) is None
    assert do("clean-0001", 1) is None
    pace = 1 / FGSM
    assert do("attack-00-fgsm-0000", 1) == pytest.approx(1 + 2 * PGD / FGSM + END * pace + 2)
    pace = 4 / (2 * FGSM)
    assert do("attack-00-fgsm-0001", 3) == pytest.approx(2 * PGD * 2 / FGSM + END * pace + 2)
    pace = 11 / (2 * FGSM + PGD)
    assert do("attack-01-pgd-0000", 7) == pytest.approx(7 + END * pace + 2)
    pace = 18 / (2 * FGSM + 2 * PGD)
    assert do("attack-01-pgd-0001", 7) == pytest.approx(END * pace + 2)
    assert (forecast.standing().done, forecast.standing().seconds) == (6, 20)


def test_a_job_at_work_tells_too(pcl_digits: Adapter, digits: Dataset) -> None:
    """Half of the first attack's chunk in five seconds: five more, and what follows in proportion;
    time that passes without a word is taken off it."""
    clock = Clock()
    forecast, jobs = forecast_of(pcl_digits, digits, clock)
    for name in ("clean-0000", "clean-0001"):
        forecast.started(jobs[name])
        forecast.finished(jobs[name])
    forecast.started(jobs["attack-00-fgsm-0000"])
    assert forecast.standing().left is None
    forecast.within(jobs["attack-00-fgsm-0000"], 0.5)
    clock.now += 5
    pace = 5 / (FGSM / 2)
    rest = FGSM * pace + 2 * PGD * pace + END * pace + 2
    standing = forecast.standing()
    assert standing.left == pytest.approx(5 + rest)
    assert standing.running == ("fgsm, L∞ 0.15, chunk 1 of 2",)


def test_a_start_is_not_taken_for_a_pace(pcl_digits: Adapter, digits: Dataset) -> None:
    """Four seconds for one percent of all passes say nothing of the others."""
    clock = Clock()
    forecast, jobs = forecast_of(pcl_digits, digits, clock, steps=200)
    for name in ("attack-00-fgsm-0000", "attack-00-fgsm-0001"):
        forecast.started(jobs[name])
        clock.now += 2
        forecast.finished(jobs[name])
        assert forecast.standing().left is None
    forecast.started(jobs["attack-01-pgd-0000"])
    clock.now += 3
    forecast.within(jobs["attack-01-pgd-0000"], 0.1)
    left = forecast.standing().left
    assert left is not None
    assert 27 + 30 < left < 27 + 30 + 10


def test_workers_share_what_is_left(pcl_digits: Adapter, digits: Dataset) -> None:
    clock = Clock()
    forecast, jobs = forecast_of(pcl_digits, digits, clock)
    forecast.done.update(job for name, job in jobs.items() if "clean" in name)
    forecast.started(jobs["attack-00-fgsm-0000"])
    clock.now += 1
    forecast.finished(jobs["attack-00-fgsm-0000"])
    alone = forecast.standing().left
    forecast.workers = 2
    shared = forecast.standing().left
    end = END / FGSM + 2
    assert alone is not None
    assert shared == pytest.approx((alone - end) / 2 + end)


# What a run would take


def test_an_estimate_names_what_passes_are_for(suite: str, tmp_path: Path, told: Recorder) -> None:
    found = api.estimate("pcl_digits", suite, options=asked(tmp_path, only=("fgsm",)))
    parts = {part.purpose: part for part in found.parts}
    assert list(parts) == [
        *("clean predictions", "attacks", "detection", "diagnostics", "verification"),
    ]

    def passes(purpose: Any) -> tuple[int, int, int]:
        part = parts[purpose]
        return part.jobs, part.forward_passes, part.backward_passes

    assert passes("clean predictions") == (2, 2 * 24, 0)
    assert passes("attacks") == (2, 24, 24)
    # One detector scores clean images, an outlier set of the project's and two of noise.
    assert passes("detection") == (3, 24 + 3 * 24, 0)
    assert passes("diagnostics")[0] == 6
    # Attacked images are looked at twice, and what is stored once more.
    assert passes("verification") == (0, 2 * 24 + 24, 0)
    assert found.jobs == sum(part.jobs for part in found.parts)
    assert found.minutes == pytest.approx(sum(part.minutes for part in found.parts))
    whole = api.estimate("pcl_digits", suite, options=asked(tmp_path))
    assert whole.jobs == told.standings[-1].jobs


@pytest.mark.parametrize("name", PROBES)
def test_probes_take_as_many_passes_as_estimated(
    name: str, pcl_digits: Adapter, ce_digits: Adapter, digits: Dataset
) -> None:
    """Square stops at what it breaks; the others don't."""
    images = digits.balanced_subset(3)
    on = Subject(pcl_digits, images.images(), images.labels, LINF, 0, ce_digits)
    forward = backward = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
        nonlocal forward
        forward += len(given[0])
        if logits.requires_grad:
            logits.register_hook(count_back)

    def count_back(gradient: Tensor) -> None:
        nonlocal backward
        backward += len(gradient)

    handles = [model.register_forward_hook(count) for model in (pcl_digits, ce_digits)]
    try:
        probes.probe(name, on)
    finally:
        for handle in handles:
            handle.remove()
    most_forward, most_backward = (3 * most for most in PASSES[name])
    assert 0 < forward <= most_forward
    assert backward <= most_backward
    if name not in ("square", "looks"):  # whose gradients are of distances, too
        assert (forward, backward) == (most_forward, most_backward)


# Diagnostics that are interrupted go on


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the probes that were made."""
    made: list[str] = []

    def counted(name: str, made_by: Callable[[Subject], dict[str, Any]]) -> Any:
        def probe(on: Subject) -> dict[str, Any]:
            made.append(name)
            return made_by(on)

        return probe

    for name, probe in probes._PARTS.items():
        monkeypatch.setitem(probes._PARTS, name, counted(name, probe))
    return made


def test_an_interruption_loses_one_probe_at_most(
    suite: str,
    told: Recorder,
    tmp_path: Path,
    probed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole is what it is in a run that nobody interrupted: it looks at the same samples."""

    def interrupted(on: Subject) -> dict[str, Any]:
        raise KeyboardInterrupt

    options = asked(tmp_path, only=("fgsm",))
    with monkeypatch.context() as patch:
        patch.setitem(probes._PARTS, "noise", interrupted)
        with pytest.raises(KeyboardInterrupt) as stop:
            api.evaluate("pcl_digits", suite, options=options)
    (run,) = runs_in(options.out)
    assert stops.said(stop.value) == [
        f"{run.done} of {run.jobs} jobs of pcl_digits are done and kept; the same command does the "
        "rest"
    ]
    assert run.jobs - run.done == 3  # probes
    assert probed == ["looks", "ascents", "growth"]
    (folder,) = options.out.iterdir()
    there = sorted(path.name for path in (folder / "evidence").glob("diagnostics*"))
    assert there == [f"diagnostics-{name}.parquet" for name in sorted(probed)]
    readable, *_ = api.verify(folder)
    assert (readable.name, readable.held) == ("evidence can be read", True)
    assert readable.told == f"{run.done} of {run.jobs} jobs"

    again = Recorder()
    report = api.evaluate("pcl_digits", suite, options=replace(options, progress=again))
    first, last = again.standings[0], again.standings[-1]
    assert (first.done, first.jobs) == (run.done, run.jobs)
    assert first.resumed_text() == f"{run.done} of {run.jobs} jobs are done already"
    assert last.done == last.jobs
    assert [(one.done, one.jobs) for one in runs_in(options.out)] == [(run.jobs, run.jobs)]
    assert probed == list(PROBES)
    (left,) = (folder / "evidence").glob("diagnostics*")
    assert left.name == "diagnostics.parquet"
    assert all(check.held for check in api.verify(folder, again=1))
    assert told.report is not None
    assert report.content["diagnostics"] == told.report.content["diagnostics"]
    assert report.content["diagnostics"]["samples"] == 4


def test_a_probe_that_fails_fails_the_diagnostics(
    suite: str, tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other is made; where it is mended, those that are there are not made again."""

    def failing(on: Subject) -> dict[str, Any]:
        raise ValueError("no probe today")

    options = asked(tmp_path, only=("fgsm",))
    with monkeypatch.context() as patch:
        patch.setitem(probes._PARTS, "growth", failing)
        report = api.evaluate("pcl_digits", suite, options=options)
    assert not report.complete
    assert probed == ["looks", "ascents"]
    assert "no probe today" in str(report.content["missing"])
    assert api.evaluate("pcl_digits", suite, options=options).complete
    assert probed == list(PROBES)


def test_a_probe_tells_of_each_of_its_samples() -> None:
    require_part("noise", {"samples": 2, "broken": [True, False]})
    for told in (
        {"samples": 2, "broken": [True]},
        {"samples": 2, "broken": [1, 0]},
        {"samples": 2, "broken": [True, False], "more": 1},
    ):
        with pytest.raises(ValueError, match=r"broken|samples|more"):
            require_part("noise", told)
