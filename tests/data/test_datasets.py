"""Splits, regrouping, subsets, outliers, and what is said when data are missing."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robusteval.data.datasets import Dataset, class_order, load_dataset
from robusteval.data.known import DATASETS
from robusteval.data.outliers import (
    check_folder,
    fit_shape,
    outlier_batches,
    outlier_digests,
    outlier_names,
)
from robusteval.data.readers import Shape
from robusteval.errors import DataError, UnknownNameError
from robusteval.run.options import Options
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked


def test_digits_split_is_fixed_and_stratified(digits: Dataset) -> None:
    train = load_dataset("digits", "train")
    assert (len(train), len(digits)) == (1437, DATASETS.get("digits").test_samples)
    assert torch.bincount(digits.labels).min() >= 34
    assert digits.digest == load_dataset("digits").digest
    assert digits.digest != train.digest
    seen = {t.numpy().tobytes() for t in train.pixels}
    assert sum(t.numpy().tobytes() in seen for t in digits.pixels) == 0


def test_images_are_float32_in_the_unit_range(digits: Dataset) -> None:
    images = digits.images()
    assert images.dtype == torch.float32
    assert images.shape == (360, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1


def test_subsets_are_balanced_nested_and_seeded(digits: Dataset) -> None:
    small, large = digits.balanced_subset(50), digits.balanced_subset(120)
    assert torch.bincount(small.labels).tolist() == [5] * 10
    assert torch.bincount(large.labels).tolist() == [12] * 10
    assert set(small.indices.tolist()) < set(large.indices.tolist())
    assert small.indices.tolist() == sorted(small.indices.tolist())
    again = digits.balanced_subset(50)
    assert again.digest == small.digest
    assert digits.balanced_subset(50, seed=1).digest != small.digest
    odd = torch.bincount(digits.balanced_subset(57).labels)
    assert odd.max() - odd.min() == 1


@pytest.mark.parametrize("count", [0, -3, 361])
def test_impossible_subsets_are_refused(digits: Dataset, count: int) -> None:
    with pytest.raises(DataError, match="360"):
        digits.balanced_subset(count)


def test_splitting_off_validation_keeps_every_sample_once(digits: Dataset) -> None:
    rest, held = digits.split_off(60)
    assert len(held) == 60
    assert torch.bincount(held.labels).tolist() == [6] * 10
    assert sorted(rest.indices.tolist() + held.indices.tolist()) == list(range(360))


def test_missing_data_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10 .* --download .* --data-dir"):
        load_dataset("cifar10", data_dir=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("cifar10", data_dir=tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match="cifar10"):
        load_dataset("cifer10")


def test_download_goes_through_torchvision_into_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetch itself is torchvision's; here a stand-in writes what it would."""
    from robusteval.vision import torchvision
    from tests.helpers.layouts import cifar_batch

    content, _, labels = cifar_batch(4, "labels", 10)

    def fetch(root: str, download: bool, train: bool) -> None:
        assert download
        assert not train
        place = Path(root) / "cifar-10-batches-py"
        place.mkdir()
        (place / "test_batch").write_bytes(content)

    monkeypatch.setattr(torchvision().datasets, "CIFAR10", fetch)
    data = load_dataset("cifar10", data_dir=tmp_path, download=True)
    assert data.labels.tolist() == labels

    def no_network(root: str, download: bool, train: bool) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision().datasets, "CIFAR100", no_network)
    with pytest.raises(DataError, match="no network"):
        load_dataset("cifar100", data_dir=tmp_path, download=True)
    with pytest.raises(DataError, match="by hand"):
        load_dataset("tiny_imagenet", data_dir=tmp_path, download=True)


