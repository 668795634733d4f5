"""Runs, and how they go wrong in every way they can."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval import api
from robusteval.attacks.counting import Counted
from robusteval.attacks.ranges import FLAG
from robusteval.attacks.results import AttackResult
from robusteval.data.datasets import Dataset
from robusteval.errors import (
    DataError,
    RobustevalError,
)
from robusteval.evidence.judge import (
    state_digest,
)
from robusteval.models.adapter import Adapter
from robusteval.plan.plan import (
    Cell,
)
from robusteval.plan.suite import read_suite
from robusteval.report.summary import summarise
from robusteval.run.attacking import _attack
from robusteval.run.options import Options
from robusteval.trust.findings import findings_of
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.attacks import AddAttack, Call
from tests.helpers.known import pixel_prototypes
from tests.helpers.models import linear_model
from tests.helpers.runs import attack_spec, run_suite, suite_of, unprobed

LINF = ThreatModel("Linf", parse_eps("0.15"))


@pytest.fixture
def own_attack(add_attack: AddAttack) -> AddAttack:
    """Registers a function as the attack `mine` for one test."""
    return lambda function, **facts: add_attack("mine", function, **facts)


def test_worst_case_is_per_sample(
    pcl_digits: Adapter, digits: Dataset, own_attack: Callable[..., None]
) -> None:
    """Two attacks that break different samples: the worst case is neither's accuracy."""
    data = digits.balanced_subset(80)
    pgd = Call("torchattacks", "PGD", {"alpha": 0.05, "steps": 10})

    def half(model, images, labels, threat, *, seed, odd):  # type: ignore[no-untyped-def]
        found = pgd(model, images, labels, threat, seed).images
        keep = (torch.arange(len(images)) % 2 == 1) == odd
        return torch.where(keep.view(-1, 1, 1, 1), found, images)

    own_attack(half, parameters={"odd": FLAG})
    suite = suite_of(
        attack_spec("a", attack="mine", parameters={"odd": True}),
        attack_spec("b", attack="mine", parameters={"odd": False}),
    )
    result = run_suite(pcl_digits, data, suite)
    report = summarise(result)
    successes = [a["success_rate"]["k"] for a in report["attacks"]]
    (worst,) = report["worst_case"]
    clean = report["clean"]["accuracy"]["k"]
    assert min(successes) > 15
    assert worst["robust_accuracy"]["k"] == clean - sum(successes)
    assert worst["robust_accuracy"]["n"] == 80
    assert report["attacks"][0]["success_rate"]["n"] == clean
    total = sum(c["robust_accuracy"]["k"] for c in worst["per_class"])
    assert total == worst["robust_accuracy"]["k"]


