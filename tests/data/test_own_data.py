"""Images of the user's own: every form of the same images gives the same samples."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from robusteval.data.choice import First, Listed, parse_samples
from robusteval.data.datasets import Dataset
from robusteval.data.known import is_known
from robusteval.data.own import of_classes, own_data, own_data_at, own_name
from robusteval.data.subsets import chosen_rows
from robusteval.errors import DataError, RobustevalError

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (13, 3, 6, 5)).astype(np.uint8)  # (N, C, H, W)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
NAMES = ("ant", "bee", "cat")


class Pictures(TorchDataset[Any]):
    """Pillow's images, as torchvision's data sets give them."""

    classes = NAMES

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, row: int) -> Any:
        return Image.fromarray(PIXELS[row].transpose(1, 2, 0)), int(LABELS[row])


class Told(Pictures):
    """It lists labels, so that only chosen images need be read."""

    targets = LABELS.tolist()

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, row: int) -> Any:
        self.read.append(row)
        return super().__getitem__(row)


class Hub(TorchDataset[Any]):
    """A mapping for each sample, as data-set hubs give them."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, row: int) -> Any:
        return {"label": LABELS[row], "img": torch.from_numpy(PIXELS[row])}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(PIXELS, LABELS, strict=True))


def pairs() -> TensorDataset:
    return TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))


FORMS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "arrays": lambda: (PIXELS, LABELS),
    "channels last": lambda: (PIXELS.transpose(0, 2, 3, 1), LABELS),
    "tensors": lambda: (torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
    "lists": lambda: ([*PIXELS], LABELS.tolist()),
    "a list of tensors": lambda: ([*torch.from_numpy(PIXELS)], LABELS.astype(np.uint8)),
    "a data set": lambda: (pairs(),),
    "a subset": lambda: (Subset(pairs(), range(13)),),
    "pictures": lambda: (Pictures(),),
    "listed labels": lambda: (Told(),),
    "mappings": lambda: (Hub(),),
    "a stream": lambda: (Stream(),),
    "a loader": lambda: (DataLoader(pairs(), batch_size=4),),
    "a loader of mappings": lambda: (DataLoader(Hub(), batch_size=5),),
    "a loader of a stream": lambda: (DataLoader(Stream(), batch_size=3),),
}


def own(images: Any, labels: Any = None, samples: Any = None) -> Dataset:
    return own_data(images, labels, "mine", parse_samples(samples), False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("samples", [None, 7, "first:5", [12, 0, 4]])
def test_every_form_gives_the_same_samples(form: str, samples: Any) -> None:
    data = own(*FORMS[form](), samples=samples)
    rows = chosen_rows(LABELS, parse_samples(samples), "mine")
    assert data.indices.tolist() == rows.tolist()
    assert data.labels.tolist() == LABELS[rows].tolist()
    assert (data.pixels[slice(0, None)].numpy() == PIXELS[rows]).all()
    assert torch.equal(data.images(), torch.from_numpy(PIXELS[rows]) / 255)
    whole = Dataset(
        data.info, "test", torch.from_numpy(PIXELS), torch.from_numpy(LABELS), (), torch.arange(13)
    )
    assert data.digest == whole.take(torch.from_numpy(rows)).digest


def folder(at: Path, size: tuple[int, int] = (5, 6)) -> Path:
    """A folder for each class; the images' numbers keep their order within one."""
    for row, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        place = at / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        image.resize(size, Image.Resampling.NEAREST).save(place / f"{row:03}.png")
    return at


def split(at: Path) -> Path:
    folder(at / "val")
    (at / "train" / "ant").mkdir(parents=True)
    return at


def parquet(at: Path, group: int = 4) -> Path:
    cells = []
    for pixels in PIXELS:
        path = at.parent / "cell.png"
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
        cells.append({"bytes": path.read_bytes(), "path": None})
    table = pa.table({"image": cells, "label": LABELS})
    pq.write_table(table, at, row_group_size=group)
    return at


def npz(at: Path, **arrays: Any) -> Path:
    np.savez(at, **{"images": PIXELS, "labels": LABELS, "class_names": np.array(NAMES), **arrays})
    return at


PATHS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda at: folder(at / "photos"),
    "split": lambda at: split(at / "photos"),
    "parquet": lambda at: parquet(at / "photos.parquet"),
    "shards": lambda at: parquet(at / "test-00000-of-00001.parquet").parent,
    "npz": lambda at: npz(at / "photos.npz"),
    "npz by other names": lambda at: npz(
        at / "p.npz", images=np.zeros(0), x_test=PIXELS.transpose(0, 2, 3, 1), y_test=LABELS
    ),
}


