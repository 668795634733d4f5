"""Every layout, on files written here in that layout; and files that must be refused."""

import gzip
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from robusteval.data import readers
from robusteval.data.datasets import load_dataset
from robusteval.data.matlab import read_arrays
from robusteval.data.readers import Shape
from robusteval.errors import DataError
from tests.helpers.layouts import RNG, cifar_batch, idx, png, write_parquet

COLOUR = Shape(3, 32, 32)
GREY = Shape(1, 28, 28)


def test_parquet_shards(tmp_path: Path) -> None:
    arrays = [RNG.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(4)]
    folder = tmp_path / "cifar10"
    folder.mkdir()
    names = list("abcdefghij")
    write_parquet(folder / "test-00000-of-00002.parquet", arrays[:2], [0, 3], names)
    write_parquet(folder / "test-00001-of-00002.parquet", arrays[2:], [9, 1], names)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.labels.tolist() == [0, 3, 9, 1]
    assert data.class_names == tuple(names)
    images = data.images()
    assert images.shape == (4, 3, 32, 32)
    assert images.is_contiguous()
    np.testing.assert_allclose(images[2].permute(1, 2, 0).numpy(), arrays[2] / 255, atol=1e-7)


def test_shards_with_a_fingerprint_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    array, names = np.zeros((32, 32, 3), np.uint8), list("abcdefghij")
    path = folder / "test-00000-of-00001-70d52db3c749a935.parquet"
    write_parquet(path, [array], [3], names)
    (folder / "test-preview.parquet").write_bytes(b"another file")
    assert load_dataset("cifar10", data_dir=tmp_path).labels.tolist() == [3]


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    array = np.zeros((32, 32, 3), np.uint8)
    write_parquet(folder / "test-00000-of-00002.parquet", [array], [0], ["a"])
    with pytest.raises(DataError, match="1 of 2"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pa.table({"img": [{"bytes": b"no image", "path": ""}], "label": [0]}), path)
    with pytest.raises(DataError, match="decoded"):
        readers.read_parquet([path], COLOUR)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="Parquet"):
        readers.read_parquet([path], COLOUR)


def test_fine_labels_are_preferred_to_coarse_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    image = [{"bytes": png(np.zeros((32, 32, 3), np.uint8)), "path": ""}]
    pq.write_table(pa.table({"img": image, "coarse_label": [3], "fine_label": [42]}), path)
    assert readers.read_parquet([path], COLOUR).labels.tolist() == [42]


def test_the_label_and_the_image_are_told_by_name_and_kind(tmp_path: Path) -> None:
    """Not the alphabetically last number, nor a struct without an image in it."""
    path = tmp_path / "t.parquet"
    image = [{"bytes": png(np.zeros((32, 32, 3), np.uint8)), "path": ""}]
    columns = {"about": [{"licence": "x"}], "img": image, "label": [4], "source": [1]}
    pq.write_table(pa.table(columns), path)
    assert readers.read_parquet([path], COLOUR).labels.tolist() == [4]


def hub_table(columns: dict[str, object], path: Path) -> Path:
    """A shard of ten equal black images, with those columns beside them."""
    image = png(np.zeros((32, 32, 3), np.uint8))
    pq.write_table(pa.table({"image": pa.array([image] * 10), **columns}), path)
    return path


