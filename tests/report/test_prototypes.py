"""The section on prototypes, beside answers that are known in closed form."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval import api
from robusteval.attacks.registry import OWN
from robusteval.attacks.results import AttackResult
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError, EvidenceError
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.places import CLOSE, first_of_each, prototype_layers
from robusteval.report.page import render_html, render_markdown
from tests.helpers.attacks import record_of
from tests.helpers.forging import change_rows, rows_file
from tests.helpers.known import pixel_prototypes
from tests.helpers.runs import options, plain_suite_in

SUITE = """
name = "goals"
[[attacks]]
name = "goal"
title = "To the next class"
library = "robusteval"
attack = "goal"
norms = ["Linf"]
"""
SAMPLES = 60
LAYERS, CONTRADICTS = "prototype_layers", "model.prototype_layers contradicts"


def prototypes_of(digits: Dataset) -> Tensor:
    """Three for each class (10, 3, 64): its mean, that mean again (nearly so in class 0), and a
    corner where no digit is; classes 8 and 9 share theirs."""
    images = digits.images(slice(0, len(digits))).flatten(1)
    means = torch.stack([images[digits.labels == k].mean(0) for k in range(10)])
    corners = torch.ones(10, 64)
    corners[:9, :9] -= torch.eye(9)
    corners[9] = corners[8]
    placed = torch.stack([means, means, corners], 1)
    placed[0, 1, 0] += 1e-5
    return placed


@pytest.fixture(scope="module")
def model(digits: Dataset) -> PrototypeAdapter:
    return pixel_prototypes(prototypes_of(digits))


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, model: PrototypeAdapter
) -> Iterator[Callable[[Adapter], api.Report]]:
    means = model.module.prototypes["pixels"].detach()[:, 0].view(10, 1, 8, 8)

    def goal(seen: Any, images: Tensor, labels: Tensor, *_: Any, **__: Any) -> AttackResult:
        """The mean of the next class, of images of even classes."""
        moved = torch.where(labels.view(-1, 1, 1, 1) % 2 == 0, means[(labels + 1) % 10], images)
        return AttackResult(moved)

    out = tmp_path_factory.mktemp("runs")
    (out / "goals.toml").write_text(SUITE)

    def evaluate(adapter: Adapter, name: str = "pixels") -> api.Report:
        given = options(out, samples=SAMPLES, batch_size=25, eps=("1",))
        return api.evaluate(adapter, out / "goals.toml", "digits", name, options=given)

    with OWN.having("goal", record_of("goal", goal)):
        yield evaluate


@pytest.fixture(scope="module")
def report(run: Callable[[Adapter], api.Report], model: PrototypeAdapter) -> api.Report:
    return run(model)


@pytest.fixture
def copied(report: api.Report, tmp_path: Path) -> Path:
    return Path(shutil.copytree(report.folder, tmp_path / "copied"))


def test_counts_are_numpys(report: api.Report, digits: Dataset, model: PrototypeAdapter) -> None:
    data = digits.balanced_subset(SAMPLES)
    images = data.images(slice(0, SAMPLES)).flatten(1).numpy().astype(np.float64)
    placed = model.module.prototypes["pixels"].detach().numpy().astype(np.float64)
    apart = np.square(images[:, None, None] - placed[None]).sum(3)[:, :, [0, 2]]  # without copies
    goes = apart.reshape(SAMPLES, 20).argmin(1)
    of_class = Counter((goes // 2).tolist())
    section = report.content["prototypes"]
    assert section["samples"] == SAMPLES
    (layer,) = section["layers"]
    classes, right = layer["classes"], layer["nearest_is_own"]
    rest = {key: layer[key] for key in layer if key not in ("classes", "nearest_is_own")}
    assert rest == {
        "layer": "pixels",
        "per_class": 3,
        "features": 64,
        "prototypes": 30,
        "distinct": 19,
        "coinciding": {"own_class": 10, "other_class": 1, "equal": 10},
        "unused": 19 - len(set(goes.tolist())),
    }
    assert (
        right["k"]
        == (goes // 2 == data.labels.numpy()).sum()
        == report.content["clean"]["accuracy"]["k"]
    )
    assert [row["nearest"] for row in classes] == [of_class[k] for k in range(10)]
    assert {(row["distinct"], row["unused"]) for row in classes} == {(2, 1)}


def test_wrong_samples_go_where_the_attack_puts_them(report: api.Report, digits: Dataset) -> None:
    labels = digits.balanced_subset(SAMPLES).labels.numpy()
    clean, attacked = report.content["prototypes"]["wrong"]
    missed = SAMPLES - report.content["clean"]["accuracy"]["k"]
    assert clean["threat"] is None
    # The nearest prototype decides, so that a wrong sample is nearest to another class's.
    assert (clean["samples"], clean["other_class"], clean["own_class"]) == (missed, missed, 0)
    assert missed == sum(goal["samples"] for goal in clean["goals"]) > 0
    assert attacked["threat"]["norm"] == "Linf"
    broken = report.content["attacks"][0]["success_rate"]["k"]
    assert attacked["samples"] == attacked["other_class"] == broken
    right = Counter(labels[labels % 2 == 0].tolist())
    for goal in clean["goals"]:
        for came in goal["from"]:
            right[int(came["class"])] -= came["samples"]
    told = {(goal["class"], goal["prototype"]): goal for goal in attacked["goals"]}
    assert told.keys() == {(str(k + 1), 0) for k in range(0, 10, 2)}
    for (name, _), goal in told.items():
        source = int(name) - 1
        assert goal["samples"] == right[source]
        assert goal["from"] == [{"class": str(source), "samples": right[source]}]


def test_pages_and_table(report: api.Report) -> None:
    html, text = render_html(report.content, []), render_markdown(report.content)
    assert "<h2>Prototypes</h2>" in html
    assert "and 1 with another class's" in html
    assert "| pixels | 3 | 30 | 19 | 10 | 1 | 9 |" in text
    assert "from 0" in text
    table = report.prototypes
    assert list(table["class"]) == [str(k) for k in range(10)]
    assert set(table.distinct) == {2}
    assert table.nearest.sum() == SAMPLES


def test_coinciding_by_hand() -> None:
    """Scale and place don't matter; chains coincide, and what is farther than the bound doesn't."""
    at = np.array([0, 1, 0, 1, 1, -1, -1.0])
    at += at.std() * CLOSE * np.array([0, 0, 0, 0.9, 1.8, 0, -1.1])
    points = np.stack([at, np.zeros(7)], 1)
    for scale, shift in ((1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, 50.0)):
        assert first_of_each(scale * points + shift).tolist() == [0, 1, 0, 1, 1, 5, 6]
    assert first_of_each(np.ones((4, 3))).tolist() == [0, 0, 0, 0]
    assert first_of_each(np.eye(2000, 4) + 1e-2 * np.arange(2000)[:, None]).tolist() == [
        *range(2000)
    ]


def test_directions_alone_count_under_cosine() -> None:
    along = torch.tensor([[[1.0, 0, 0, 0], [3.0, 0, 0, 0]], [[0, 1.0, 0, 0], [0, 1.0, 1.0, 0]]])
    (apart,) = prototype_layers(pixel_prototypes(along))
    (cosine,) = prototype_layers(pixel_prototypes(along, similarity="cosine"))
    assert apart.to_json()["coinciding"] == []
    assert cosine.to_json()["coinciding"] == [[1, 0]]


def test_without_prototypes_there_is_no_section(tmp_path: Path) -> None:
    suite = plain_suite_in(tmp_path, "quick")
    report = api.evaluate("ce_digits", suite, samples=10, only="fgsm", out=tmp_path)
    assert report.content["prototypes"] is None
    assert "Prototypes" not in (report.folder / "report.html").read_text("utf-8")
    assert "## Prototypes" not in (report.folder / "report.md").read_text("utf-8")
    assert report.prototypes.empty
    assert "prototype_layers" not in json.loads((report.folder / "run.json").read_text())["model"]


class Hidden(Adapter):
    """Prototypes of a foreign model, of which only distances are known."""

    layers = ("last",)
    prototypes_per_class = 3

    def distances(self, images: Tensor) -> Tensor:
        found: Tensor = self.module.distances(images)  # type: ignore[operator]
        return found

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {"last": Hidden.distances(self, images)}


def test_distances_alone_give_what_they_can(
    run: Callable[[Adapter], api.Report], model: PrototypeAdapter, report: api.Report
) -> None:
    section = run(Hidden(model, 10), "hidden").content["prototypes"]
    (layer,), (shown,) = section["layers"], report.content["prototypes"]["layers"]
    assert (layer["features"], layer["distinct"], layer["coinciding"]) == (None, None, None)
    assert layer["nearest_is_own"] == shown["nearest_is_own"]
    assert [row["nearest"] for row in layer["classes"]] == [
        row["nearest"] for row in shown["classes"]
    ]


def test_distances_of_another_shape_are_refused(
    run: Callable[[Adapter], api.Report], model: PrototypeAdapter
) -> None:
    class Flat(Hidden):
        """Only where there are several: what one image gives is looked at before a run."""

        def distances(self, images: Tensor) -> Tensor:
            found = super().distances(images)
            return found.flatten(1) if len(images) > 2 else found

    with pytest.raises(AttackError, match=r"distances to the prototypes of last are \(25, 30\)"):
        run(Flat(model, 10), "flat")


def clean_file(folder: Path) -> Path:
    return folder / "evidence" / "clean-0000.parquet"


def told(folder: Path, change: Callable[[Any], Any]) -> None:
    path = folder / "run.json"
    record = json.loads(path.read_text())
    change(record["model"])
    path.write_text(json.dumps(record))


def first_goes_elsewhere(values: np.ndarray) -> np.ndarray:
    values[0] = (values[0] + 3) % 27
    return values


FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a clean sample elsewhere": (
        lambda f: change_rows(clean_file(f), nearest_0=first_goes_elsewhere),
        "nearest prototypes",
    ),
    "a clean sample at the copy": (
        lambda f: change_rows(clean_file(f), nearest_0=lambda v: v + 1),
        "nearest prototypes",
    ),
    "a success elsewhere": (
        lambda f: change_rows(rows_file(f, "goal"), nearest_0=lambda v: np.where(v < 0, v, 0)),
        "nearest prototypes",
    ),
    "no success anywhere": (
        lambda f: change_rows(rows_file(f, "goal"), nearest_0=lambda v: np.full_like(v, -1)),
        "nearest prototypes",
    ),
    "a failure somewhere": (
        lambda f: change_rows(rows_file(f, "goal"), nearest_0=lambda v: np.where(v < 0, 3, v)),
        "nearest prototypes",
    ),
    "fewer that coincide": (
        lambda f: told(f, lambda m: m[LAYERS][0]["coinciding"].pop()),
        "what the report describes",
    ),
    "more features": (
        lambda f: told(f, lambda m: m[LAYERS][0].update(features=65)),
        "what the report describes",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_verify_finds(copied: Path, model: PrototypeAdapter, forged: str) -> None:
    change, check = FORGED[forged]
    change(copied)
    api.rebuild_report(copied)
    assert check in [c.name for c in api.verify(copied, model) if not c.held]


def test_what_was_made_holds(report: api.Report, model: PrototypeAdapter) -> None:
    assert [c.name for c in api.verify(report.folder, model, again=9) if not c.held] == []


def test_doing_it_again_finds_the_rest(copied: Path, model: PrototypeAdapter) -> None:
    """What was broken by another attack before has no stored image."""
    for path in (copied / "evidence").glob("attack-*.parquet"):
        change_rows(path, nearest_0=lambda v: np.where(v < 0, v, 0))
    wrong = [c.name for c in api.verify(copied, model, again=9) if not c.held]
    assert "jobs done again" in wrong


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop(LAYERS), CONTRADICTS),
        (
            lambda m: m[LAYERS][0].update(layer="other"),
            CONTRADICTS,
        ),
        (
            lambda m: m[LAYERS][0].update(coinciding=None),
            CONTRADICTS,
        ),
        (
            lambda m: m[LAYERS][0]["coinciding"].append([30, 0]),
            CONTRADICTS,
        ),
        (lambda m: m[LAYERS][0].update(equal=12), CONTRADICTS),
        (
            lambda m: m[LAYERS][0].update(per_class=1),
            CONTRADICTS,
        ),
        (lambda m: m[LAYERS][0].update(per_class=0), "corrupt"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    copied: Path, change: Callable[[Any], Any], said: str
) -> None:
    told(copied, change)
    with pytest.raises(EvidenceError, match=said):
        api.rebuild_report(copied)


def test_prototypes_that_there_are_not_are_refused(copied: Path) -> None:
    change_rows(clean_file(copied), nearest_0=lambda v: v + 30)
    with pytest.raises(EvidenceError, match=r"names prototype \d+ of 30"):
        api.rebuild_report(copied)