def test_an_attack_that_lies_is_not_believed(
    pcl_digits: Adapter, digits: Dataset, own_attack: Callable[..., None]
) -> None:
    data = digits.balanced_subset(20)

    def far_away(model, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        return 1 - images  # fools the model, far outside the ball

    own_attack(far_away)
    result = run_suite(pcl_digits, data, suite_of(attack_spec()))
    (outcome,) = result.outcomes
    assert outcome.norm.max() <= 0.15 + 1e-6
    noise_like = result.clean_correct.sum() - outcome.success(LINF).sum()
    assert noise_like > 0  # inverted images, cut to the ball, don't fool everything


def test_a_failing_attack_spoils_its_own_cell_only(
    pcl_digits: Adapter, digits: Dataset, own_attack: Callable[..., None]
) -> None:
    calls: list[int] = []

    def breaks_later(model, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        calls.append(len(images))
        if len(calls) == 2:
            raise ValueError("no gradient today")
        return images

    own_attack(breaks_later)
    suite = suite_of(
        attack_spec(), attack_spec("gaussian_noise", library="robusteval", attack="gaussian_noise")
    )
    result = run_suite(pcl_digits, digits.balanced_subset(80), suite)
    report = summarise(result)
    failed, fine = report["attacks"]
    assert report["status"] == "incomplete"
    assert failed["status"] == "failed"
    assert failed["reason"] == "ValueError: no gradient today"
    assert failed["robust_accuracy"] is failed["success_rate"] is None
    assert fine["status"] == "done"
    assert fine["robust_accuracy"]["n"] == 80
    (worst,) = report["worst_case"]
    assert worst["robust_accuracy"] is None
    assert not worst["complete"]
    assert worst["at_most"]["n"] == 80
    assert all(c["robust_accuracy"] is None for c in worst["per_class"])
    assert sum(c["at_most"]["k"] for c in worst["per_class"]) == worst["at_most"]["k"]


def test_nan_images_fail_the_cell(
    pcl_digits: Adapter, digits: Dataset, own_attack: Callable[..., None]
) -> None:
    own_attack(lambda model, images, labels, threat, *, seed: images * float("nan"))
    (outcome,) = run_suite(pcl_digits, digits.balanced_subset(20), suite_of(attack_spec())).outcomes
    assert outcome.status == "failed"
    assert "NaN" in outcome.reason


def test_a_time_limit_leaves_no_number(pcl_digits: Adapter, digits: Dataset) -> None:
    suite = unprobed("full").only(["square"])
    result = run_suite(pcl_digits, digits.balanced_subset(40), suite, time_limit=1e-6)
    report = summarise(result)
    for attack in report["attacks"]:
        assert attack["status"] == "not_finished"
        assert "time limit" in attack["reason"]
        assert attack["robust_accuracy"] is None
    assert all(w["robust_accuracy"] is None for w in report["worst_case"])


def test_restarts_go_to_survivors_only(
    pcl_digits: Adapter, digits: Dataset, own_attack: Callable[..., None]
) -> None:
    sizes: list[int] = []
    seeds: list[int] = []
    pgd = Call("torchattacks", "PGD", {"alpha": 0.02, "steps": 4})

    def spied(model, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        sizes.append(len(images))
        seeds.append(seed)
        return pgd(model, images, labels, threat, seed).images

    own_attack(spied)
    data = digits.balanced_subset(40)
    (outcome,) = run_suite(pcl_digits, data, suite_of(attack_spec(restarts=3))).outcomes
    assert len(sizes) == len(set(seeds)) == 3
    assert sizes[0] == outcome.attacked.sum() > sizes[1] >= sizes[2]
    assert outcome.success(LINF).sum() >= sizes[0] - sizes[2]


def test_only_correct_samples_are_attacked(
    digits: Dataset, own_attack: Callable[..., None]
) -> None:
    model = linear_model(torch.zeros(10, 64), torch.eye(10)[3])  # always says 3
    seen: list[Tensor] = []

    def spied(model, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        seen.append(labels)
        return images

    own_attack(spied)
    result = run_suite(model, digits.balanced_subset(50), suite_of(attack_spec()))
    assert torch.cat(seen).tolist() == [3] * 5
    report = summarise(result)
    assert report["clean"]["accuracy"]["k"] == 5
    assert report["attacks"][0]["robust_accuracy"]["k"] == 5
    assert report["attacks"][0]["success_rate"] == {
        "value": 0.0,
        "low": 0.0,
        "high": pytest.approx(0.4345, abs=1e-3),
        "k": 0,
        "n": 5,
    }


def test_a_model_that_is_never_right_has_no_success_rate(digits: Dataset) -> None:
    data = digits.take(torch.nonzero(digits.labels != 3)[:, 0][:20])
    model = linear_model(torch.zeros(10, 64), torch.eye(10)[3])
    report = summarise(run_suite(model, data, read_suite("quick")))
    assert report["clean"]["accuracy"]["k"] == 0
    assert all(a["success_rate"] is None for a in report["attacks"])
    assert report["attack_detection"][0]["status"] == "empty"


class Randomised(nn.Module):
    """A linear layer under noise as large as its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits + torch.randn_like(logits)


class BatchDependent(nn.Module):
    """Normalises by the batch's own mean."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)[:, :10]
        return flat - flat.mean(0)


@pytest.mark.parametrize("module", [Randomised(), BatchDependent()])
def test_models_that_change_their_mind_are_flagged(module: nn.Module, digits: Dataset) -> None:
    suite = read_suite("quick").only(["fgsm"])
    result = run_suite(Adapter(module, 10), digits.balanced_subset(40), suite)
    found = {f.check: f for f in findings_of(result)}
    assert found["steady predictions"].verdict == "broken"
    assert "randomised, or depends on its batch" in found["steady predictions"].advice


def test_steady_models_are_not_flagged(pcl_digits: Adapter, digits: Dataset) -> None:
    suite = read_suite("quick").only(["fgsm"])
    report = summarise(run_suite(pcl_digits, digits, suite))
    assert {f["verdict"] for f in report["findings"]} == {"ok"}
    assert report["attacks"][0]["findings"] == []


class NaNFarOut(nn.Module):
    """Right on clean digits, NaN once any pixel leaves their grid of sixteenths."""

    def __init__(self, model: Adapter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        off_grid = ((images * 16).round() / 16 != images).flatten(1).any(1, keepdim=True)
        return torch.where(off_grid, torch.nan, self.model(images))


def test_a_model_driven_to_nan_is_not_fooled_but_failed(
    pcl_digits: Adapter, digits: Dataset
) -> None:
    suite = unprobed("quick").only(["fgsm"])
    model = Adapter(NaNFarOut(pcl_digits), 10)
    (outcome,) = run_suite(model, digits.balanced_subset(20), suite).outcomes
    assert outcome.status == "failed"
    assert "logits on attacked images are NaN or infinite" in outcome.reason
    assert not outcome.fooled.any()


@pytest.mark.usefixtures("as_in_use")
def test_a_model_driven_to_nan_still_gets_its_report(pcl_digits: Adapter, tmp_path: Path) -> None:
    """Diagnostics look at noisy images, too, and JSON knows no NaN."""
    chosen = Options(samples=20, threads=1, out=tmp_path, only=("fgsm",))
    model = Adapter(NaNFarOut(pcl_digits), 10)
    report = api.evaluate(model, "quick", dataset="digits", name="mine", options=chosen)
    assert report.content["status"] == "incomplete"
    assert report.content["diagnostics"]["wobble"] == {"relative": 1.0}
    lacking = {m["name"]: m["reason"] for m in report.content["missing"]}
    assert "scores that are NaN or infinite" in lacking["gaussian_noise"]
    assert (report.folder / "report.html").is_file()


def test_the_same_spec_gives_the_same_outcomes(pcl_digits: Adapter, digits: Dataset) -> None:
    data = digits.balanced_subset(20)
    suite = unprobed("quick")
    first, again = (run_suite(pcl_digits, data, suite) for _ in range(2))
    other = run_suite(pcl_digits, data, suite, seed=1)
    for a, b in zip(first.outcomes, again.outcomes, strict=True):
        np.testing.assert_array_equal(a.norm, b.norm)
        np.testing.assert_array_equal(a.fooled, b.fooled)
    assert any(
        not np.array_equal(a.norm, b.norm, equal_nan=True)
        for a, b in zip(first.outcomes, other.outcomes, strict=True)
    )


def test_order_and_company_change_nothing(pcl_digits: Adapter, digits: Dataset) -> None:
    data = digits.balanced_subset(40)
    suite = unprobed("quick")
    together = {o.cell.key: o.norm for o in run_suite(pcl_digits, data, suite).outcomes}
    (alone,) = run_suite(pcl_digits, data, suite.only(["pgd10"])).outcomes
    np.testing.assert_array_equal(alone.norm, together[alone.cell.key])


class Meddling(nn.Module):
    """Batch norm whose statistics an attack in training mode would move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(self.norm(images.flatten(1)))
        return out


def test_torchattacks_cannot_leave_the_model_in_training_mode(digits: Dataset) -> None:
    torch.manual_seed(0)
    model = Adapter(Meddling(), 10)
    before = state_digest(model)
    suite = read_suite("quick").only(["fgsm", "pgd10"])
    result = run_suite(model, digits.balanced_subset(40), suite)
    assert result.complete
    assert state_digest(model) == before
    assert not any(m.training for m in model.modules())


def test_an_attack_that_changes_the_model_has_no_number(
    digits: Dataset, own_attack: Callable[..., None]
) -> None:
    """Its cell fails, the model is put back, and the other cells are as without it."""
    model = linear_model(torch.rand(10, 64), torch.zeros(10))
    before = state_digest(model)

    def meddles(counted, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        counted.adapter.module[1].bias.data += 1
        return images

    own_attack(meddles)
    noise = attack_spec("gaussian_noise", attack="gaussian_noise")
    data = digits.balanced_subset(20)
    result = run_suite(model, data, suite_of(attack_spec(), noise))
    meddler, untouched = result.outcomes
    assert meddler.status == "failed"
    assert "changed the model" in meddler.reason
    assert state_digest(model) == before
    (alone,) = run_suite(model, data, suite_of(noise)).outcomes
    np.testing.assert_array_equal(untouched.norm, alone.norm)
    found = {f.check: f for f in findings_of(result)}
    assert found["unchanged model"].verdict == "broken"


def test_a_batch_that_does_not_fit_is_halved(
    pcl_digits: Adapter, digits: Dataset, own_attack: AddAttack
) -> None:
    sizes: list[int] = []

    def large(model, images, labels, threat, *, seed):  # type: ignore[no-untyped-def]
        sizes.append(len(images))
        if len(images) > 10:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return AttackResult(images + 0.01)

    own_attack(large)
    images, labels = digits.images(slice(0, 37)), digits.labels[:37]
    counted = Counted(pcl_digits, len(images))
    cell = Cell(attack_spec(), (LINF,), {})
    found = _attack(counted, cell, images, labels, LINF, 0)
    torch.testing.assert_close(found.images, images + 0.01)
    assert max(s for s in sizes if s <= 10) == 10
    assert any("halved" in note for note in found.notes)


def test_what_fails_otherwise_is_not_tried_on_half_a_batch(
    pcl_digits: Adapter, digits: Dataset, own_attack: AddAttack
) -> None:
    def broken(*given: object, seed: int) -> Tensor:
        raise RuntimeError("something else")

    own_attack(broken)
    images, labels = digits.images(slice(0, 37)), digits.labels[:37]
    with pytest.raises(RuntimeError, match="something else"):
        _attack(Counted(pcl_digits, 37), Cell(attack_spec(), (LINF,), {}), images, labels, LINF, 0)


def test_images_outside_the_unit_range_are_refused(pcl_digits: Adapter, digits: Dataset) -> None:
    data = digits.balanced_subset(10)
    shifted = Dataset(
        data.info, data.split, data.pixels * 2 - 1, data.labels, data.class_names, data.indices
    )
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        run_suite(pcl_digits, shifted, read_suite("quick"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_broken_logits_is_refused(value: float, digits: Dataset) -> None:
    model = linear_model(torch.zeros(10, 64), torch.full((10,), value))
    with pytest.raises(RobustevalError, match="NaN or infinite"):
        run_suite(model, digits.balanced_subset(10), read_suite("quick"))


def test_attacks_without_eps_count_within_it_and_tell_the_rest(
    pcl_digits: Adapter, digits: Dataset
) -> None:
    data = digits.balanced_subset(30)
    suite = unprobed("full").only(["deepfool"])
    suite = suite.model_copy(update={"threats": {"L2": ["0.2", "0.6", "8"]}})
    report = summarise(run_suite(pcl_digits, data, suite))
    rates = [a["success_rate"]["k"] for a in report["attacks"]]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] == report["attacks"][0]["unbounded"]["success_rate"]["k"]
    assert 0.1 < report["attacks"][0]["unbounded"]["median_norm"] < 2
    assert all(
        a["verified"]["largest_norm"] <= float(a["threat"]["radius"]) + 1e-6
        for a in report["attacks"]
        if a["verified"]["counted"]
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_two_and_three_classes_run_the_whole_suite(classes: int, digits: Dataset) -> None:
    torch.manual_seed(0)
    keep = digits.labels < classes
    data = digits.take(torch.nonzero(keep)[:, 0]).balanced_subset(4 * classes)
    prototypes = torch.stack(
        [digits.images()[digits.labels == k].mean(0).flatten() for k in range(classes)]
    )[:, None]
    model = pixel_prototypes(prototypes, similarity="sql2")
    suite = read_suite("full")
    few = [
        a.model_copy(update={"parameters": {**a.parameters, "n_queries": 50}})
        if a.name == "square"
        else a
        for a in suite.attacks
        if a.name != "autoattack"
    ]
    result = run_suite(model, data, suite.model_copy(update={"attacks": few}))
    assert [(o.cell.key, o.reason) for o in result.outcomes if o.status != "done"] == []


def test_detection_rows(pcl_digits: Adapter, ce_digits: Adapter, digits: Dataset) -> None:
    data = digits.balanced_subset(20)
    report = summarise(run_suite(pcl_digits, data, unprobed("quick")))
    names = [(r["detector"], r["against"]) for r in report["outliers"]]
    assert len(names) == 4 * 3
    assert {a for _, a in names} == {"photo_crops", "gaussian_noise", "uniform_noise"}
    for row in report["outliers"]:
        assert (row["n_in"], row["n_out"]) == (20, 20)
        for metric in ("auroc", "aupr_in", "aupr_out", "fpr95", "detection_error"):
            cell = row[metric]
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
    pgd = next(a for a in report["attacks"] if a["name"] == "pgd10")
    correct, broken = report["clean"]["accuracy"]["k"], pgd["success_rate"]["k"]
    due = {"strict": (correct, broken), "worst_case": (correct, broken), "paper": (20, correct)}
    assert {row["reading"] for row in report["attack_detection"]} == set(due)
    for row in report["attack_detection"]:
        assert (row["n_in"], row["n_out"]) == due[row["reading"]]
    without = summarise(run_suite(ce_digits, data, unprobed("quick").only(["fgsm"])))
    assert "nearest_prototype" not in {r["detector"] for r in without["outliers"]}
