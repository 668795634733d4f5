"""Small versions of the benchmarks: that they measure what they say."""

import sys
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import (
    ablation,
    attacks,
    libraries,
    masked,
    oracle,
    overhead,
    published,
    retrain,
    scaling,
    stored,
    tables,
    threads,
    training_speed,
    workers,
)
from benchmarks import variants as variants_of
from robusteval import api
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import Counted
from robusteval.attacks.results import Stage
from robusteval.attacks.search import AIMED, MARGIN, Search, Seen, cosine
from robusteval.attacks.tuning import TUNING
from robusteval.boards.board import RANK
from robusteval.data.datasets import load_dataset
from robusteval.models.acceleration import Forms
from robusteval.models.entry_tables import Trained
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.report import rows
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked
from robusteval.types import NORMS, Norm, ThreatModel
from tests.helpers.models import file_of

pytestmark = pytest.mark.slow


def test_both_loops_of_training_speed_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within this process: one of its own is for times alone."""
    monkeypatch.setattr(training_speed, "apart", lambda train, *given: train(*given))
    entry = find_entry("ce_at_digits")
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    settings = training_speed.settings_of(entry, epochs=3, seed=0)
    assert (settings.recipe, settings.adversarial) == ("ce", None)
    ((plain, ours),) = training_speed.compare(entry, train, test, epochs=3, seeds=1)
    assert min(plain.accuracy, ours.accuracy) > 0.7
    assert plain.seconds > 0
    assert "times faster" in capsys.readouterr().out


def test_training_anew_ends_at_the_same_accuracy(tmp_path: Path) -> None:
    """A short training, twice: the same seed gives the same model, whatever is in the folder."""
    text = file_of("ce_at_digits.toml").read_text()
    text = text.replace("epochs = 30", "epochs = 3", 1).replace("ce_at_digits", "short")
    text = text[: text.index("[training.adversarial]")]
    (tmp_path / "short.toml").write_text(text)
    found = []
    for name in ("first", "second"):
        torch.manual_seed(len(found))
        (tmp_path / name).mkdir()
        found.append(retrain.train_anew(str(tmp_path / "short.toml"), tmp_path / name, None)[0])
    assert found[0].clean_correct == found[1].clean_correct
    assert found[0].clean_accuracy > 0.8
    assert (tmp_path / "short.toml").read_text() == text


def test_accuracies_agree_within_the_stated_interval() -> None:
    stated = find_entry("ce_digits").trained
    assert stated is not None

    def with_correct(correct: int) -> Trained:
        return stated.model_copy(update={"clean_correct": correct})

    # 355 of 360 has the interval 96.79 to 99.41 %, which is 349 to 357 of 360.
    assert stated.clean_correct == 355
    assert [retrain.agrees(stated, with_correct(n)) for n in (348, 349, 357, 358)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_oracle_and_the_bare_loop_take_the_same_steps() -> None:
    model = load_model(find_entry("mpat_at_digits"))
    data = load_dataset("digits", "test")
    images, labels = oracle.correct_samples(model, data, 24)
    forms, schedule = Forms(model, model, None), cosine(oracle.TINY.radius, 4)
    search = oracle.oracle(forms, images, labels, schedule)
    points = oracle.bare_loop(model, images, labels, schedule)
    assert (points - images).abs().amax() <= oracle.TINY.radius + 1e-6
    assert int(search.model.backward_passes.sum()) == 4 * len(images)
    assert oracle.compare(forms, images, labels, steps=3, pairs=1) > 0


def test_a_library_leaves_the_same_through_the_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = load_model(find_entry("ce_at_digits")), load_dataset("digits", "test")
    some, threat = data.balanced_subset(80), data.info.default_threat("Linf")
    plain = libraries.plainly(model, "pgd20_fixed", some, threat)
    ours = libraries.through_the_adapter(model, "pgd20_fixed", some, threat)
    assert torch.equal(plain.robust, ours.robust)
    assert 0 < int(plain.robust.sum()) < 80
    twice, half = replace(plain, seconds=2.0), replace(ours, seconds=1.0)
    assert libraries.compare("pgd20_fixed", twice, half, 1e-4)
    assert "2.00 times faster" in capsys.readouterr().out
    assert not libraries.compare("pgd20_fixed", half, half, 1e-4)  # no faster
    other = replace(half, margins=half.margins.roll(1))
    assert not libraries.compare("pgd20_fixed", twice, other, 1e-4)
    assert libraries.compare("pgd20", twice, other, 1e-4)  # as many, and random starts: only chance


def test_exponents_of_known_growth(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [100, 300, 1000]
    assert scaling.exponent(sizes, [0.5 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert scaling.show("samples", sizes, [2.0 * n for n in sizes]) == pytest.approx(1)
    assert scaling.seconds_of_classes(3, count=2) > 0
    assert "to the power 1.00" in capsys.readouterr().out


@pytest.mark.parametrize("norm", NORMS)
def test_a_variant_leaves_out_what_it_says_and_none_is_the_whole(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ascents start elsewhere, have another goal or another course, or a stage is not there."""
    ascend, seen, whole = Search.ascend, list[object](), list[object]()

    def watched(
        self: Search,
        rows: Tensor,
        start: Tensor,
        goal: Any,
        schedule: Any,
        momentum: float = 0.0,
        targets: Tensor | None = None,
    ) -> None:
        aims = None if targets is None else targets.tolist()
        seen.append((rows.tolist(), float(start.sum()), goal, len(schedule), momentum, aims))
        if ends_early and seen[-1:] != whole[len(seen) - 1 : len(seen)]:
            raise AnotherCourseError
        ascend(self, rows, start, goal, schedule, momentum, targets)

    monkeypatch.setattr(Search, "ascend", watched)
    monkeypatch.setattr(Cascade, "escalate", lambda _: [])  # full AutoAttack takes a minute
    # Among so few, all else would be the nearest, and one stage would take the whole budget.
    small: Any = {"fewest": 4, "fewest_fine": 1, "inward_after": 400 if norm == "L2" else None}
    fewer = {norm: replace(usual, **small) for norm, usual in TUNING.items()}
    first, to_one_class = fewer["L2"].rounds[0], fewer["L2"].rounds[4]  # the latter comes late
    fewer["L2"] = replace(fewer["L2"], rounds=(first, to_one_class))
    monkeypatch.setattr(Cascade, "tunings", fewer)
    model, data = ablation.validation_samples("mpat_at_digits", 8, None)
    given = (data.images(), data.labels, data.info.default_threat(norm), 0, 600)
    stages = {"margin", "aim", "polish", "square"} | ({"flip"} if norm == "Linf" else set())
    ends_early, told_of_whole = False, list[Stage]()
    for told, variant in variants_of.variants_in(norm).items():
        seen.clear()
        ends_early = bool(whole) and not variant.left_out  # those show which stages they have
        cascade = variant(Counted(model, len(data)), *given)
        with suppress(AnotherCourseError):
            found = cascade.run().stages
            assert {stage.name for stage in found} & stages == stages - cascade.left_out, told
            assert (found, seen) != (told_of_whole, whole), told
            whole, told_of_whole = whole or [*seen], told_of_whole or found