def test_every_data_set_has_threats_and_known_outliers() -> None:
    for name in DATASETS:
        info = DATASETS.get(name)
        grey, colour = ("0.3", "2"), ("8/255", "0.5")
        known = (
            ("0.15", "0.6") if name == "digits" else grey if info.shape.channels == 1 else colour
        )
        assert tuple(info.default_threat(norm).eps_text for norm in ("Linf", "L2")) == known, name
        assert all(o == "photo_crops" or o in DATASETS for o in info.outliers)
        assert name not in info.outliers


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_real_test_sets(shared_data: Path, name: str) -> None:
    data = load_dataset(name, data_dir=shared_data)
    info = data.info
    assert len(data) == 10_000
    counts = torch.bincount(data.labels)
    assert len(counts) == 10
    if name == "cifar10":
        assert counts.tolist() == [1000] * 10
        assert data.class_names[:3] == ("airplane", "automobile", "bird")
        np.testing.assert_allclose(
            data.images(slice(0, 5000)).mean((0, 2, 3)), [0.4914, 0.4822, 0.4465], atol=0.02
        )
    else:
        assert counts[1] == 1135  # of the 10,000, as published
        assert data.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.pixels.shape[1:] == (info.shape.channels, info.shape.height, info.shape.width)


def test_regrouping_takes_consecutive_labels(shared_data: Path) -> None:
    plain = load_dataset("mnist", data_dir=shared_data)
    grouped = load_dataset("mnist_2", data_dir=shared_data)
    assert torch.equal(grouped.labels, (plain.labels >= 5).long())
    assert grouped.class_names == ("0+1+2+3+4", "5+6+7+8+9")
    fine = load_dataset("cifar100", data_dir=shared_data).labels
    coarse = load_dataset("cifar100_10", data_dir=shared_data).labels
    assert torch.equal(coarse, fine // 10)


def load_all(name: str | Path, count: int, shape: Shape, seed: int) -> torch.Tensor:
    return torch.cat(list(outlier_batches(name, count, shape, seed)))


def test_outliers_come_in_batches() -> None:
    sizes = [len(b) for b in outlier_batches("uniform_noise", 600, Shape(1, 8, 8), 0)]
    assert sizes == [250, 250, 100]


@pytest.mark.parametrize("name", ["gaussian_noise", "uniform_noise", "photo_crops"])
@pytest.mark.parametrize("shape", [Shape(1, 8, 8), Shape(3, 32, 32)])
def test_made_outliers(name: str, shape: Shape) -> None:
    images = load_all(name, 20, shape, seed=3)
    assert images.shape == (20, shape.channels, shape.height, shape.width)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.05
    assert torch.equal(images, load_all(name, 20, shape, seed=3))
    assert not torch.equal(images, load_all(name, 20, shape, seed=4))


def test_noise_has_the_stated_distribution() -> None:
    gaussian = load_all("gaussian_noise", 500, Shape(1, 8, 8), 0)
    # P(N(0.5, 1) > 1) = 0.3085, and as much below 0
    assert float((gaussian == 1).double().mean()) == pytest.approx(0.3085, abs=0.01)
    uniform = load_all("uniform_noise", 500, Shape(1, 8, 8), 0)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)


def test_a_folder_is_an_outlier_set(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (10, 10), (i * 50, 0, 0)).save(tmp_path / f"{i}.png")
    assert load_all(tmp_path, 10, Shape(1, 8, 8), 0).shape == (3, 1, 8, 8)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_all(empty, 10, Shape(1, 8, 8), 0)


