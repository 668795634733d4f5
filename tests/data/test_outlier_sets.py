"""Groups of outlier sets, parts of data sets by their classes, shared classes, made sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robusteval.data.datasets import Dataset, class_order, load_dataset
from robusteval.data.entry import LEFT_OUT
from robusteval.data.known import DATASETS
from robusteval.data.made import blurred, permuted
from robusteval.data.outliers import (
    ALL_NOISE,
    OutlierSet,
    outlier_batches,
    outlier_digests,
    sets_named,
)
from robusteval.data.overlap import shared_classes, wordnet_words
from robusteval.data.own import own_data
from robusteval.data.raw import Shape
from robusteval.errors import DataError, UnknownNameError
from robusteval.run.options import Options
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked

GREY = Shape(1, 8, 8)
PART = """
name = "few"
title = "Three digits"
base = "digits"
classes = 3
labels = [1, 4, 7]
test_samples = 108
"""


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Digits 1, 4 and 7."""
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "few.toml").write_text(PART)
    monkeypatch.setenv("ROBUSTEVAL_DATASETS", str(tmp_path / "sets"))
    return load_dataset("few")


# Parts of a data set


def test_a_part_takes_its_labels_alone(few: Dataset, digits: Dataset) -> None:
    rows = torch.isin(digits.labels, torch.tensor([1, 4, 7]))
    assert torch.equal(few.images(), digits.images()[rows])
    assert torch.equal(torch.tensor([1, 4, 7])[few.labels], digits.labels[rows])
    assert torch.equal(few.indices, torch.nonzero(rows)[:, 0])  # in the base's split
    assert few.class_names == class_order("few") == ("1", "4", "7")
    assert len(few) == few.info.test_samples


def test_the_classes_that_it_leaves_out_are_near(few: Dataset, digits: Dataset) -> None:
    assert few.info.near == (LEFT_OUT,)
    names = sets_named(few, ["near"], None)
    assert names == [LEFT_OUT]
    found = torch.cat(list(outlier_batches(LEFT_OUT, 400, GREY, 0, None, few)))
    rest = digits.images()[~torch.isin(digits.labels, torch.tensor([1, 4, 7]))]
    assert sorted(i.numpy().tobytes() for i in found) == sorted(i.numpy().tobytes() for i in rest)
    assert outlier_digests(names, 20, GREY, 0, None, few).keys() == {LEFT_OUT}  # it has one
    assert OutlierSet.of(LEFT_OUT, few, None, False) == OutlierSet("near", "test", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[1, 4, 7]", "[4, 1, 7]"), "each label once, in ascending order"),
        (("[1, 4, 7]", "[1, 4, 10]"), "labels are not some of digits's, 0 to 9"),
        (("classes = 3", "classes = 2"), "digits's 3 classes can't make 2 groups"),
        (("test_samples = 108\n", ""), "labels and test_samples, of those labels, go together"),
        (("labels = [1, 4, 7]\n", ""), "labels and test_samples, of those labels, go together"),
        (("base", 'near = ["mnist"]\nfar = ["mnist"]\nbase'), "mnist is both near and far"),
        (("base", 'near = ["mnits"]\nbase'), "near names 'mnits': did you mean mnist"),
        (("base", 'far = ["few"]\nbase'), "far names few itself"),
    ],
)
def test_a_part_that_can_not_be_is_refused(
    few: Dataset, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "sets" / "few.toml").write_text(PART.replace(*change))
    with pytest.raises((DataError, UnknownNameError), match=message):
        DATASETS.get("few")


def test_tuning_classes_are_a_seeded_fifth_that_the_test_part_leaves_out() -> None:
    tuning, test = (DATASETS.get(f"tiny_imagenet_{part}") for part in ("tuning", "test"))
    drawn = np.random.default_rng(0).permutation(200)[:40]
    assert tuning.labels == tuple(sorted(map(int, drawn)))
    assert sorted(tuning.labels + test.labels) == list(range(200))
    assert (tuning.classes, test.classes) == (40, 160)


def test_parts_of_tiny_imagenet(shared_data: Path) -> None:
    whole, *parts = (
        class_order(f"tiny_imagenet_{part}", "test", shared_data)
        for part in ("32", "tuning", "test")
    )
    assert whole is not None
    assert sorted(name for part in parts for name in part or ()) == sorted(whole)


# Groups


def test_groups_are_those_whose_data_are_there(digits: Dataset, tmp_path: Path) -> None:
    assert sets_named(digits, ["near", "far", "noise"], None) == ["photo_crops", *ALL_NOISE]
    assert sets_named(digits, ["noise", "uniform_noise", "blurred"], None) == [*ALL_NOISE]
    assert sets_named(digits, ["mnist"], tmp_path) == ["mnist"]  # by name: it has to be there


