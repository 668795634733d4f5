"""Runs on images of the user's own: as sound as any other, from Python and from files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robusteval
from robusteval.boards.publish import add
from robusteval.data.datasets import Dataset
from robusteval.errors import DataError, EvidenceError, RobustevalError
from robusteval.models.adapter import Adapter
from tests.helpers.commands import cli, refused
from tests.helpers.forging import rows_file
from tests.helpers.runs import FEW, hasty_suite

CENTRES = torch.tensor(
    [[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]]
)  # of three classes, on the first two pixels


class Nearest(nn.Module):
    """Logits are minus the squared distances to centres: margins have a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(CENTRES.clone())
        self.dropout = nn.Dropout(0.5)  # whoever forgets eval mode sees it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.dropout(images.flatten(1)[:, :2])
        found: torch.Tensor = -(torch.cdist(first, self.centres) ** 2)
        return found


def points(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 2, 3) around the centres, with the nearest one's number."""
    images = np.random.default_rng(5).random((count, 1, 2, 3), np.float32)
    apart = ((images.reshape(-1, 1, 6)[..., :2] - CENTRES.numpy()) ** 2).sum(2)
    return images, apart.argmin(1)


def radii_l2(images: np.ndarray) -> np.ndarray:
    """The distance to the nearest bisector, which is what an attack in L2 has to go."""
    flat, centres = images.reshape(-1, 6)[:, :2].astype(float), CENTRES.numpy().astype(float)
    squares = ((flat[:, None] - centres) ** 2).sum(2)
    own = squares.argmin(1)
    between = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    rows = np.arange(len(flat))[:, None]
    way = (squares - squares[rows, own[:, None]]) / (2 * between[own] + 1e-300)
    way[rows[:, 0], own] = np.inf
    return way.min(1)


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "few.toml").write_text(FEW)
    return str(tmp_path / "few.toml")