@pytest.mark.parametrize("kind", [k for k in PATHS if k != "npz by other names"])
@pytest.mark.parametrize("samples", [None, "first:5", [12, 0, 4], 7])
def test_every_kind_of_file_gives_the_same_samples(kind: str, samples: Any, tmp_path: Path) -> None:
    data = own_data_at(PATHS[kind](tmp_path), "mine", parse_samples(samples), False)
    order = np.argsort(LABELS, kind="stable") if kind in ("folder", "split") else np.arange(13)
    rows = chosen_rows(LABELS[order], parse_samples(samples), "mine")
    assert data.indices.tolist() == rows.tolist()
    assert data.labels.tolist() == LABELS[order][rows].tolist()
    assert (data.pixels[slice(0, None)].numpy() == PIXELS[order][rows]).all()
    if kind not in ("parquet", "shards"):
        assert data.class_names == NAMES


def test_arrays_of_an_archive_have_their_usual_names(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x_test=PIXELS.transpose(0, 2, 3, 1), y_test=LABELS)
    data = own_data_at(tmp_path / "a.npz", None, None, False)
    assert (data.pixels[slice(0, None)].numpy() == PIXELS).all()
    assert data.info.name == "a"


def test_floats_stay_as_they_are() -> None:
    exact = RNG.random((4, 1, 3, 3))
    for images in (exact, torch.from_numpy(exact), exact.astype(np.float32)[:, 0]):
        data = own(images, [0, 1, 0, 1])
        assert data.images().numpy().tolist() == exact.astype(np.float32).tolist()
    assert own(torch.from_numpy(exact).bfloat16(), [0, 1, 0, 1]).images().dtype == torch.float32


def test_usual_eps_go_by_channels() -> None:
    assert own(PIXELS, LABELS).info.threats == {"Linf": "8/255", "L2": "0.5"}
    assert own(PIXELS[:, :1], LABELS).info.threats == {"Linf": "0.3", "L2": "2"}


def test_only_chosen_images_are_read() -> None:
    told = Told()
    own(told, samples=[3, 7])
    assert told.read == [3, 7]