class AnotherCourseError(Exception):
    """An ascent is another than the whole's."""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ce_at_digits+detached_1", "a zero gradient is a zero step"),
        ("ce_at_digits+rounded", "without gradients straight through"),
        ("ce_at_digits+sigmoid", "along squashed outputs"),
    ],
)
def test_on_copies_that_hide_gradients_a_variant_is_another_attack(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, float]] = []
    ascend = Search.ascend

    def watched(self: Search, rows: Tensor, *rest: Any) -> None:
        ascend(self, rows, *rest)
        taken.append((len(rows), float(self.margin.sum())))

    monkeypatch.setattr(Search, "ascend", watched)
    model, data = ablation.validation_samples(name, 16, None)
    courses = []
    for kind in (Cascade, ablation.variants_of(name, "Linf")[told]):
        taken.clear()
        cascade = kind(
            Counted(model, len(data)), data.images(), data.labels, ThreatModel("Linf", 0.15), 0, 200
        )
        cascade.left_out |= masked.LAST
        found = cascade.run()
        courses.append((found.stages, *taken))
    assert courses[0] != courses[1]


@pytest.mark.parametrize("norm", NORMS)
def test_an_ablation_counts_what_is_left(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cascade, "escalate", lambda _: [])  # full AutoAttack takes a minute
    model, data = ablation.validation_samples("mpat_at_digits", 20, None)
    assert 15 < len(data) <= 20
    forms, threat = Forms(model, model, None), data.info.default_threat(norm)
    left = ablation.attacked(Cascade, forms, data, threat, 150)
    assert 0 < int(left.robust.sum()) < len(data)
    assert left.passes > 0