TEN = list(range(10))


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        ({"label": TEN[::-1], "fine_label": TEN, "coarse_label": [0] * 10}, TEN),
        ({"zebra": [7] * 10, "label": TEN}, TEN),
        ({"Label": TEN, "age": [7] * 10}, TEN),
        ({"target": TEN, "writer": [7] * 10}, TEN),
        ({"digit": TEN}, TEN),
        ({"digit": TEN, "__index_level_0__": TEN[::-1]}, TEN),
        ({"digit": pa.array(TEN, pa.uint8())}, TEN),
        ({"label": pa.array(TEN).dictionary_encode()}, TEN),
    ],
)
def test_which_column_is_the_label(
    tmp_path: Path, others: dict[str, object], taken: list[int]
) -> None:
    path = hub_table(others, tmp_path / "t.parquet")
    assert readers.read_parquet([path], COLOUR).labels.tolist() == taken


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"digit": TEN, "writer": TEN}, "digit, writer"),
        ({"coarse_label": TEN}, "coarse_label"),
        ({"label_coarse": TEN}, "label_coarse"),
        ({"coarse_label": TEN, "source": TEN}, "coarse_label, source"),
        ({"superclass": TEN}, "superclass"),
        ({"id": TEN}, "id could"),
        ({"id": TEN, "label": list("abcdefghij")}, r"id, label \(string\)"),
        ({"label": [0.0] * 10}, r"label \(double\)"),
        ({"Label": TEN, "label": TEN}, "Label, label"),
        ({"label": [*TEN[1:], None]}, "1 rows have no label"),
        ({"label": TEN, "photograph": [b"x"] * 10, "image": ["x.png"] * 10}, "needs|not clear"),
    ],
)
def test_labels_that_nothing_tells_are_refused_and_the_candidates_named(
    tmp_path: Path, others: dict[str, object], named: str
) -> None:
    path = hub_table(others, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"t\.parquet.*({named})"):
        readers.read_parquet([path], COLOUR)


def test_of_several_image_columns_the_usual_name_is_taken_or_none(tmp_path: Path) -> None:
    black, white = (png(np.full((32, 32, 3), v, np.uint8)) for v in (0, 255))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"crop": [white], "img": [black], "label": [0]}), path)
    assert readers.read_parquet([path], COLOUR).images.max() == 0
    pq.write_table(pa.table({"crop": [white], "whole": [black], "label": [0]}), path)
    with pytest.raises(DataError, match="crop, whole"):
        readers.read_parquet([path], COLOUR)


BYTES = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.binary()),
}


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("kind", BYTES)
def test_image_bytes_as_pandas_and_polars_write_them(
    tmp_path: Path, kind: str, struct: bool
) -> None:
    arrays = [np.full((32, 32, 3), v, np.uint8) for v in (3, 9)]
    cells = pa.array([png(a) for a in arrays], pa.binary())
    column = cells.dictionary_encode() if kind == "dictionary" else cells.cast(BYTES[kind])
    if struct:
        column = pa.StructArray.from_arrays([column, pa.array(["a", "b"])], ["bytes", "path"])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": column, "label": [1, 0]}), path)
    raw = readers.read_parquet([path], COLOUR)
    assert raw.images[:, 0, 0, 0].tolist() == [3, 9]
    assert raw.labels.tolist() == [1, 0]


def test_text_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": pa.array(["x"], pa.large_string()), "label": [0]}), path)
    with pytest.raises(DataError, match=r"needs an image column.* image \(large_string\)"):
        readers.read_parquet([path], COLOUR)


def test_a_broken_image_in_a_shard_is_told_by_its_row(tmp_path: Path) -> None:
    good = png(np.zeros((32, 32, 3), np.uint8))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [good, good, good[:50]], "label": [0, 1, 2]}), path)
    with pytest.raises(DataError, match=r"t\.parquet, row 2, can't be decoded"):
        readers.read_parquet([path], COLOUR)


def shard(folder: Path, name: str, value: int, names: str = "abcdefghij") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / name, [np.full((32, 32, 3), value, np.uint8)], [0], list(names))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["test-00000-of-00002.parquet", "test-00000-of-00002-abc.parquet"], "two copies"),
        (["test-00000-of-00001.parquet", "test-00000-of-00001-abc.parquet"], "two copies"),
        (["test-00000-of-00002.parquet", "test-00001-of-00003.parquet"], "two copies"),
        (["test-00001-of-00002.parquet", "test-00002-of-00002.parquet"], "2 of 2|fetch"),
        (["test-00001-of-00001.parquet"], "fetch"),
    ],
)
def test_shards_are_each_there_once(tmp_path: Path, names: list[str], told: str) -> None:
    for value, name in enumerate(names):
        shard(tmp_path / "cifar10", name, value)
    with pytest.raises(DataError, match=told):
        load_dataset("cifar10", data_dir=tmp_path)


