"""Data sets as files: what the project's own say, and what a user and packages may add."""

import gzip
import json
import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from robusteval.api import Options, wrap_module
from robusteval.cli import app
from robusteval.data import known
from robusteval.data.datasets import load_dataset
from robusteval.data.entry import LEFT_OUT, MADE_TITLES
from robusteval.data.known import DATASETS
from robusteval.data.outliers import outlier_batches, outlier_names
from robusteval.data.raw import Shape
from robusteval.errors import DataError, UnknownNameError
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked
from tests.helpers.plugins import Install

COLOUR, GREY, DIGITS = ("8/255", "0.5"), ("0.3", "2"), ("0.15", "0.6")
TINY = ("tiny-imagenet-200", "tiny_imagenet", "tiny-imagenet")
OF_GREY = ("cifar10", "tiny_imagenet_32", "photo_crops")
OF_COLOUR = ("tiny_imagenet_32", "photo_crops")
OF_TINY = (
    *(COLOUR, ("tiny-imagenet-32", "tiny_imagenet_32", *TINY)),
    *(None, "tiny_imagenet_32", ("svhn", "photo_crops")),
)
# Name: shape, classes, test samples, ε in L∞ and L2, folders, torchvision's class, base, outliers.
PRESENT = {
    "cifar10": (
        *((3, 32, 32), 10, 10_000, COLOUR, ("cifar10", "cifar-10"), "CIFAR10", None),
        ("svhn", "cifar100", *OF_COLOUR),
    ),
    "cifar100": (
        *((3, 32, 32), 100, 10_000, COLOUR, ("cifar100", "cifar-100"), "CIFAR100", None),
        ("svhn", "cifar10", *OF_COLOUR),
    ),
    "cifar100_10": (
        *((3, 32, 32), 10, 10_000, COLOUR, ("cifar100", "cifar-100"), "CIFAR100", "cifar100"),
        ("svhn", "cifar10", *OF_COLOUR),
    ),
    "cifar10_2": (
        *((3, 32, 32), 2, 10_000, COLOUR, ("cifar10", "cifar-10"), "CIFAR10", "cifar10"),
        ("svhn", "cifar100", *OF_COLOUR),
    ),
    "digits": ((1, 8, 8), 10, 360, DIGITS, (), None, None, ("photo_crops",)),
    "fashion_mnist": (
        *((1, 28, 28), 10, 10_000, GREY, ("fashion_mnist", "fashion-mnist"), "FashionMNIST", None),
        ("mnist", *OF_GREY),
    ),
    "mnist": (
        *((1, 28, 28), 10, 10_000, GREY, ("mnist",), "MNIST", None),
        ("fashion_mnist", *OF_GREY),
    ),
    "mnist_2": (
        *((1, 28, 28), 2, 10_000, GREY, ("mnist",), "MNIST", "mnist"),
        ("fashion_mnist", *OF_GREY),
    ),
    "svhn": (
        *((3, 32, 32), 10, 26_032, COLOUR, ("svhn",), "SVHN", None),
        ("cifar10", "cifar100", *OF_COLOUR),
    ),
    "tiny_imagenet": (
        *((3, 64, 64), 200, 10_000, COLOUR, ("tiny-imagenet-64", "tiny_imagenet_64", *TINY)),
        *(None, None, ("svhn", "photo_crops")),
    ),
    "tiny_imagenet_32": (
        *((3, 32, 32), 200, 10_000, COLOUR, ("tiny-imagenet-32", "tiny_imagenet_32", *TINY)),
        *(None, None, ("svhn", "photo_crops")),
    ),
    "tiny_imagenet_test": ((3, 32, 32), 160, 8_000, *OF_TINY),
    "tiny_imagenet_tuning": ((3, 32, 32), 40, 2_000, *OF_TINY),
}
RULE = "the multi-prototype paper lists only MNIST's, {0–4} and {5–9}; the others follow the same"
TITLES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009)",
    "cifar100_10": "CIFAR-100 (Krizhevsky 2009), fine labels regrouped into 10 classes",
    "digits": "handwritten digits of scikit-learn (UCI), 8×8",
    "mnist_2": "MNIST (LeCun 1998) regrouped into 2 classes",
    "tiny_imagenet": "Tiny ImageNet validation images, 64×64",
}
MINE = """
name = "mine"
title = "Mine"
shape = [1, 8, 8]
classes = 4
test_samples = 12
outliers = ["digits", "photo_crops"]
[threats]
Linf = "8/255"
L2 = 0.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "sets"
    place.mkdir()
    monkeypatch.setenv("ROBUSTEVAL_DATASETS", str(place))
    return place


def write(folder: Path, text: str = MINE, name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def pictures(root: Path, classes: int = 4, each: int = 3) -> Path:
    """A data folder with ``mine`` as one folder per class, each with a grey of its own."""
    for k in range(classes):
        place = root / "mine" / "test" / f"class_{k}"
        place.mkdir(parents=True)
        for i in range(each):
            Image.new("L", (8, 8), 60 * k + i).save(place / f"{i}.png")
    return root


# The project's own


@pytest.mark.parametrize("name", PRESENT)
def test_the_projects_own_are_what_they_were(name: str) -> None:
    shape, classes, samples, threats, folders, archive, base, outliers = PRESENT[name]
    info = DATASETS.get(name)
    assert (info.name, info.shape, info.classes) == (name, Shape(*shape), classes)
    assert info.test_samples == samples
    assert info.threats == dict(zip(("Linf", "L2"), threats, strict=True))
    assert (info.folders, info.torchvision, info.base) == (folders, archive, base)
    assert info.outliers == outliers
    assert info.title == TITLES.get(name, info.title)
    assert info.license
    assert info.source.startswith("http")
    assert (RULE in info.note) == (base is not None and not info.labels)


def test_these_are_all() -> None:
    assert list(DATASETS) == sorted(PRESENT)
    assert len(DATASETS) == 13
    assert "cifar10" in DATASETS
    assert "cifer10" not in DATASETS
    inside = files("robusteval") / "data" / "sets"  # where an installed package has them
    assert {p.name for p in inside.iterdir()} == {f"{name}.toml" for name in PRESENT}


def test_pixels_and_labels_are_what_they_were() -> None:
    """Digests as the last version without files had them."""
    test, train = load_dataset("digits"), load_dataset("digits", "train")
    assert test.digest == "f61c9b9dd2f6e871bf1ab6e39d5ed6978323a5b3bd6b36b218ac8c60b5bc66c7"
    assert train.digest == "b1decc07f63864720c28022bc42babcc02ff171af7236970e5d798cbd6363206"
    assert test.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "digest"),
    [("mnist_2", "bb2f44ed744e531c"), ("cifar10", "15215525978b7b33")],
)
def test_real_data_are_what_they_were(shared_data: Path, name: str, digest: str) -> None:
    assert load_dataset(name, data_dir=shared_data).digest.startswith(digest)


def test_every_made_set_is_made() -> None:
    inliers = load_dataset("digits").balanced_subset(3)
    for name in MADE_TITLES.keys() - {LEFT_OUT}:
        (images,) = outlier_batches(name, 3, Shape(1, 8, 8), 0, inliers=inliers)
        assert images.shape == (3, 1, 8, 8)


# A user's


def test_a_file_is_a_data_set(folder: Path, tmp_path: Path) -> None:
    path = write(folder)
    root = pictures(tmp_path / "data")
    data = load_dataset("mine", data_dir=root)
    assert data.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert data.labels.tolist() == [k for k in range(4) for _ in range(3)]
    assert data.pixels[:, 0, 0, 0].tolist() == [60 * k + i for k in range(4) for i in range(3)]
    info = data.info
    assert (info.folders, info.path) == (("mine",), path)
    assert info.default_threat("L2").radius == 0.5
    assert outlier_names(data, 2, root)[:2] == ["digits", "photo_crops"]


def test_a_run_takes_it(folder: Path, tmp_path: Path) -> None:
    write(folder)
    model = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), classes=4)
    options = Options(data_dir=pictures(tmp_path / "data"), out=tmp_path / "runs", only=("fgsm",))
    spec = prepare(Asked(model, "mine", "my_model"), "quick", options).spec
    assert (spec.dataset, spec.samples) == ("mine", 12)
    assert ("Linf", "8/255") in spec.threats


def test_another_archive_of_torchvision_needs_a_file_alone(folder: Path, tmp_path: Path) -> None:
    text = MINE.replace("mine", "kmnist").replace("[1, 8, 8]", "[1, 28, 28]")
    write(folder, 'torchvision = "KMNIST"\n' + text, "kmnist")
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), bytes([3, 1, 0, 2, 3])
    head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    (raw / "t10k-images-idx3-ubyte").write_bytes(head + images.tobytes())
    packed = gzip.compress(b"\0\0\x08\x01" + (5).to_bytes(4, "big") + labels)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(packed)
    data = load_dataset("kmnist", data_dir=tmp_path)
    assert data.labels.tolist() == [*labels]
    assert (data.pixels[:, 0].numpy() == images).all()
    assert data.class_names == ("0", "1", "2", "3")


def test_names_of_classes_stand_in_where_files_tell_none(folder: Path) -> None:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    names = ", ".join(f'"{word}"' for word in words)
    text = MINE.replace(
        "classes = 4", f'classes = 8\nreader = "sklearn_digits"\nclass_names = [{names}]'
    )
    write(folder, text)
    assert DATASETS.get("mine").class_names[7] == "seven"
    write(folder, 'name = "halves"\nbase = "mine"\nclasses = 2\n', "halves")
    with pytest.raises(DataError, match="labels are not all in 0 to 7"):
        load_dataset("halves")
    write(folder, text.replace("classes = 8", "classes = 10").replace('"seven"', '"7", "8", "9"'))
    assert load_dataset("halves").class_names == ("zero+one+two+three+four", "five+six+7+8+9")
    assert load_dataset("mine").digest == load_dataset("digits").digest


def test_a_group_takes_the_rest_from_its_base(folder: Path, tmp_path: Path) -> None:
    write(folder)
    more = 'name = "pairs"\nbase = "mine"\nclasses = 2\noutliers = ["mine"]\n'
    write(folder, more + '[threats]\nLinf = "0.1"\nL2 = "1"\n', "pairs")
    info, base = DATASETS.get("pairs"), DATASETS.get("mine")
    assert (info.shape, info.folders, info.test_samples) == (base.shape, base.folders, 12)
    assert info.title == "Mine regrouped into 2 classes"
    assert info.threats == {"Linf": "0.1", "L2": "1"}
    assert info.outliers == ("mine",)
    data = load_dataset("pairs", data_dir=pictures(tmp_path / "data"))
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.class_names == ("class_0+class_1", "class_2+class_3")


# What is wrong


def without(field: str) -> str:
    return "\n".join(line for line in MINE.splitlines() if not line.startswith(f"{field} "))


ALONE = "name = 'mine'\nclasses = 2\nbase = "
WRONG = {
    "no TOML": ("name = ", "not valid TOML"),
    "no title": (without("title"), "title is missing: give it"),
    "no shape": (without("shape"), "shape is missing: give it"),
    "no count": (without("test_samples"), "test_samples is missing: give it"),
    "no ε": (without("Linf"), "threats.Linf is missing: give it"),
    "no threats": (MINE.partition("[threats]")[0], "threats is missing: give it"),
    "misspelt": (f"titel = 1\n{MINE}", "unknown field titel: did you mean title?"),
    "a list misspelt": (
        f'outlier = ["svhn"]\n{MINE}',
        "unknown field outlier: did you mean outliers",
    ),
    "two channels": (MINE.replace("[1,", "[2,"), "shape.0 must be 1 or 3, not 2"),
    "flat": (MINE.replace("[1, 8, 8]", "[1, 8]"), "shape.2 is missing"),
    "no size": (MINE.replace("8]", "0]"), "shape.2 must be 1 or more, not 0"),
    "as text": (MINE.replace("= 4", '= "4"'), "classes needs a whole number, not '4'"),
    "one class": (MINE.replace("= 4", "= 1"), "classes must be 2 or more, not 1"),
    "ε of 255": (MINE.replace('"8/255"', '"8"'), "did you mean 8/255?"),
    "ε as a word": (MINE.replace("0.5", '"half"'), "ε 'half' is not a number"),
    "names": (f'class_names = ["a"]\n{MINE}', "class_names has 1 names for 4 classes"),
    "a path": (f'folders = ["../x"]\n{MINE}', "folders.0: needs the name of one folder"),
    "archive": (f'torchvision = "EMNIST"\n{MINE}', "torchvision must be 'MNIST', "),
    "another name": (MINE.replace("mine", "other"), "name is 'other', but the file is mine.toml"),
    "a bad name": (MINE.replace('"mine"', '"My set"'), "name: takes a-z"),
    "itself": (MINE.replace("digits", "mine"), "outliers names mine itself"),
    "twice": (MINE.replace("digits", "photo_crops"), "photo_crops stands twice"),
    "far outliers": (MINE.replace("digits", "svnh"), "outliers names 'svnh': did you mean svhn?"),
    "no base": (f"{ALONE}'cifar1'", "base 'cifar1' is unknown: did you mean cifar10"),
    "a grouped base": (f"{ALONE}'cifar10_2'", "base 'cifar10_2' groups labels itself: did you"),
    "odd groups": (f"{ALONE}'cifar10'".replace("2", "3"), "10 classes can't make 3 groups"),
    "one's shape": (f"{ALONE}'mnist'\nshape = [1, 2, 3]", "shape is that of the base mnist"),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_bad_file_is_told_and_the_others_go_on(
    which: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, said = WRONG[which]
    path = write(folder, text)
    write(folder, MINE.replace("mine", "good"), "good")
    with caplog.at_level(logging.WARNING, "robusteval"):
        assert DATASETS.get("good").classes == 4
        assert list(DATASETS) == sorted([*PRESENT, "good"])
    (told,) = [record.getMessage() for record in caplog.records]  # once, whoever asks how often
    assert str(path) in told
    assert said in told
    assert "\n" not in told
    with pytest.raises(DataError) as caught:
        load_dataset("mine")
    assert str(caught.value) == told


def test_who_needs_a_bad_file_is_told_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    bad = write(folder, "name = 1", "bad")
    write(folder, MINE.replace("digits", "bad"))
    data = load_dataset("mine", data_dir=pictures(tmp_path / "data"))
    with pytest.raises(DataError, match=r"outlier set bad can't be used: .*bad\.toml: name needs"):
        outlier_names(data, 1, tmp_path)
    write(folder, 'name = "grouped"\nbase = "bad"\nclasses = 2', "grouped")
    with pytest.raises(DataError, match=r"grouped\.toml: its base can't be used: .*bad\.toml"):
        DATASETS.get("grouped")
    bad.unlink()
    with pytest.raises(DataError, match=r"mine\.toml: outliers names 'bad'"):
        DATASETS.get("mine")  # files are read anew when one has changed
    with pytest.raises(UnknownNameError, match="unknown data set 'bad'"):
        DATASETS.get("bad")


@pytest.mark.parametrize("name", ["cifar10", "photo_crops"])
def test_the_projects_own_names_are_taken(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = MINE.replace('"mine"', f'"{name}"').replace('["digits", "photo_crops"]', '["svhn"]')
    path = write(folder, text, name)
    assert DATASETS.get("cifar10").classes == 10
    assert str(path) in caplog.text
    if name == "cifar10":
        assert str(DATASETS.get("cifar10").path) in caplog.text
        assert "comes first" in caplog.text
    else:
        assert "an outlier set that is made: choose another name" in caplog.text


def test_of_two_files_of_one_name_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    places = [tmp_path / "a", tmp_path / "b", tmp_path / "nowhere"]
    for place, classes in zip(places[:2], ("4", "5"), strict=True):
        place.mkdir()
        write(place, MINE.replace("classes = 4", f"classes = {classes}"))
    monkeypatch.setenv("ROBUSTEVAL_DATASETS", ":".join(map(str, places)))
    assert DATASETS.get("mine").classes == 4
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"data set folder {tmp_path}/nowhere of $ROBUSTEVAL_DATASETS does not exist: correct it",
        f"{tmp_path}/b/mine.toml is not used: {tmp_path}/a/mine.toml has its name and comes first",
    ]


# Packages'


def test_a_package_brings_data_sets(
    tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "site" / "with_sets"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    write(package)
    points = {name: name for name in ("with_sets", "nowhere_to_be_found")}
    install("sets-package", "1.0", {"datasets": points}, {})
    assert DATASETS.get("mine").path == package / "mine.toml"
    (told,) = [record.getMessage() for record in caplog.records]
    assert "nowhere_to_be_found (robusteval.datasets) of sets-package can't be used" in told


def test_who_provides_folders_may_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide: list[Callable[[], known.Places]] = [*known.PROVIDERS, lambda: [tmp_path]]
    monkeypatch.setattr(known, "PROVIDERS", provide)
    write(tmp_path)
    assert "mine" in DATASETS


def test_list_shows_them(folder: Path, tmp_path: Path) -> None:
    write(folder, f'license = "CC0"\n{MINE}')
    bad = write(folder, "name = 1", "bad")
    given = ["list", "datasets", "--data-dir", str(pictures(tmp_path / "data"))]
    result = CliRunner().invoke(app, [*given, "--json"], catch_exceptions=False)
    (row,) = [row for row in json.loads(result.stdout) if row["name"] == "mine"]
    assert (row["shape"], row["threats"]) == ("1×8×8", "Linf 8/255, L2 0.5")
    assert (row["found"], row["license"]) == ("test", "CC0")
    assert row["path"] == str(folder / "mine.toml")
    assert str(bad) in result.stderr
    assert result.stderr.count("\n") == 1