@pytest.mark.parametrize(
    ("told", "momenta", "widest"),
    [
        (variants_of.WHOLE, {0.75}, 6.0),
        ("ascents inside the ball only", {0.75}, 1.0),
        ("without momentum", {0.0}, 6.0),
    ],
)
def test_in_l2_ascents_are_what_their_variant_says(
    told: str, momenta: set[float], widest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[float, float]] = []

    def watched(
        self: Search, rows: Any, start: Any, goal: Any, schedule: Any, momentum: float, targets: Any
    ) -> None:
        taken.append((momentum, max(step.radius for step in schedule) / self.threat.radius))

    monkeypatch.setattr(Search, "ascend", watched)
    model, data = ablation.validation_samples("mpat_at_digits", 20, None)
    given = (data.images(), data.labels, data.info.default_threat("L2"), 0, 150)
    cascade = variants_of.VARIANTS[told](Counted(model, len(data)), *given)
    for start, targets in ((data.images(), None), (data.images(), data.labels)):
        cascade.ascend(cascade.search.alive(), start, MARGIN, 45, targets)
    assert len(taken) == 2
    assert {momentum for momentum, _ in taken} == momenta
    assert {round(wide, 6) for _, wide in taken} == {widest}


def test_an_ablation_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told, out = "targets from the first step", tmp_path / "ablation.csv"
    variants = {variants_of.WHOLE: Cascade, told: variants_of.VARIANTS[told]}
    monkeypatch.setattr(variants_of, "VARIANTS", variants)
    asked = ["ablation", "--model", "ce_at_digits", "mpat_at_digits", "--samples", "20"]
    monkeypatch.setattr("sys.argv", [*asked, "--budget", "60", "--out", str(out)])
    assert ablation.main() == 0
    results = stored.read(out, ablation.Result)
    assert [r.variant for r in results] == [variants_of.WHOLE, told] * 2
    for whole, without in zip(results[::2], results[1::2], strict=True):
        assert (whole.only_it, whole.only_whole) == (0, 0)
        assert without.left - without.only_it == whole.left - without.only_whole
    heads, _, first, second = capsys.readouterr().out.splitlines()
    assert heads == (
        f"| variant | `ce_at_digits`, 60 passes, {results[0].correct} images | "
        f"`mpat_at_digits`, 60 passes, {results[2].correct} images |"
    )
    assert first == f"| whole | {results[0].left} | {results[2].left} |"
    one, other = results[1], results[3]
    assert second == (
        f"| {told} | {one.left} (+{one.only_it} −{one.only_whole}) | "
        f"{other.left} (+{other.only_it} −{other.only_whole}) |"
    )


def test_a_ratio_by_hand() -> None:
    seen = Seen(torch.tensor([[4.0, 1.0, 3.0, 0.5]]), {}, torch.tensor([0]), None)
    assert float(variants_of.over_gap(MARGIN).losses(seen)) == pytest.approx(-1 / 3)
    aimed = replace(seen, targets=torch.tensor([1]))
    assert float(variants_of.over_gap(AIMED).losses(aimed)) == pytest.approx(-3 / (4 - 0.75))