def test_shards_with_the_same_samples_are_refused(tmp_path: Path) -> None:
    """As after a download that was written under two names; compressed anew, it is found, too."""
    for part in range(2):
        shard(tmp_path / "cifar10", f"test-0000{part}-of-00002.parquet", 5)
    second = tmp_path / "cifar10" / "test-00001-of-00002.parquet"
    pq.write_table(pq.read_table(second), second, compression="gzip")
    with pytest.raises(DataError, match=r"00000-of-00002.*00001-of-00002.*same samples"):
        load_dataset("cifar10", data_dir=tmp_path)
    batch, _, _ = cifar_batch(4, "labels", 10)
    folder = tmp_path / "other" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for part in range(1, 6):
        (folder / f"data_batch_{part}").write_bytes(batch)
    with pytest.raises(DataError, match="same samples"):
        load_dataset("cifar10", "train", folder.parent)


@pytest.mark.parametrize("second", [range(39, -1, -1), range(30, 70)])
def test_samples_are_counted_once_in_whatever_order_shards_hold_them(
    second: range, tmp_path: Path
) -> None:
    """All in reverse, or a quarter of them; a single one twice is no copy of a shard."""
    folder = tmp_path / "cifar10"
    folder.mkdir()

    def write(number: int, rows: range) -> None:
        arrays = [np.full((32, 32, 3), row, np.uint8) for row in rows]
        path = folder / f"test-0000{number}-of-00002.parquet"
        write_parquet(path, arrays, [row % 10 for row in rows], list("abcdefghij"))

    write(0, range(40))
    write(1, second)
    with pytest.raises(DataError, match="same samples"):
        load_dataset("cifar10", data_dir=tmp_path)
    write(1, range(39, 79))
    assert len(load_dataset("cifar10", data_dir=tmp_path)) == 80


def test_an_image_of_a_kind_that_is_not_read_is_refused(tmp_path: Path) -> None:
    """Its class would lose a sample without a word."""
    for name in "abcdefghij":
        folder = tmp_path / "cifar10" / "test" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "0.png")
    (folder / "1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"1\.heic"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_shards_that_name_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "cifar10", "test-00000-of-00002.parquet", 1)
    shard(tmp_path / "cifar10", "test-00001-of-00002.parquet", 2, "jihgfedcba")
    with pytest.raises(DataError, match="name their classes differently"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_shards_with_other_label_columns_are_refused(tmp_path: Path) -> None:
    first = hub_table({"fine_label": TEN, "label": [0] * 10}, tmp_path / "a.parquet")
    second = hub_table({"label": TEN}, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="fine_label, label"):
        readers.read_parquet([first, second], COLOUR)


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "cifar10", "test-00000-of-00001.parquet", 1)
    shard(tmp_path / "cifar10", "train-00000-of-00001.parquet", 2, "bacdefghij")
    with pytest.raises(DataError, match="another order"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_coarse_labels_under_another_name_are_noticed(tmp_path: Path) -> None:
    """20 of 100 classes in 2,000 samples: no part of CIFAR-100 is like that."""
    (tmp_path / "cifar100").mkdir()
    image, path = png(np.zeros((32, 32, 3), np.uint8)), "test-00000-of-00001.parquet"
    columns = {"img": [image] * 2000, "label": [k % 20 for k in range(2000)]}
    pq.write_table(pa.table(columns), tmp_path / "cifar100" / path)
    with pytest.raises(DataError, match=r"20 classes, not of all 100 \(no 20, 21.*coarse"):
        load_dataset("cifar100", data_dir=tmp_path)


def test_class_names_are_a_list_of_texts_or_none(tmp_path: Path) -> None:
    """Ten letters in one text are no ten names, and nothing else in there stops the reader."""
    path = tmp_path / "t.parquet"
    for told in ('"abcdefghij"', "[1, 2]", '["a\\ud800"]', "null", "[" * 100_000, '{"a": 1}'):
        about = f'{{"info": {{"features": {{"label": {{"names": {told}}}}}}}}}'
        table = pa.table({"image": [png(np.zeros((32, 32, 3), np.uint8))], "label": [0]})
        pq.write_table(table.replace_schema_metadata({b"huggingface": about.encode()}), path)
        assert readers.read_parquet([path], COLOUR).class_names is None


def class_folder(root: Path, name: str, value: int = 0) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(png(np.full((32, 32, 3), value, np.uint8)))
    return folder


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "__pycache__"]
)
def test_hidden_folders_are_no_classes_and_dot_files_no_images(tmp_path: Path, hidden: str) -> None:
    root = tmp_path / "cifar10" / "test"
    for k, name in enumerate("abcdefghij"):
        folder = class_folder(root, name, k)
        for junk in ("._0.png", ".DS_Store.png", ".hidden.jpg"):
            (folder / junk).write_bytes(b"\0\5\x16\7")
        class_folder(folder, ".ipynb_checkpoints", 255)
    class_folder(root, hidden, 255)
    data = load_dataset("cifar10", data_dir=tmp_path)
    assert data.class_names == tuple("abcdefghij")
    assert data.pixels[:, 0, 0, 0].tolist() == data.labels.tolist() == list(range(10))