def test_groups_of_cifar10(digits: Dataset, shared_data: Path) -> None:
    data = replace(digits, info=DATASETS.get("cifar10_2"))
    names = sets_named(data, ["near", "far"], shared_data)
    assert names == ["cifar100", "tiny_imagenet_test", "mnist", "photo_crops"]
    sets = {name: OutlierSet.of(name, data, shared_data, False) for name in names}
    assert [one.group for one in sets.values()] == ["near", "far", "far", "far"]
    assert sets["cifar100"].shared == ("truck = pickup_truck",)
    assert {"cat = Persian cat", "frog = tailed frog"} & {
        *(sets["tiny_imagenet_test"].shared or ())
    }
    assert sets["mnist"].shared == ()


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("nois", UnknownNameError, "unknown outlier set nois: did you mean noise"),
        ("digits", DataError, "the run's own data set"),
        (LEFT_OUT, DataError, "digits leaves no class out"),
    ],
)
def test_sets_that_can_not_be_are_refused(
    digits: Dataset, wanted: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sets_named(digits, [wanted], None)


def test_a_suite_names_its_sets(tmp_path: Path) -> None:
    suite = tmp_path / "s.toml"
    table = '[detection]\ndetectors = ["energy"]\nsets = ["noise"]\n'
    suite.write_text(f'name = "s"\n{table}')
    spec = prepare(Asked("pcl_digits"), suite, Options(samples=10, out=tmp_path)).spec
    assert spec.outliers == ALL_NOISE
    suite.write_text(f'name = "s"\n{table}'.replace('"noise"', '"svhn"'))
    with pytest.raises(DataError, match="svhn"):
        prepare(Asked("pcl_digits"), suite, Options(samples=10, out=tmp_path))


# Shared classes


def test_names_are_compared_in_a_simple_form() -> None:
    assert shared_classes(["Maple_tree", "cat"], ["maple tree", "dog"]) == ["Maple_tree"]
    assert shared_classes(["cat"], ["Persian cat", "catfish", "cat food"]) == ["cat = Persian cat"]
    assert shared_classes(["aquarium_fish"], ["fish"]) == ["aquarium_fish = fish"]
    assert shared_classes(["bird+cat", "dog"], ["cat"]) == ["cat"]
    assert shared_classes(["goldfish"], ["n01443537", "n01629819"]) == ["goldfish"]
    assert shared_classes(["ship"], ["n01443537"]) == []


def test_numbers_and_identifiers_are_no_names() -> None:
    assert shared_classes([], ["cat"]) is None
    assert shared_classes(["cat"], ["n99999999", "n99999998"]) is None
    assert len(wordnet_words()) == 200


# Made of inliers


def test_blurred_images_keep_their_colours_and_lose_their_objects(digits: Dataset) -> None:
    (images,) = blurred(digits, 40, 0)
    clean = digits.images(slice(0, 40))
    assert images.shape == clean.shape
    assert float(images.std((1, 2, 3)).mean()) < 0.7 * float(clean.std((1, 2, 3)).mean())
    even = Dataset(digits.info, "test", torch.full((2, 1, 8, 8), 0.25), *_rest(digits, 2))
    (flat,) = blurred(even, 2, 0)
    torch.testing.assert_close(flat, torch.full((2, 1, 8, 8), 0.25))


def test_a_blur_is_the_gaussians(digits: Dataset) -> None:
    """One bright pixel far from the edges of 33×33 becomes the bell, one side after the other."""
    pixels = torch.zeros(1, 1, 33, 33)
    pixels[0, 0, 16, 16] = 1
    info = DATASETS.get("digits")
    one = Dataset(info, "test", pixels, *_rest(digits, 1))
    found = next(blurred(one, 1, 0))[0, 0]  # σ = 8 / 8: that of the data set's shape
    bell = torch.exp(-torch.arange(-3.0, 4).square() / 2)
    bell = bell / bell.sum()
    torch.testing.assert_close(found[13:20, 13:20], torch.outer(bell, bell), atol=1e-6, rtol=1e-5)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)


def _rest(data: Dataset, count: int) -> tuple[torch.Tensor, tuple[str, ...], torch.Tensor]:
    return data.labels[:count], data.class_names, data.indices[:count]


def test_permuted_images_hold_the_same_pixels(digits: Dataset) -> None:
    (images,) = permuted(digits, 30, 5)
    clean = digits.images(slice(0, 30))
    assert torch.equal(images.flatten(1).sort().values, clean.flatten(1).sort().values)
    assert not (images == clean).flatten(1).all(1).any()
    assert torch.equal(images, next(permuted(digits, 30, 5)))
    assert not torch.equal(images, next(permuted(digits, 30, 6)))
    colours = Dataset(digits.info, "test", torch.rand(2, 3, 4, 4), *_rest(digits, 2))
    moved = next(permuted(colours, 2, 0)).flatten(2)
    before = {tuple(p.tolist()) for p in colours.images().flatten(2)[0].T}
    assert {tuple(p.tolist()) for p in moved[0].T} == before  # channels stay together


def test_what_is_made_of_inliers_asks_for_them() -> None:
    with pytest.raises(DataError, match="permuted is made of a run's own images"):
        outlier_batches("permuted", 3, GREY, 0)


def test_a_folder_has_no_class_names(digits: Dataset, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert OutlierSet.of(str(tmp_path), digits, None, True) == OutlierSet("folder", "folder", None)


def test_own_data_have_far_sets_and_noise() -> None:
    pixels, labels = np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, 0, 1])
    data = own_data(pixels, labels, "mine", None, at_most=False)
    assert sets_named(data, ["near", "far", "noise"], None) == ["photo_crops", *ALL_NOISE]
    assert OutlierSet.of("digits", data, None, False) == OutlierSet("far", "test", None)