def test_an_own_module_on_own_images_leaves_what_geometry_says(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    near = float(np.sort(radii_l2(images))[20:22].mean())  # a third are nearer to a bisector
    report = robusteval.evaluate(
        Nearest(), images, labels, suite=suite, eps=f"L2:{near:.4f}", only="adaptive", out=tmp_path
    )
    assert report.complete
    (worst,) = report.content["worst_case"]
    inside = images.reshape(-1, 6)[:, :2]
    assert worst["robust_accuracy"]["k"] >= int((radii_l2(images) > near).sum()) == 39
    # The box may hold some back; none of those that lie well inside.
    held = (radii_l2(images) <= near) & (inside.min(1) > near) & (inside.max(1) < 1 - near)
    assert worst["robust_accuracy"]["k"] <= 60 - int(held.sum())


def test_a_plain_module_comes_back_as_it_was(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    model = Nearest().train()
    model.centres.requires_grad_(True)
    report = robusteval.evaluate(model, images, labels, suite=suite, out=tmp_path, only="fgsm")
    assert report.content["clean"]["accuracy"]["value"] == 1.0
    assert model.training
    assert model.dropout.training
    assert model.centres.requires_grad


def test_it_resumes_and_verifies_as_any_run(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    how: dict[str, Any] = {"suite": suite, "samples": 30, "batch_size": 12, "out": tmp_path}
    first = robusteval.evaluate(Nearest(), images, labels, **how)
    rows_file(first.folder).unlink()  # as if it had been stopped
    loader = DataLoader(TensorDataset(*map(torch.from_numpy, (images, labels))), batch_size=7)
    again = robusteval.evaluate(Nearest(), loader, **how)
    assert again.folder == first.folder
    assert again.content["evidence"]["digest"] == first.content["evidence"]["digest"]
    checks = robusteval.verify(first.folder, Nearest(), images=images, labels=labels, again=99)
    assert all(check.held for check in checks)


def test_verify_asks_for_the_data_that_python_gave(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    report = robusteval.evaluate(Nearest(), images, labels, suite=suite, out=tmp_path, only="fgsm")
    with pytest.raises(EvidenceError, match="pass images=… and labels=…"):
        robusteval.verify(report.folder, Nearest())
    with pytest.raises(EvidenceError, match="pass the images and labels that were evaluated"):
        robusteval.verify(report.folder, Nearest(), images=images[::-1].copy(), labels=labels)
    refused(cli("verify", str(report.folder)), "robusteval.verify(folder, model=…)")


def test_other_images_labels_or_samples_make_another_run(suite: str, tmp_path: Path) -> None:
    images, labels = points()

    def run(images: Any, labels: Any, samples: Any = None) -> Path:
        how: dict[str, Any] = {"suite": suite, "only": "fgsm", "out": tmp_path}
        return robusteval.evaluate(Nearest(), images, labels, samples=samples, **how).folder

    other = images.copy()
    other[3, 0, 0, 0] += 1e-3
    folders = {
        run(images, labels),
        run(other, labels),
        run(images, (labels + 1) % 3),
        run(images, labels, 30),
        run(images, labels, "first:30"),
        run(images, labels, range(1, 31)),
    }
    assert len(folders) == 6
    assert run(images, labels, "first:60") == run(images, labels, 60) == run(images, labels)


def test_the_report_says_whose_data_and_which_samples(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    report = robusteval.evaluate(
        Nearest(), images, labels, suite=suite, samples=[4, 5, 6, 9], dataset="dots", out=tmp_path
    )
    told = report.content["dataset"]
    assert (told["name"], told["split"], told["samples"]) == ("dots", "own", 60)
    assert told["chosen"] == {"how": "listed", "indices": "4-6,9"}
    assert told["usual_eps"] == ["Linf", "L2"]
    page = (report.folder / "report.md").read_text("utf-8")
    assert "4 of 60 samples of dots, chosen by their indices, seed 0" in page
    assert "ε by default, as nobody gave one: L∞ 0.3, L2 2." in page
    given = robusteval.evaluate(
        Nearest(), images, labels, suite=suite, samples=9, eps="0.2", only="fgsm", out=tmp_path
    )
    assert given.content["dataset"]["usual_eps"] == []
    assert "by default" not in (given.folder / "report.md").read_text("utf-8")


def test_claims_are_about_the_papers_own_data(digits: Dataset, tmp_path: Path) -> None:
    how: dict[str, Any] = {"suite": "quick", "only": "fgsm", "samples": 20, "out": tmp_path}
    entry = tmp_path / "claims.toml"
    text = (Path(robusteval.__file__).parents[1] / "models/digits/pcl_digits.toml").read_text()
    weights = Path(robusteval.__file__).parents[1] / "models/digits/pcl_digits.safetensors"
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    claim = '\n[[claims]]\nattack = "fgsm"\naccuracy = 50.0\nnorm = "Linf"\neps = "0.15"\n'
    entry.write_text(text.replace('name = "pcl_digits"', 'name = "claims"', 1) + claim)
    known = robusteval.evaluate(entry, **how)
    own = robusteval.evaluate(entry, digits.images(), digits.labels, **how)
    assert known.content["claims"]
    assert own.content["claims"] == []
    same = [r.content["worst_case"][0]["robust_accuracy"] for r in (known, own)]
    assert own.content["dataset"]["name"] == "own data"
    assert same[0]["n"] == same[1]["n"] == 20


def photos(at: Path, count: int = 6) -> Path:
    """Three classes of 12×10 colour images, each with a channel of its own."""
    rng = np.random.default_rng(1)
    for k, name in enumerate(("blue", "green", "red")):
        (at / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (12, 10, 3)).astype(np.uint8)
            pixels[..., 2 - k] += 120
            Image.fromarray(pixels).save(at / name / f"{i}.png")
    return at


FACTORY = """
import torch
from torch import nn

def net():
    head = nn.Linear(3, 3, bias=False)
    head.weight.data.copy_(torch.eye(3).flip(0) * 9)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""
ENTRY = """
name = "mine"
method = "own"
classes = 3
factory = "net:net"
[input]
mean = [0.0]
std = [1.0]
"""


def test_a_folder_of_own_photos_on_the_command_line(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(suite).write_text(hasty_suite())
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "mine.toml").write_text(ENTRY)
    place = photos(tmp_path / "photos")
    monkeypatch.syspath_prepend(tmp_path)
    about = ["--model", "mine.toml", "--suite", suite, "--allow-code", "--threads", "1"]
    ran = cli("run", *about, "--data", str(place), "--samples", "first:12", "--workers", "2")
    assert ran.exit_code == 0, ran.output
    (folder,) = (tmp_path / "runs").glob("mine-*")
    content = json.loads((folder / "report.json").read_text("utf-8"))
    assert content["clean"]["accuracy"]["k"] == 12
    assert content["dataset"]["classes"] == ["blue", "green", "red"]
    assert content["dataset"]["chosen"] == {"how": "first", "indices": "0-11"}
    assert cli("verify", str(folder), "--allow-code").exit_code == 0
    place.rename(tmp_path / "moved")
    refused(cli("verify", str(folder), "--allow-code"), "photos do not exist")
    moved = str(tmp_path / "moved")
    assert cli("verify", str(folder), "--allow-code", "--data", moved).exit_code == 0
    Image.new("RGB", (10, 12)).save(tmp_path / "moved" / "blue" / "3.png")
    refused(cli("verify", str(folder), "--allow-code", "--data", moved), "other images or labels")


def test_an_entry_without_a_data_set_needs_data(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(ENTRY)
    refused(cli("run", "--model", "mine.toml", "--allow-code"), "--data")
    (tmp_path / "mine.toml").write_text(ENTRY.replace("classes = 3\n", ""))
    refused(cli("run", "--model", "mine.toml"), "give a dataset, or classes")


def test_a_known_data_set_may_stand_in_the_models_place(tmp_path: Path) -> None:
    ran = cli("run", "--model", "pcl_digits", "--data", "mnist", "--suite", "quick")
    refused(ran, "mnist (test) is not in")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": np.zeros((4, 1, 8, 8)), "data": "x.npz"}, "leave one out"),
        ({"labels": [1, 2]}, "labels= need images"),
        ({"images": "quick", "suite": "full"}, "two suites"),
        ({"images": np.zeros((4, 1, 8, 8)), "labels": [0, 1, 2, 11]}, "label 11, the model 10"),
        ({"images": np.zeros((4, 1, 8, 8)), "labels": [0, 1, 2, 3], "workers": 2}, "to workers"),
        ({"data": "nix"}, "do not exist"),
        ({"data": ""}, "give a name"),
        ({"data": "a\0b"}, "NUL"),
        ({"data": 3}, "give a name"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RobustevalError) as raised:
        robusteval.evaluate("pcl_digits", out=tmp_path, threads=1, **arguments)
    assert said in str(raised.value)


def test_a_module_and_its_data_must_agree(tmp_path: Path) -> None:
    images, labels = points()
    with pytest.raises(DataError, match="has a label 7, the model 3 classes"):
        robusteval.evaluate(Nearest(), images, np.full(60, 7), out=tmp_path)
    with pytest.raises(RobustevalError, match=r"shape \(1, 3\)"):
        robusteval.evaluate(Nearest(), images, labels, classes=5, out=tmp_path)
    with pytest.raises(RobustevalError, match="or a torch module"):
        robusteval.evaluate(len, images, labels)  # type: ignore[arg-type]


def test_leaderboards_take_neither_own_data_nor_chosen_samples(
    pcl_digits: Adapter, digits: Dataset, suite: str, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"suite": suite, "only": "fgsm", "out": tmp_path}
    own = robusteval.evaluate("pcl_digits", digits.images(), digits.labels, **how).folder
    first = robusteval.evaluate("pcl_digits", samples="first:40", **how).folder
    for run, said in ((own, "data of your own"), (first, "chosen one by one")):
        with pytest.raises(EvidenceError, match=said):
            add([run], tmp_path / "boards")


def test_what_a_record_says_of_own_data_is_held_to_it(suite: str, tmp_path: Path) -> None:
    images, labels = points()
    report = robusteval.evaluate(Nearest(), images, labels, suite=suite, out=tmp_path, only="fgsm")
    path = report.folder / "run.json"
    sound = json.loads(path.read_text("utf-8"))

    def forged(**changed: Any) -> list[Any]:
        path.write_text(json.dumps({**sound, **changed}))
        return robusteval.verify(report.folder, Nearest(), images=images, labels=labels)

    assert all(check.held for check in forged())
    dataset = {**sound["dataset"], "samples": 61}
    assert not all(check.held for check in forged(dataset=dataset))
    for changed in ({"dataset": {**dataset, "samples": 4}}, {"data_reference": None}):
        with pytest.raises(EvidenceError, match="corrupt"):
            forged(**changed)
    del sound["data_reference"]
    with pytest.raises(EvidenceError, match="data_reference contradicts"):
        forged()
