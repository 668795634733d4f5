"""A user's surrogate: its gradients come second, the model judges, and evidence names it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robusteval
from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError, EvidenceError, RobustevalError
from robusteval.evidence.judge import judge
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import Norm, ThreatModel, parse_eps
from tests.helpers.commands import cli, refused

SUITE = """
name = "led"
threats = { Linf = ["0.02"] }

[[attacks]]
name = "adaptive"
title = "Adaptive (ours)"
library = "robusteval"
attack = "adaptive"
norms = ["Linf"]
parameters = { passes_per_sample = 60 }
"""


class Table(nn.Module):
    """A linear model; blind, it leaves torch where nothing can follow."""

    def __init__(self, blind: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn((4, 36), generator=generator))
        self.blind = blind

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1) - 0.5
        if not self.blind:
            return flat @ self.weight.T
        found = np.asarray([row @ self.weight.detach().numpy().T for row in flat.tolist()])
        return torch.as_tensor(found, dtype=torch.float32)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "led.toml"
    path.write_text(SUITE)
    return path


def own_images() -> tuple[np.ndarray, np.ndarray]:
    images = 0.4 + 0.2 * np.random.default_rng(1).random((24, 1, 6, 6), np.float32)
    with torch.no_grad():
        labels = Table(False)(torch.as_tensor(images)).argmax(1).numpy()
    return images, labels


def test_a_module_leads_where_nothing_can_follow_the_model(tmp_path: Path, suite: Path) -> None:
    images, labels = own_images()
    blind, guide = Table(blind=True), Table(blind=False)
    common = {"suite": suite, "out": tmp_path / "runs", "classes": 4}
    led = robusteval.evaluate(blind, images, labels, surrogate=guide, **common)
    assert led.worst_case.iloc[0]["robust"] == 0
    told = led.findings.set_index("check").loc["surrogate", "measured"]
    assert "Adaptive (ours) follows gradients of a module given from Python" in told
    given = {"model": blind, "images": images, "labels": labels}
    checks = robusteval.verify(led.folder, **given, surrogate=guide, again=1)
    assert [check for check in checks if not check.held] == []
    with pytest.raises(EvidenceError, match="surrogate was given from Python"):
        robusteval.verify(led.folder, **given)
    with pytest.raises(EvidenceError, match="not the one that this run names"):
        robusteval.verify(
            led.folder, **given, surrogate=nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
        )


def test_it_breaks_what_the_first_stages_leave() -> None:
    """Ten of 24 here; without it random search is left."""
    images, labels = (torch.as_tensor(one) for one in own_images())
    threat = ThreatModel("Linf", parse_eps("0.02"))
    given = (Table(blind=True), images, labels, threat)
    alone = adaptive_result(*given, passes_per_sample=60)
    led = adaptive_result(*given, passes_per_sample=60, surrogate=Table(blind=False))
    broke = {stage.name: stage.broke for stage in led.stages}
    assert broke["surrogate"] == 10
    assert "more search" not in broke
    assert "more search" in [stage.name for stage in alone.stages]


def test_an_entry_leads_and_the_run_is_another_one(tmp_path: Path, suite: Path) -> None:
    common = {"suite": suite, "out": tmp_path, "samples": 8}
    plain = robusteval.evaluate("ce_digits", **common)
    led = robusteval.evaluate("ce_digits", surrogate="mpat_digits", **common)
    assert plain.folder != led.folder
    assert "surrogate" not in set(plain.findings["check"])
    rows = [(report.folder / "row.csv").read_text().splitlines() for report in (plain, led)]
    assert "surrogate" not in rows[0][0]
    assert rows[1][0].endswith(",surrogate")
    told = led.content["surrogate"]
    assert told["name"] == "mpat_digits"
    assert all(row.endswith(f",mpat_digits {told['digest'][:8]}") for row in rows[1][1:])
    checks = robusteval.verify(led.folder, again=1)
    assert [check for check in checks if not check.held] == []
    run = ["run", "--model", "ce_digits", "--suite", str(suite), "--samples", "8"]
    again = cli(*run, "--out", str(tmp_path), "--surrogate", "mpat_digits")
    assert again.exit_code == 0
    assert led.folder.name in again.output


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.15), ("L2", 0.6)])
def test_a_bad_surrogate_hides_nothing(digits: Dataset, norm: Norm, eps: float) -> None:
    """What the model's own gradients break without it they break first."""
    model, guide = load_model(find_entry("ce_at_digits")), load_model(find_entry("mpat_digits"))
    data = digits.balanced_subset(30)
    given = (data.images(), data.labels, ThreatModel(norm, eps))
    alone, led = (
        adaptive(model, *given, passes_per_sample=100, surrogate=one) for one in (None, guide)
    )
    alone, led = (judge(model, found, *given, bound=True).fooled for found in (alone, led))
    assert alone.any()
    assert not (alone & ~led).any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_surrogates_gradients_say_nothing_of_the_model(norm: Norm) -> None:
    """What has none of its own is still searched at random afterwards."""
    images, labels = map(torch.as_tensor, own_images())
    counted = as_counted(Table(blind=True), images, labels)
    counted.surrogate = as_counted(Table(blind=False), images, labels).adapter
    cascade = Cascade(counted, images, labels, ThreatModel(norm, 0.01), 0, 30)
    cascade.left_out = frozenset({"margin", "flip", "aim", "polish", "square"})
    cascade.left_out |= {"through", "more steps", "more search", "inward", "AutoAttack"}
    assert [stage.name for stage in cascade.run().stages] == ["surrogate"]
    assert cascade.leader is None
    assert not cascade.search.sloped


def test_an_entry_of_other_data_is_refused(tmp_path: Path) -> None:
    run = ["run", "--model", "ce_digits", "--suite", "full", "--samples", "8"]
    refused(
        cli(*run, "--out", str(tmp_path), "--surrogate", "ce_mnist"),
        "the surrogate ce_mnist is for mnist, the model for digits",
    )


@pytest.mark.parametrize(
    ("surrogate", "error", "said"),
    [
        ("nowhere", RobustevalError, "nowhere"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 7)), AttackError, "7 classes|fails|logits"),
        (nn.Linear(3, 4), AttackError, "the surrogate"),
    ],
)
def test_what_can_not_lead_is_refused(
    tmp_path: Path, suite: Path, surrogate: object, error: type[Exception], said: str
) -> None:
    images, labels = own_images()
    with pytest.raises(error, match=said):
        robusteval.evaluate(
            Table(False), images, labels, suite=suite, out=tmp_path, surrogate=surrogate
        )


def test_a_suite_that_nothing_leads_is_refused(tmp_path: Path) -> None:
    run = ["run", "--model", "ce_digits", "--only", "fgsm", "--samples", "8"]
    refused(
        cli(*run, "--out", str(tmp_path), "--surrogate", "mpat_digits"),
        "a surrogate leads the attack adaptive",
    )