def test_one_class_of_ten_is_refused_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "cifar10" / "test"
    class_folder(root, "cat")
    with pytest.raises(DataError, match=r"test holds 1 class \(cat\), and cifar10 has 10"):
        load_dataset("cifar10", data_dir=tmp_path)
    for name in "abcdefghij":
        class_folder(root, name)
    with pytest.raises(DataError, match=r"holds 11 classes \(a, b.*cat"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_a_folder_in_no_layout_is_told(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "test.parquet").touch()
    with pytest.raises(DataError, match=r"cifar10 is there, but holds neither test-00000-of"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_class_folders_without_images_or_of_the_same_number_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "cifar10" / "test"
    for k in range(9):
        class_folder(root, str(k))
    (root / "9").mkdir()
    with pytest.raises(DataError, match=r"9 holds no images"):
        load_dataset("cifar10", data_dir=tmp_path)
    class_folder(root, "09")
    with pytest.raises(DataError, match=r"9 of .* are the same number"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_folders_sort_by_number_only_if_all_are_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "1", "2b"):
        class_folder(tmp_path, name)
    assert readers.read_folders(tmp_path, COLOUR).class_names == ("1", "10", "2b", "9")


def test_numbered_class_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for k in range(100):
        folder = tmp_path / "cifar100" / "test" / str(k)
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(png(np.full((32, 32, 3), k, np.uint8)))
    data = load_dataset("cifar100", data_dir=tmp_path)
    assert data.pixels[:, 0, 0, 0].tolist() == data.labels.tolist() == list(range(100))
    assert load_dataset("cifar100_10", data_dir=tmp_path).labels[25] == 2


def test_one_folder_per_class(tmp_path: Path) -> None:
    arrays = {}
    names = [f"class{k}" for k in range(8)] + ["cat", "ant"]
    for name in names:
        folder = tmp_path / "svhn" / "test" / name
        folder.mkdir(parents=True)
        arrays[name] = RNG.integers(0, 256, (32, 32, 3), np.uint8)
        (folder / "0.png").write_bytes(png(arrays[name]))
        (folder / "notes.txt").write_text("no image")
    data = load_dataset("svhn", data_dir=tmp_path)
    assert data.class_names == tuple(sorted(names))
    assert data.labels.tolist() == list(range(10))
    assert (data.pixels[0].numpy().transpose(1, 2, 0) == arrays["ant"]).all()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_as_torchvision_stores_it(tmp_path: Path, suffix: str) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = RNG.integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([9, 0, 3, 3, 1], np.uint8)
    pack = gzip.compress if suffix else bytes
    (raw / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    (raw / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    data = load_dataset("fashion_mnist", data_dir=tmp_path)
    assert data.labels.tolist() == labels.tolist()
    assert (data.pixels[:, 0].numpy() == images).all()


@pytest.mark.parametrize("size", [(14, 14), (28, 27), (56, 14), (28,)])
def test_mnist_of_another_size_is_refused(tmp_path: Path, size: tuple[int, ...]) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((10, *size), np.uint8)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(10, dtype=np.uint8)))
    told = "10×" + "×".join(map(str, size))
    with pytest.raises(DataError, match=rf"images-idx3-ubyte holds an array of {told}, where"):
        load_dataset("mnist", data_dir=tmp_path)


def test_labels_where_images_are_expected_are_refused(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    labels.write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    with pytest.raises(DataError, match="labels holds an array of 2×28×28"):
        readers.read_mnist_idx(images, labels, GREY)
    labels.write_bytes(idx(np.zeros(2, np.uint8)) + b"more")
    with pytest.raises(DataError, match="goes on after its end"):
        readers.read_mnist_idx(images, labels, GREY)


def test_half_of_torchvisions_files_is_told(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((1, 28, 28), np.uint8)))
    with pytest.raises(DataError, match=r"1 of 2 files: fetch t10k-labels-idx1-ubyte"):
        load_dataset("mnist", data_dir=tmp_path)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.ones(1, np.uint8))))
    assert load_dataset("mnist", data_dir=tmp_path).labels.tolist() == [1]


