"""Every layout, on files written here in that layout; and files that must be refused."""

import gzip
import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from robusteval.data import readers
from robusteval.data.datasets import load_dataset
from robusteval.data.readers import Shape
from robusteval.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = Shape(3, 32, 32)
GREY = Shape(1, 28, 28)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    path: Path, arrays: list[np.ndarray], labels: list[int], names: list[str]
) -> None:
    images = [{"bytes": png(a), "path": f"{i}.png"} for i, a in enumerate(arrays)]
    feature = {"label": {"names": names, "_type": "ClassLabel"}}
    meta = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    table = pa.table({"img": images, "label": pa.array(labels, pa.int64())})
    pq.write_table(table.replace_schema_metadata(meta), path)


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


def idx(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


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


def test_truncated_idx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(idx(np.zeros((5, 28, 28), np.uint8))[:-7])
    with pytest.raises(DataError, match="truncated"):
        readers.read_idx(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="IDX"):
        readers.read_idx(path)


def cifar_batch(count: int, key: str, classes: int) -> tuple[bytes, np.ndarray, list[int]]:
    rows = RNG.integers(0, 256, (count, 3072), np.uint8)
    labels = RNG.integers(0, classes, count).tolist()
    return pickle.dumps({"data": rows, key: labels, "filenames": ["x"] * count}, 2), rows, labels


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
    with pytest.raises(DataError, match="no CIFAR batch"):
        readers.read_cifar_batches([path], "labels")


def test_svhn_as_torchvision_stores_it(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (32, 32, 3, 4), np.uint8)
    labels = np.array([[10], [1], [9], [10]], np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": labels})
    data = load_dataset("svhn", data_dir=tmp_path)
    assert data.labels.tolist() == [0, 1, 9, 0]
    assert (data.pixels[2].numpy().transpose(1, 2, 0) == images[..., 2]).all()


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
    with pytest.raises(DataError, match="no SVHN file"):
        load_dataset("svhn", data_dir=tmp_path)
    listing = tmp_path / "val_annotations.txt"
    for content in (b"only-a-file.png\n", b"\xff\xfe\n"):
        listing.write_bytes(content)
        with pytest.raises(DataError, match="no list of files and classes"):
            readers.read_tiny_imagenet_val(tmp_path, COLOUR)


def test_broken_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    good = gzip.compress(b"\x00\x00\x08\x03")
    for content in (good[:-9], b"no gzip", good):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gz"):
            readers.read_idx(path)


def test_decoded_pixels_are_cached_and_follow_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    path = folder / "test-00000-of-00001.parquet"
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    write_parquet(path, [black], [0], list("abcdefghij"))
    assert load_dataset("cifar10", data_dir=tmp_path).pixels.max() == 0
    (cached,) = (tmp_path / "cache" / "robusteval" / "decoded").iterdir()
    cached.write_bytes(b"broken")  # a broken cache is read anew
    assert load_dataset("cifar10", data_dir=tmp_path).pixels.max() == 0
    write_parquet(path, [white, white], [0, 1], list("abcdefghij"))
    assert load_dataset("cifar10", data_dir=tmp_path).pixels.min() == 255