def test_a_stream_is_read_no_further_than_it_must_be() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield PIXELS[0], 1

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return endless()

    assert len(own(Endless(), samples="first:300")) == 300


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (PIXELS, None, "images need labels"),
        (PIXELS, LABELS[:5], "13 images and 5 labels"),
        (PIXELS[:0], LABELS[:0], "no image"),
        (PIXELS.astype(int), LABELS, "give uint8 from 0 to 255, or floats"),
        (PIXELS.astype(float), LABELS, "divide by 255"),
        (PIXELS / 127.5 - 1, LABELS, "leave out what normalises"),
        (np.full((2, 3, 4, 4), np.nan), [0, 1], "NaN or infinity"),
        (np.full((2, 3, 4, 4), np.inf), [0, 1], "NaN or infinity"),
        (PIXELS[0, 0], LABELS, "shape (6, 5)"),
        ("photos", LABELS, "a str"),
        ({"a": 1}, LABELS, "a dict"),
        ([PIXELS[0], PIXELS[0, :1]], [0, 1], "images"),
        (PIXELS, np.eye(3)[LABELS], "argmax(1)"),
        (PIXELS, LABELS - 1, "labels hold -1"),
        (PIXELS, LABELS + 0.5, "labels hold 0.5"),
        (PIXELS, ["a"] * 13, "whole numbers"),
        (PIXELS, [np.nan] * 13, "whole numbers"),
        (pairs(), LABELS, "leave labels= out"),
        (TensorDataset(torch.from_numpy(PIXELS)), None, "a sample is a tuple"),
        (Subset(pairs(), []), None, "empty"),
        (torch.from_numpy(PIXELS).to_sparse(), LABELS, "sparse_coo: give dense"),
        (PIXELS, torch.zeros(13, device="meta"), "on the device meta"),
        (TensorDataset(torch.from_numpy(PIXELS), torch.zeros(13, 2)), None, "has 2 labels"),
        (DataLoader(TensorDataset(torch.from_numpy(PIXELS)), 4), None, "a sample is a list"),
    ],
)
def test_what_are_no_samples_is_one_line(images: Any, labels: Any, said: str) -> None:
    with pytest.raises(DataError, match=r".") as raised:
        own(images, labels)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_a_data_set_raises_is_one_line() -> None:
    class Broken(Pictures):
        def __getitem__(self, row: int) -> Any:
            raise OSError("disk\non fire")

    with pytest.raises(DataError, match=r"OSError: disk.*mend that"):
        own(Broken())


def test_images_of_several_shapes_are_refused(tmp_path: Path) -> None:
    class Uneven(Pictures):
        def __getitem__(self, row: int) -> Any:
            return PIXELS[row][:, : 3 + row % 2], 1

    with pytest.raises(DataError, match=r"images differ: \(3, 3, 5\).*\(3, 4, 5\)"):
        own(Uneven())
    place = folder(tmp_path / "photos")
    Image.new("RGB", (9, 9)).save(place / "bee" / "large.png")
    with pytest.raises(DataError, match=r"large\.png 9×9: make all images one size"):
        own_data_at(place, None, None, False)


def test_grey_images_have_one_channel_and_one_colour_image_makes_three(tmp_path: Path) -> None:
    for k, name in enumerate(NAMES):
        (tmp_path / "g" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 40 * k).save(tmp_path / "g" / name / "a.png")
    assert own_data_at(tmp_path / "g", None, None, False).pixels.shape[-3:] == (1, 4, 4)
    Image.new("RGB", (4, 4)).save(tmp_path / "g" / "cat" / "b.png")
    data = own_data_at(tmp_path / "g", None, None, False)
    assert data.images().shape == (4, 3, 4, 4)


def pickled(at: Path) -> Path:
    np.savez(at, images=np.array([{}, {}], object), labels=np.array([0, 1]))
    return at


def cut_short(at: Path) -> Path:
    content = npz(at).read_bytes()
    at.write_bytes(content[: len(content) // 2])
    return at


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda at: at / "nix", "do not exist"),
        (lambda at: (at / "a.csv").write_text("x") and at / "a.csv", "can't be read: "),
        (lambda at: pickled(at / "a.npz"), "Python objects, which are never read"),
        (lambda at: cut_short(at / "a.npz"), "can't be read as .npz"),
        (lambda at: npz(at / "a.npz", labels=LABELS[:4]), "13 images and 4 labels"),
        (lambda at: npz(at / "a.npz", images=PIXELS.astype(complex)), "its images are complex128"),
        (lambda at: npz(at / "a.npz", images=np.asfortranarray(PIXELS)), "Fortran's order"),
        (lambda at: npz(at / "a.npz", class_names=np.array([1, 2, 3])), "array of texts"),
        (lambda at: at, "no class folders"),
    ],
)
def test_files_that_hold_no_samples_are_one_line(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r".") as raised:
        own_data_at(make(tmp_path), None, None, False)
    assert said in str(raised.value)


