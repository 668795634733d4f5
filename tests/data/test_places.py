"""Where data are expected, anything may be: nothing blocks, and one line says what is wrong."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robusteval.data import readers
from robusteval.data.datasets import class_order, is_available, load_dataset
from robusteval.data.files import entries, is_folder, is_there, open_file, shown
from robusteval.data.locate import data_root
from robusteval.data.outliers import check_folder, outlier_batches
from robusteval.data.readers import Shape
from robusteval.errors import DataError, UnknownNameError
from robusteval.storage import cache_dir

SHAPE = Shape(3, 32, 32)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def to_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        try:  # a socket's path may be 107 bytes long
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


PLACES: list[Callable[[Path], None]] = [os.mkfifo, Path.mkdir, loop, dangling, to_device, to_socket]


def readers_of(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: readers.decode(path, SHAPE),
        lambda: readers.read_parquet([path], SHAPE),
        lambda: readers.read_idx(path),
        lambda: readers.read_cifar_batches([path], "labels"),
        lambda: readers.read_svhn(path),
    ]


@pytest.mark.parametrize("place", PLACES, ids=lambda p: p.__name__)
def test_what_is_no_file_is_told_and_never_waited_for(
    tmp_path: Path, place: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.png"
    place(path)
    for read in readers_of(path):
        with pytest.raises(DataError, match=r"x\.png"):
            read()
    with pytest.raises(DataError, match=r"x\.png"):
        list(outlier_batches(tmp_path, 5, SHAPE, 0))


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "a/" * 3000, "\ud800"], ids=range(4))
def test_impossible_names_are_told_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for ask in (is_folder, is_there, entries, open_file, check_folder, data_root):
        with pytest.raises(DataError) as caught:
            ask(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    with pytest.raises(DataError):
        load_dataset("mnist", data_dir=str(path))


def test_undecodable_names_are_read_and_shown(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / os.fsdecode(b"\xfe.png"))
    assert shown(folder).endswith("\\udcff")
    (found,) = readers.image_files(folder)
    assert readers.decode(found, SHAPE).max() == 0
    with pytest.raises(DataError, match=r"udcff has a name that is no text"):
        check_folder(folder)
    found.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        readers.decode(found, SHAPE)
    str(caught.value).encode()  # a terminal can print it


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "x.png")
    (tmp_path / "outliers").mkdir()
    (tmp_path / "outliers" / "link").symlink_to(tmp_path / "real")
    assert len(check_folder(tmp_path / "outliers")) == 1
    (tmp_path / "outliers" / "again").symlink_to(tmp_path / "outliers")
    with pytest.raises(DataError, match="again is a link"):
        check_folder(tmp_path / "outliers")


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "mnist" / "test").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        readers.decode(tmp_path / "x.png", SHAPE)
    (tmp_path / "mnist" / "test").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        load_dataset("mnist", data_dir=tmp_path)
    with pytest.raises(DataError, match="Permission denied"):
        check_folder(tmp_path / "mnist" / "test")


def test_text_is_taken_for_a_data_folder_and_nothing_else(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(
        b"\0\0\x08\x03\0\0\0\x01\0\0\0\x1c\0\0\0\x1c" + b"7" * 784
    )
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x03")
    assert load_dataset("mnist", data_dir=str(tmp_path)).labels.tolist() == [3]
    for nothing in (5, "", b"data"):
        with pytest.raises(DataError, match="no path"):
            load_dataset("mnist", data_dir=nothing)
    with pytest.raises(UnknownNameError):
        load_dataset(5)
    with pytest.raises(DataError, match="is no folder"):
        load_dataset("mnist", data_dir=raw / "t10k-labels-idx1-ubyte")
    with pytest.raises(DataError, match="train or test"):
        load_dataset("digits", "validation")


def test_without_a_home_the_cache_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's arbitrary user: no $HOME, and no name in passwd."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() is None
    assert not is_available("mnist")
    assert class_order("digits") == tuple("0123456789")
    with pytest.raises(DataError, match=r"no home folder.*\$ROBUSTEVAL_DATA"):
        load_dataset("mnist")
    from tests.helpers.layouts import write_parquet

    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    write_parquet(path, [np.zeros((28, 28), np.uint8)], [3], list("0123456789"))
    monkeypatch.setenv("ROBUSTEVAL_DATA", str(tmp_path))
    assert load_dataset("mnist").labels.tolist() == [3]
