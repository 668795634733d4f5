"""Curves over budgets: measured once, stored, told as they are; masks change no class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import attacks, curves, masks, rivals, stored
from robusteval.attacks.counting import Counted
from robusteval.attacks.registry import find
from robusteval.data.datasets import load_dataset
from robusteval.types import ThreatModel

MODEL = "ce_at_digits"
LINF = ThreatModel("Linf", "0.15")


def result(attack: str, robust: int, passes: float = 100, model: str = MODEL) -> attacks.Result:
    weights = attacks.weights_of(masks.of_entry(model))
    return attacks.Result(
        *(model, weights, "Linf", "0.15", attack, 100, 90, robust, passes, 0.0, 1.0, "two cores"),
        version=rivals.version_of(attack),
    )


def test_curves_are_measured_once_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "curves.csv"
    kinds = ["cr", "fmn"]
    asked = ["curves", "--model", MODEL, "--samples", "8", "--budgets", "30", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*asked, "--attacks", *kinds])
    assert curves.main() == 0
    first = stored.read(out, attacks.Result)
    assert [r.attack for r in first] == ["cr@30", "fmn@30", "cr"]
    assert all(4 <= r.robust <= r.correct and 0 < r.forward_equivalents <= 36 for r in first[:2])
    assert "| CR | " in capsys.readouterr().out
    changed = [stored_then(r, version=0) if r.attack == "cr@30" else r for r in first]
    stored.write(out, changed)
    ran: list[str] = []

    def run(name: str, attack: str, *_: Any) -> attacks.Result:
        ran.append(attack)
        return first[0]

    monkeypatch.setattr(attacks, "run", run)
    assert curves.main() == 0
    assert ran == ["cr@30"]  # made by another version of the attack
    monkeypatch.setattr(curves, "hardware_name", lambda _: "another machine")
    assert curves.main() == 0
    assert len(ran) == 1 + len(first)


def stored_then(result: attacks.Result, **changed: Any) -> attacks.Result:
    return attacks.Result(**{**vars(result), **changed})


@pytest.mark.parametrize("kind", [kind for kind in rivals.CURVES if kind != "adaptive"])
def test_a_budget_is_what_a_survivor_takes(kind: str) -> None:
    """On a model that nothing breaks: at most so many passes, and not much less."""
    model = masks.loaded("ce_at_digits")
    data = load_dataset("digits", "test").balanced_subset(8)
    images, labels = data.images(), model(data.images()).argmax(1)
    threat = ThreatModel("Linf", "1/100000")
    for budget in (30, 120):
        counted = Counted(model, len(images))
        rivals.ATTACKS_BY_BUDGET[f"{kind}@{budget}"](counted, images, labels, threat)
        spent = float(counted.passes(len(images)).mean())
        assert 0.75 * budget <= spent <= budget + 1, budget


def test_tables_say_what_was_measured_and_what_was_not() -> None:
    rows = [
        *(result("adaptive@30", 50, 62), result("adaptive@60", 49)),
        *(result("cr@30", 55, 27), result("cr@60", 47), result("cr", 48, 250)),
    ]
    told = list(curves.table(rows))
    assert told[0] == "**`ce_at_digits`**, L∞ 0.15, 90 of 100 right:"
    assert told[4].startswith("| `adaptive` | 50.0 % [40.4, 59.6] (50/100), 62 | 49.0 % ")
    assert told[5].startswith("| CR | 55.0 % ")
    assert told[7] == "At its own cost: CR as published: 48.0 % [38.5, 57.7] (48/100), 250."
    assert len(told) == 9
    assert list(curves.problems(rows)) == ["ce_at_digits at 60: cr leaves 47, adaptive 49"]
    assert list(curves.problems(rows[:3])) == []
    assert list(curves.summary(rows))[2] == "| CR | 0, 0, 1 | 1, 0, 0 | – | – | – | – |"
    covered = curves.coverage(rows)
    assert covered.startswith(f"Measured: 1 of {len(curves.every_model())} models.  Not measured:")
    assert "`mpat_at_cifar10`" in covered
    assert "`ce_at_digits+tanh`" in covered


def test_two_classes_have_no_targeted_apgd() -> None:
    assert curves.names_of(["cr", "apgd_t"], [30], 2) == ["cr@30", "cr"]
    assert curves.names_of(["cr", "apgd_t"], [30], 10) == ["cr@30", "apgd_t@30", "cr"]
    assert attacks.left_out("cr@30", 10, ThreatModel("L2", "1")) == "which is of L∞ alone"
    assert attacks.left_out("apgd_t", 2, LINF) == "for want of classes"
    assert attacks.left_out("pma", 2, LINF) == ""


def test_versions_are_those_of_the_projects_own_attacks() -> None:
    for name in ("cr", "cr@60"):
        assert rivals.version_of(name) == find("robusteval", "cr").version
    assert rivals.version_of("adaptive_60") == find("robusteval", "adaptive").version
    for name in ("apgd_t@30", "pgd_100x10", "autoattack", "advlib_fmn"):
        assert rivals.version_of(name) == 0


@pytest.mark.parametrize(
    ("attack", "version", "stands"),
    [
        ("adaptive_60", rivals.version_of("adaptive"), True),
        ("adaptive@30", 7, True),
        ("adaptive", 6, False),
        ("smallest", rivals.version_of("smallest"), True),
        ("smallest", 7, False),
        ("cr@60", 0, False),
        ("autoattack", 5, True),
    ],
)
def test_results_stand_by_versions_that_return_the_same(
    attack: str, version: int, stands: bool
) -> None:
    assert rivals.stands(attack, version) == stands


def test_results_do_not_stand_by_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "version_of", lambda _: 99)
    assert not rivals.stands("adaptive", 7)


@pytest.mark.parametrize("mask", [name for name in masks.MASKS if name != "rounded"])
def test_a_mask_changes_no_class(mask: str) -> None:
    plain, masked = masks.loaded(MODEL), masks.loaded(f"{MODEL}+{mask}")
    images = load_dataset("digits", "test").images(slice(0, 60))
    logits = masked(images)
    top = logits.topk(2, 1).values
    apart = top[:, 0] > top[:, 1]  # squashed logits may be equal in float32
    assert torch.equal(logits.argmax(1)[apart], plain(images).argmax(1)[apart])
    assert apart.float().mean() > 0.5


def test_a_detached_mask_has_no_gradient_near_the_boundary_alone() -> None:
    images = load_dataset("digits", "test").images(slice(0, 60)).requires_grad_()
    top = masks.loaded(MODEL)(images).topk(2, 1).values
    gap, seen = (top[:, 0] - top[:, 1]).detach(), {}
    for mask in ("detached_0.3", "detached_2"):
        model: Callable[..., Any] = masks.loaded(f"{MODEL}+{mask}")
        (slope,) = torch.autograd.grad(model(images).square().sum(), images)
        seen[mask] = slope.flatten(1).abs().sum(1) > 0
    assert torch.equal(seen["detached_0.3"], gap >= 0.3)
    assert torch.equal(seen["detached_2"], gap >= 2)