def test_an_entry_of_the_users_own_names_data_that_no_folder_holds(tmp_path: Path) -> None:
    folder(tmp_path / "bugs" / "test")
    (tmp_path / "bugs.toml").write_text(
        'name = "bugs"\ntitle = "Bugs"\nshape = [3, 6, 5]\nclasses = 3\ntest_samples = 13\n'
        '[threats]\nLinf = "1/255"\nL2 = "0.1"\n'
    )
    data = own_data_at(tmp_path / "bugs.toml", None, parse_samples("first:4"), False, tmp_path)
    assert data.info.own
    assert data.info.threats == {"Linf": "1/255", "L2": "0.1"}
    assert (data.labels.tolist(), data.class_names) == ([0, 0, 0, 0], NAMES)


def test_classes_are_the_models() -> None:
    data = own(PIXELS, LABELS)
    assert of_classes(data, 5).class_names == ("0", "1", "2", "3", "4")
    with pytest.raises(DataError, match="has a label 2, the model 2 classes"):
        of_classes(data, 2)
    with pytest.raises(DataError, match=r"has 3 classes \(ant, bee, cat\), the model 5"):
        of_classes(own(Pictures()), 5)


def test_own_data_never_bear_a_known_name() -> None:
    assert own_name("mnist") == "mnist (own)"
    assert own_name(" my\n photos ") == "my photos"
    assert (is_known("mnist"), is_known("./mnist"), is_known("nix")) == (True, False, False)


# Which samples


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("all", None),
        (None, None),
        ("12", 12),
        (12, 12),
        ("first:3", First(3)),
        ([4, 2], Listed((2, 4))),
        (np.array([4, 2]), Listed((2, 4))),
        (torch.tensor([4, 2]), Listed((2, 4))),
        (range(3), Listed((0, 1, 2))),
        (First(3), First(3)),
    ],
)
def test_samples_are_asked_for_in_four_ways(given: Any, meant: Any) -> None:
    assert parse_samples(given) == meant


@pytest.mark.parametrize(
    "given",
    ["", "some", "first:", "first:0", "0", 0, -1, 1.5, True, [], [1, 1], [-1], ["a"], b"12", {}],
)
def test_other_samples_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(RobustevalError, match="samples"):
        parse_samples(given)


def test_a_list_of_indices_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff7, 3 # two of them\n\n11\n".encode())
    assert parse_samples(f"@{path}") == Listed((3, 7, 11))
    for content, said in {"": "none is listed", "1 x": "'x'", "2 2": "stands twice"}.items():
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            parse_samples(f"@{path}")
    with pytest.raises(DataError, match="can't be read"):
        parse_samples(f"@{tmp_path}")


def test_rows_beyond_the_data_are_refused() -> None:
    for samples in (Listed((0, 13)), First(14), 14):
        with pytest.raises(DataError, match="13"):
            chosen_rows(LABELS, samples, "mine")
    assert chosen_rows(LABELS, 14, "mine", at_most=True).tolist() == list(range(13))


def test_a_balanced_choice_grows_with_its_number() -> None:
    before: set[int] = set()
    for count in range(1, 14):
        rows = chosen_rows(LABELS, count, "mine")
        per_class: NDArray[np.int64] = np.bincount(LABELS[rows], minlength=3)
        assert before < set(rows.tolist())
        assert per_class.max() - per_class.min() <= 1 or per_class.min() == 4
        before = set(rows.tolist())


MEASURED = """
import resource, sys, torch
from torch.utils.data import DataLoader, IterableDataset
from robusteval.data.own import own_data

class Many(IterableDataset):
    def __iter__(self):
        return ((torch.full((3, 64, 64), k % 7 / 7), k % 5) for k in range(int(sys.argv[1])))

data = own_data(DataLoader(Many(), batch_size=50), None, "many", 100, False)
assert data.images().shape == (100, 3, 64, 64) and data.digest
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_a_loaders_length() -> None:
    def peak(count: int) -> int:  # MiB
        ran = [sys.executable, "-c", MEASURED, str(count)]
        return int(subprocess.run(ran, check=True, capture_output=True, text=True).stdout)

    few, many = peak(200), peak(4_000)
    assert many - few < 40  # all of them are 188 MiB