def test_the_bare_loop_leaves_what_the_harness_leaves(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text(overhead.plain_suite("full"))
    only = ("gaussian_noise", "fgsm", "adaptive", "smallest")
    options = api.Options(samples=8, only=only, out=tmp_path)
    prepared = prepare(Asked("ce_digits"), str(path), options)
    left = overhead.bare_loop(prepared)
    report = api.evaluate("ce_digits", str(path), options=options)
    for attack in report.content["attacks"]:
        key = f"{attack['name']}/{attack['threat']['norm']} {attack['threat']['eps']}"
        if attack["name"] in ("fgsm", "adaptive"):
            assert left[key] == attack["robust_accuracy"]["k"]


def test_the_documents_tables_say_what_entries_and_leaderboards_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 0, capsys.readouterr().out


def test_a_leaderboard_is_a_table_with_what_it_says_of_attacks(tmp_path: Path) -> None:
    of_attacks = [f"attack_{name}" for name in ("adaptive", "autoattack", "pgd10", "smallest")]
    columns = [*RANK, *rows.FOUND, *of_attacks, *rows.BACKING]
    firm = dict.fromkeys(columns, "") | {"model": "a", "clean": "90.00", "worst_case": "40.00"}
    firm |= {"worst_case_low": "35.80", "worst_case_high": "44.36", "samples": "500"}
    firm |= {"dataset": "digits", "norm": "Linf", "eps": "0.15", "training": "standard"}
    firm |= {"claimed": "51.3", "claimed_by": "pgd20", "attack_autoattack": "40.20"}
    firm |= {"attack_adaptive": "40.00", "attack_smallest": "41.20", "attack_pgd10": "44.00"}
    broken = {**firm, "model": "b", "worst_case": "0.00", "claimed": "", "attack_adaptive": "41.00"}
    (tmp_path / "x.csv").write_text(rows.as_csv([firm, broken], RANK))
    told = list(published.found(tmp_path))
    assert told[0] == "## digits, L∞ 0.15"
    assert told[2] == "`x.csv`, 500 samples for each model."
    assert told[6] == (
        "| `a` | standard | 90.00 % | 51.3 % (pgd20) | 44.00 % | 40.20 % | 40.00 % | 41.20 % | "
        "**40.00 %** [35.80, 44.36] |"
    )
    assert "| – |" in told[7]
    assert told[9] == (
        "- Robust samples under `adaptive`, compared with AutoAttack: fewer for 1 of 2 models, as "
        "many for 0, more for 1 (`b` by 4)."
    )
    assert told[10] == (
        "- Robust accuracy under `smallest` differs by +0.2 to +1.2 points from that under "
        "`adaptive`."
    )
    unclaimed = {**firm, "claimed": "", "eps": "0.1", "attack_smallest": "40.00"}
    (tmp_path / "w.csv").write_text(rows.as_csv([unclaimed], RANK))
    told = list(published.found(tmp_path))
    assert "- Robust accuracy under `smallest` is that under `adaptive`." in told
    assert told[0] == "## digits, L∞ 0.15"  # claims come first
    assert "claimed" not in told[told.index("## digits, L∞ 0.1") + 4]
    doubted = [{**firm, "findings": "suspicious: logits"}, {**broken, "findings": "broken: x"}]
    (tmp_path / "w.csv").write_text(rows.as_csv(doubted, RANK))
    said = "- A check is suspicious for `a`: those worst cases are upper bounds."
    assert said in list(published.found(tmp_path))
    (tmp_path / "w.csv").write_text(rows.as_csv(doubted[:1] * (published.NAMED + 1), RANK))
    assert said.replace("`a`", "6 models") in list(published.found(tmp_path))


def test_only_what_is_between_the_marks_is_written() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert tables.written_anew(text, "x", ["new", "er"]) == (
        "a\n<!-- x -->\nnew\ner\n<!-- /x -->\nb\n"
    )


def result_of(attack: str, robust: int, passes: float, seconds: float, **changed: Any) -> Any:
    values = {"model": "ce_at_digits", "weights": "0a1b", "norm": "Linf", "eps": "0.15"}
    values |= {"samples": 100, "correct": 90, "hardware": "two cores"}
    told = {"robust": robust, "forward": passes, "backward": 0.0, "seconds": seconds}
    return attacks.Result(attack=attack, **{**values, **told, **changed})


@pytest.mark.parametrize(
    ("ours", "other", "said"),
    [
        ((50, 100, 1), ("autoattack", 50, 2600, 60), []),
        ((51, 100, 1), ("autoattack", 50, 2600, 60), ["left against AutoAttack's 50"]),
        ((50, 100, 1), ("autoattack", 50, 2400, 60), ["1/25 of the passes"]),
        ((50, 100, 1), ("autoattack", 50, 2600, 40), ["1/50 of the seconds"]),
        ((50, 100, 1), ("apgd_t", 49, 90, 9), ["apgd_t is cheaper and stronger"]),
        ((50, 100, 1), ("apgd_t", 49, 110, 9), []),
        ((50, 100, 1), ("adaptive_60", 49, 60, 9), []),
    ],
)
def test_a_contest_says_what_does_not_hold(
    ours: tuple[int, float, float],
    other: tuple[str, int, float, float],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = [result_of("adaptive", *ours), result_of(*other)]
    if other[0] != "autoattack":
        results.append(result_of("autoattack", 50, 2600, 60))
    assert attacks.show(results) is not bool(said)
    told = [line for line in capsys.readouterr().out.splitlines() if "DOES NOT HOLD" in line]
    assert len(told) == len(said)
    assert all(part in line for part, line in zip(said, told, strict=True))


def test_a_contest_compares_like_with_like(capsys: pytest.CaptureFixture[str]) -> None:
    """Other samples are another group; on an undefended model no factor is asked for."""
    assert not attacks.show([])
    apart = [result_of("adaptive", 60, 100, 1), result_of("autoattack", 50, 9, 9, samples=200)]
    assert not attacks.show(apart)
    assert capsys.readouterr().out.count("nothing is compared") == 2
    plain = {"model": "ce_digits"}
    fast = [result_of("adaptive", 0, 9, 1, **plain), result_of("autoattack", 0, 8, 2, **plain)]
    slow = [result_of("adaptive", 0, 9, 3, **plain), result_of("autoattack", 0, 8, 2, **plain)]
    assert attacks.show(fast)
    assert not attacks.show(slow)


def test_a_contests_table_has_a_row_for_each_model_and_what_more_passes_leave() -> None:
    results = [
        result_of("adaptive", 50, 100, 1),
        result_of("autoattack", 51, 3000, 60),
        result_of("adaptive_240", 52, 60, 0.5),
        result_of("adaptive_1000", 49, 250, 2),
        result_of("apgd_t", 52, 1800, 20),
        result_of("adaptive", 0, 9, 1, model="ce_digits"),  # AutoAttack has not run: no row
    ]
    head, _, row = attacks.contest(results)
    told = "| `ce_at_digits` | 51.0 % [41.3, 60.6] (51/100) | 50.0 % [40.4, 59.6] (50/100) | "
    assert head.endswith(
        "| seconds | robust samples at a budget of 60, 120, 240, 400, 1,000 | "
        "AutoAttack's verdict from a budget of, passes, seconds | APGD-T |"
    )
    after = "100, 1/30 | 1, 1/60 | –, –, 52, 50, 49 | 400, 1/30, 1/60 | 52 at 18× |"
    assert row == told + after
    *_, later = attacks.contest([replace(results[0], robust=52), *results[1:4]])
    assert later.endswith("| 1,000, 1/12, 1/30 |")
    *_, never = attacks.contest([*results[:3], replace(results[3], robust=52)])
    assert never.endswith("| –, –, 52, 50, 52 | – |")
    *_, alone = attacks.contest(results[:2])
    assert alone == told + "100, 1/30 | 1, 1/60 |"


def test_a_contest_says_which_machine_measured_what() -> None:
    here, there = (("adaptive", 50, 100, 1), ("autoattack", 51, 3000, 60)), ("adaptive", 0, 9, 1)
    results = [*(result_of(*one) for one in here), result_of(*there, model="b", hardware="four")]
    assert attacks.machines(results) == "two cores: `ce_at_digits`; four: `b`"
    by = [replace(result, version=v) for result, v in zip(results, (2, 3, 1), strict=True)]
    assert attacks.versions(by) == "1, 2"  # AutoAttack's is its library's


def test_a_contest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attack on some samples; what is in the file already is not done again.

    Without AutoAttack nothing can be held: the exit code says so.
    """
    out = tmp_path / "attacks.csv"
    names = ["adaptive", "pgd_100x10", "advlib_fmn"]
    asked = ["attacks", "--model", "ce_digits", "--samples", "20", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*asked, "--attacks", *names])
    assert attacks.main() == 1
    first = stored.read(out, attacks.Result)
    assert [r.attack for r in first] == names
    assert all(r.robust <= 2 and r.forward > 0 and r.samples == 20 for r in first)
    monkeypatch.setattr(attacks, "run", None)
    assert attacks.main() == 1
    assert stored.read(out, attacks.Result) == first
    again = iter([replace(result, seconds=7.0) for result in first])
    monkeypatch.setattr(attacks, "run", lambda *_: next(again))
    monkeypatch.setattr("sys.argv", [*asked, "--attacks", *names, "--anew"])
    assert attacks.main() == 1
    assert [result.seconds for result in stored.read(out, attacks.Result)] == [7.0] * 3
    again = iter([replace(result, seconds=8.0) for result in first])
    monkeypatch.setattr("sys.argv", [*asked, "--attacks", *names])
    monkeypatch.setattr(attacks, "hardware_name", lambda _: "another machine")
    assert attacks.main() == 1
    assert [result.seconds for result in stored.read(out, attacks.Result)] == [8.0] * 3


def test_threads_are_timed_by_each_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The smallest workload, within this process; settings see each other's environments not."""
    small = threads.Workload("small", "pcl_digits", 4, "", ("fgsm",))
    monkeypatch.setattr(threads, "WORKLOADS", (small,))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environments = []

    def measured(setting: threads.Setting, count: int) -> list[threads.Seen]:
        environments.append(threads._environment(setting).get("OMP_WAIT_POLICY"))
        seen = threads.timed(small, 1, tmp_path / setting.name)
        return [replace(seen, seconds=float(len(environments)))]

    monkeypatch.setattr(threads, "measured", measured)
    monkeypatch.setattr(threads, "beside", lambda *_: nullcontext())
    monkeypatch.setattr(sys, "argv", ["threads", "--only", "PASSIVE", "--rounds", "2"])
    assert threads.main() == 0
    assert environments == [None, "PASSIVE"] * 4
    told = capsys.readouterr().out
    assert "| OMP_WAIT_POLICY=PASSIVE | 2.0 (" in told
    assert "equal evidence: True" in told
    other = threads.Seen(1, 1, "other")
    seen = replace(other, evidence="mine")
    found = {("as it is", False): [[other]], ("OMP_WAIT_POLICY=PASSIVE", False): [[other], [seen]]}
    assert threads.differing(threads.SETTINGS[:2], found) == ["small"]


def figure_of(engine: str, figure: str, value: float, **changed: Any) -> workers.Result:
    told = {"jobs": 36, "rounds": 3, "hardware": "four cores", "beside": "load 0.1 at the begin"}
    return workers.Result(engine, figure=figure, value=value, **{**told, **changed})


def test_a_table_of_engines() -> None:
    results = [
        figure_of("1", workers.FIRST, 1.5),
        figure_of("1", workers.TIMES, 1.0),
        figure_of("ray:4", workers.FIRST, 9.0),
        figure_of("ray:4", workers.TIMES, 3.5),
        figure_of("2", workers.MS, 5.25, jobs=2160, rounds=1),
    ]
    head, _, *rows, _, first, second = workers.table(results)
    assert head.endswith(f"| {workers.FIRST} | {workers.TIMES} | ms a job of 2,160 |")
    assert rows == [
        "| one process | 1.5 | 1.0 | – |",
        "| `ray:4` | 9.0 | 3.5 | – |",
        "| 2 processes | – | – | 5.25 |",
    ]
    assert first == "- 36 chunks: medians of 3 rounds, four cores, load 0.1 at the begin."
    assert second.startswith("- 2,160 jobs that do next to nothing: one round,")


@pytest.mark.parametrize(
    ("engine", "times", "held"),
    [("ray:4", 1.71, True), ("ray:4", 1.69, False), ("ray:1", 0.86, True), ("2", 0.1, True)],
)
def test_workers_of_ray_must_be_worth_their_cores(
    engine: str, times: float, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    assert workers.holds([figure_of(engine, workers.TIMES, times)]) is held


def test_engines_do_the_same_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(workers._HEAD + workers._SHORT.format(i=0))
    options = api.Options(samples=12, batch_size=4, threads=1, out=tmp_path / "runs")
    seen = workers.run_with(1, "ce_digits", str(suite), options)
    assert seen.jobs == 3
    assert min(seen.first, seen.rate) > 0
    monkeypatch.setattr(workers, "COMPARED", ((1, False), (1, True)))
    assert workers.is_evidence_equal("ce_digits", str(suite), 12, 4)
    assert capsys.readouterr().out.count("evidence ") == 2