def photographs(folder: Path, bad: str) -> Path:
    """A folder with twelve images and something that is none."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8))
        image.save(folder / f"{i}.png")
    if bad == "appledouble":
        (folder / "._0.png").write_bytes(b"\0\5\x16\7" + bytes(80))
    elif bad == "truncated":
        (folder / "x.png").write_bytes((folder / "1.png").read_bytes()[:400])
    elif bad == "folder":
        (folder / "x.jpg").mkdir()
    elif bad == "fifo":
        os.mkfifo(folder / "x.jpg")
    elif bad:
        (folder / "x.jpg").write_bytes({"empty": b"", "text": b"<html>not found</html>"}[bad])
    return folder


@pytest.mark.parametrize("bad", ["truncated", "empty", "text", "folder", "fifo"])
def test_outlier_images_are_read_before_any_attack(tmp_path: Path, bad: str) -> None:
    options = Options(samples=40, outlier_folders=photographs(tmp_path / "bad", bad), out=tmp_path)
    with pytest.raises(DataError, match=r"x\.(png|jpg) "):
        prepare(Asked("pcl_digits"), "quick", options)


@pytest.mark.parametrize("bad", ["", "appledouble"])
def test_sound_outlier_folders_are_taken(tmp_path: Path, bad: str) -> None:
    folder = photographs(tmp_path / "good", bad)
    options = Options(samples=40, outlier_folders=folder, out=tmp_path)
    assert prepare(Asked("pcl_digits"), "quick", options).spec.outlier_folders
    assert len(load_all(folder, 40, Shape(1, 8, 8), 0)) == 12


def test_only_outliers_that_a_run_takes_are_read(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "bad", "")
    files = check_folder(folder)
    seed = next(s for s in range(99) if np.random.default_rng(s).permutation(12)[0] == 3)
    files[4].write_bytes(b"")
    outlier_digests([folder], 1, Shape(1, 8, 8), seed)
    with pytest.raises(DataError, match="can't be decoded"):
        outlier_digests([folder], 12, Shape(1, 8, 8), seed)


def test_a_folder_with_other_images_makes_another_run(tmp_path: Path) -> None:
    """Else evidence of the old ones would come back as that of the new ones."""
    folder = photographs(tmp_path / "mine", "")
    chosen = Options(samples=40, outlier_folders=folder, out=tmp_path)
    first = prepare(Asked("pcl_digits"), "quick", chosen).spec
    assert prepare(Asked("pcl_digits"), "quick", chosen).spec.name == first.name
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "0.png")
    second = prepare(Asked("pcl_digits"), "quick", chosen).spec
    assert second.outlier_folders == first.outlier_folders
    assert second.name != first.name


def test_broken_natural_outliers_are_told_early(tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist").mkdir()
    path = tmp_path / "fashion_mnist" / "test-00000-of-00002.parquet"
    path.touch()
    mnist = replace(load_dataset("digits"), info=DATASETS.get("mnist"))
    with pytest.raises(DataError, match=r"outlier set fashion_mnist can't be used: .* 1 of 2"):
        outlier_names(mnist, 2, tmp_path)
    path.rename(path.with_name("test-00000-of-00001.parquet"))
    with pytest.raises(DataError, match="can't be read as Parquet"):
        outlier_names(mnist, 2, tmp_path)


def test_the_order_of_the_classes_is_told_without_reading_images(tmp_path: Path) -> None:
    assert class_order("digits", "train") == tuple("0123456789")
    assert class_order("svhn", data_dir=tmp_path) is None
    for k in range(100):
        (tmp_path / "cifar100" / "test" / str(k)).mkdir(parents=True)
    assert class_order("cifar100", data_dir=tmp_path) == tuple(map(str, range(100)))
    assert class_order("cifar100_10", data_dir=tmp_path)[1] == "10+11+12+13+14+15+16+17+18+19"
    (tmp_path / "cifar100" / "test" / "1x").mkdir()
    with pytest.raises(DataError, match="101 classes"):
        class_order("cifar100", data_dir=tmp_path)


def test_fit_shape_uses_luma_and_repeats_grey() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 1
    assert float(fit_shape(red, Shape(1, 4, 4)).mean()) == pytest.approx(0.299)
    grey = torch.full((1, 1, 4, 4), 0.25)
    assert torch.equal(fit_shape(grey, Shape(3, 4, 4)), torch.full((1, 3, 4, 4), 0.25))


def test_natural_outliers_are_those_whose_data_are_there(digits: Dataset, tmp_path: Path) -> None:
    assert outlier_names(digits, 2, None) == ["photo_crops", "gaussian_noise", "uniform_noise"]


def test_natural_outliers_of_cifar10(shared_data: Path) -> None:
    data = load_dataset("cifar10", data_dir=shared_data).balanced_subset(10)
    names = outlier_names(data, 2, shared_data)
    assert names == ["cifar100", "tiny_imagenet_32", "gaussian_noise", "uniform_noise"]