def test_truncated_idx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(idx(np.zeros((5, 28, 28), np.uint8))[:-7])
    with pytest.raises(DataError, match="truncated"):
        readers.read_idx(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="IDX"):
        readers.read_idx(path)


@pytest.mark.parametrize(
    ("name", "place", "key", "classes"),
    [
        ("cifar10", "cifar-10-batches-py/test_batch", "labels", 10),
        ("cifar100", "cifar-100-python/test", "fine_labels", 100),
    ],
)
def test_cifar_as_torchvision_stores_it(
    tmp_path: Path, name: str, place: str, key: str, classes: int
) -> None:
    content, rows, labels = cifar_batch(6, key, classes)
    path = tmp_path / name / place
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    data = load_dataset(name, data_dir=tmp_path)
    assert data.labels.tolist() == labels
    assert (data.pixels.numpy() == rows.reshape(-1, 3, 32, 32)).all()


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("owned",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({"data": Malicious(), "labels": [1]}))
    with pytest.raises(DataError, match="refused"):
        readers.read_cifar_batches([path], "labels")
    assert not Path("owned").exists()
    path.write_bytes(b"\x80garbage")
    with pytest.raises(DataError, match="not a CIFAR batch"):
        readers.read_cifar_batches([path], "labels")


@pytest.mark.parametrize(
    "batch",
    [
        {"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]},
        {"data": np.zeros((2, 3072), np.int64), "labels": [0, 1]},
        {"data": np.zeros((4, 1536), np.uint8), "labels": [0, 1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [0.5, 1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]},
        {"data": np.array([object()]), "labels": [0, 1]},
        {"data": np.zeros((2, 3072), np.uint8), "coarse_labels": [0, 1]},
        [1, 2],
    ],
    ids=range(8),
)
def test_batches_of_other_values_are_refused(tmp_path: Path, batch: object) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match="is not a CIFAR batch"):
        readers.read_cifar_batches([path], "labels")


def test_arrays_of_a_pickle_are_those_that_went_in(tmp_path: Path) -> None:
    rows = np.asfortranarray(RNG.integers(0, 256, (4, 3072), np.uint8))
    for kind in (">i4", "<i8", "u1"):
        labels = np.array([3, 1, 2, 0]).astype(kind)
        for protocol in (2, 3, 4):
            path = tmp_path / "b"
            path.write_bytes(pickle.dumps({"data": rows, "labels": labels}, protocol))
            raw = readers.read_cifar_batches([path], "labels")
            assert (raw.images.reshape(4, -1) == rows).all()
            assert raw.labels.tolist() == [3, 1, 2, 0]


def test_svhn_as_torchvision_stores_it(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (32, 32, 3, 4), np.uint8)
    labels = np.array([[10], [1], [9], [10]], np.uint8)
    for compressed in (False, True):
        content = {"X": images, "y": labels, "meta": "text", "z": np.eye(2)}
        savemat(tmp_path / "test_32x32.mat", content, do_compression=compressed)
        data = load_dataset("svhn", data_dir=tmp_path)
        assert data.labels.tolist() == [0, 1, 9, 0]
        assert (data.pixels[2].numpy().transpose(1, 2, 0) == images[..., 2]).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_matlabs_arrays_are_scipys(compressed: bool) -> None:
    arrays = {
        **{f"of_{kind}": RNG.integers(0, 9, (3, 2, 4)).astype(kind) for kind in MATLAB},
        "empty": np.zeros((0, 3)),
        "long_named_array": np.arange(7.0),
        "complex": np.array([[1j]]),
        "text": "text",
    }
    stream = io.BytesIO()
    savemat(stream, arrays, do_compression=compressed)
    found, scipys = read_arrays(stream.getvalue(), 2**20), loadmat(stream)
    assert set(found) == set(arrays) - {"complex", "text"}
    for name, array in found.items():
        assert array.dtype == scipys[name].dtype
        assert np.array_equal(array, scipys[name])


MATLAB = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((32, 32, 3, 2)), [[1], [2]]),
        (np.zeros((16, 16, 3, 2), np.uint8), [[1], [2]]),
        (np.zeros((32, 32, 3, 2), np.uint8), [[1], [11]]),
        (np.zeros((32, 32, 3, 2), np.uint8), [[1], [0.5]]),
    ],
    ids=range(4),
)
def test_svhn_of_other_values_is_refused(
    tmp_path: Path, images: np.ndarray, labels: list[list[float]]
) -> None:
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": np.array(labels)})
    with pytest.raises(DataError, match="not an SVHN file"):
        load_dataset("svhn", data_dir=tmp_path)


def write_tiny_imagenet(root: Path, image: bytes) -> None:
    """Its validation part with one image for each of 200 classes."""
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for k in range(200):
        (root / "val" / "images" / f"{k}.png").write_bytes(image)
        lines.append(f"{k}.png\tn{k:04}\t0\t0\t1\t1\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))


def test_tiny_imagenets_own_layout_and_both_sizes(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200", png(array))
    large = load_dataset("tiny_imagenet", data_dir=tmp_path)
    assert (large.pixels[0].numpy().transpose(1, 2, 0) == array).all()
    small = load_dataset("tiny_imagenet_32", data_dir=tmp_path)
    boxes = array.reshape(32, 2, 32, 2, 3).mean((1, 3))
    # Pillow averages rows, then columns, and rounds to 8 bits after each: two halves at most
    assert np.abs(small.pixels[0].numpy().transpose(1, 2, 0) - boxes).max() <= 1


def test_tiny_imagenets_unlabelled_test_part_is_never_taken(tmp_path: Path) -> None:
    """The original archive holds test/images without labels, beside the labelled val."""
    root = tmp_path / "tiny-imagenet-200"
    image = png(np.zeros((64, 64, 3), np.uint8))
    write_tiny_imagenet(root, image)
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.png").write_bytes(image)
    data = load_dataset("tiny_imagenet", data_dir=tmp_path)
    assert data.labels.tolist() == list(range(200))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 28, 28), np.uint8)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match="belong together"):
        load_dataset("mnist", data_dir=tmp_path)


def test_broken_lists_and_matrices_are_named(tmp_path: Path) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(b"cut")
    with pytest.raises(DataError, match="not an SVHN file"):
        load_dataset("svhn", data_dir=tmp_path)
    listing = tmp_path / "val_annotations.txt"
    for content in (b"only-a-file.png\n", b"\xff\xfe\n"):
        listing.write_bytes(content)
        with pytest.raises(DataError, match="not a list of files and classes"):
            readers.read_tiny_imagenet_val(tmp_path, COLOUR)


def test_broken_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    good = gzip.compress(b"\x00\x00\x08\x03")
    for content in (good[:-9], b"no gzip", good):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gz"):
            readers.read_idx(path)


@pytest.fixture
def black(tmp_path: Path) -> Path:
    """One black image of CIFAR-10 in a data folder."""
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    path = folder / "test-00000-of-00001.parquet"
    write_parquet(path, [np.zeros((32, 32, 3), np.uint8)], [0], list("abcdefghij"))
    return path


def cache_of(tmp_path: Path) -> Path:
    (cached,) = (tmp_path / "cache" / "robusteval" / "decoded").iterdir()
    return cached


def read_black(path: Path) -> bool:
    return int(load_dataset("cifar10", data_dir=path.parents[1]).pixels.max()) == 0


def test_decoded_pixels_are_cached_and_follow_the_file(tmp_path: Path, black: Path) -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    assert read_black(black)
    cached = cache_of(tmp_path)
    cached.write_bytes(b"broken")  # a broken cache is read anew
    assert read_black(black)
    write_parquet(black, [white, white], [0, 1], list("abcdefghij"))
    assert load_dataset("cifar10", data_dir=black.parents[1]).pixels.min() == 255


def test_the_cache_is_read_where_it_is_sound(
    tmp_path: Path, black: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_black(black)
    first = cache_of(tmp_path).read_bytes()

    def decoded_again(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("robusteval.data.parquet.decode_all", decoded_again)
    assert read_black(black)
    (tmp_path / "copy").mkdir()
    shutil.copytree(black.parent, tmp_path / "copy" / "cifar10")  # of the same content
    data = load_dataset("cifar10", data_dir=tmp_path / "copy")
    assert data.class_names == tuple("abcdefghij")
    assert cache_of(tmp_path).read_bytes() == first


def test_a_cache_with_other_content_is_never_trusted(tmp_path: Path, black: Path) -> None:
    """Every flipped bit, every cut, and another data set's sound cache under this one's name."""
    assert read_black(black)
    cached = cache_of(tmp_path)
    sound = cached.read_bytes()
    for at in range(0, len(sound), 97):
        damaged = bytearray(sound)
        damaged[at] ^= 1
        for content in (bytes(damaged), sound[:at]):
            cached.write_bytes(content)
            assert read_black(black)
            assert cached.read_bytes() == sound
    white = tmp_path / "white" / "cifar10" / black.name
    white.parent.mkdir(parents=True)
    write_parquet(white, [np.full((32, 32, 3), 255, np.uint8)], [0], list("abcdefghij"))
    load_dataset("cifar10", data_dir=tmp_path / "white")
    (other,) = (p for p in cached.parent.iterdir() if p != cached)
    cached.write_bytes(other.read_bytes())
    assert read_black(black)


def test_a_source_of_the_same_size_and_time_is_told_by_its_content(black: Path) -> None:
    assert load_dataset("cifar10", data_dir=black.parents[1]).labels.tolist() == [0]
    before = black.stat()
    write_parquet(black, [np.zeros((32, 32, 3), np.uint8)], [3], list("abcdefghij"))
    os.utime(black, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert black.stat().st_size == before.st_size
    assert load_dataset("cifar10", data_dir=black.parents[1]).labels.tolist() == [3]


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir], ids=["fifo", "folder"])
def test_a_cache_that_cannot_be_used_is_left_out(
    tmp_path: Path, black: Path, place: Callable[[Path], None]
) -> None:
    assert read_black(black)
    cached = cache_of(tmp_path)
    cached.unlink()
    place(cached)
    assert read_black(black)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    assert read_black(black)
