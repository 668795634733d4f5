"""Images of the user's own, from Python and at paths: types, shapes, ranges, damaged files."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.families.calls import images_table, labels_table, some_samples
from benchmarks.families.made import Made
from benchmarks.trials import EITHER, REFUSED, TAKEN, Case, call, shown

_FAMILY = "own data"
_TAKEN_AS_DATA = {  # what no attack takes, but data may be
    **dict.fromkeys(("uint8", "a list", "float64", "half", "bfloat16", "NumPy"), TAKEN),
    **dict.fromkeys(("a little above 1", "in [0, 255]", "no images", "bool"), REFUSED),
    **dict.fromkeys(("other channels", "expanded", "a tuple", "sparse"), EITHER),
    "text": EITHER,  # a suite's name, if there is one
    "None": EITHER,  # labels alone are refused, nothing at all is a run on the model's data
    "float": TAKEN,  # labels that are whole
}


def from_python(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each kind of images and of labels in the place of data."""
    for told, (change, right) in images_table().items():
        right = _TAKEN_AS_DATA.get(told, right)
        yield _evaluated(f"images: {told}", lambda x, y, change=change: (change(x), y), right)
    for told, (change, right) in labels_table().items():
        right = _TAKEN_AS_DATA.get(told, right)
        yield _evaluated(f"labels: {told}", lambda x, y, change=change: (x, change(y)), right)
    for told, make in _sources().items():
        right = TAKEN if told.startswith("a sound") else REFUSED
        yield _evaluated(told, lambda x, y, make=make: (make(x, y), None), right)


def _evaluated(told: str, change: Callable[[Any, Any], Any], right: frozenset[int]) -> Case:
    def act() -> None:
        from robusteval import api

        model, images, labels = some_samples()
        given, told_labels = change(images, labels)
        api.estimate(model, given, told_labels, suite="quick", only="fgsm", threads=1)

    return Case(_FAMILY, told, call(act), right=right)


def _sources() -> dict[str, Callable[[Any, Any], Any]]:
    """Data sets and loaders, most of them odd."""
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

    def of(item: Callable[[Any, Any, int], Any], count: int = 6) -> Callable[[Any, Any], Any]:
        def make(images: Any, labels: Any) -> Any:
            class Given(Dataset[Any]):
                def __len__(self) -> int:
                    return count

                def __getitem__(self, row: int) -> Any:
                    return item(images, labels, row)

            return Given()

        return make

    def failing(images: Any, labels: Any, row: int) -> Any:
        raise (ValueError("broken\nfile") if row < 3 else SystemExit(0))

    def stream(*items: Any) -> Callable[[Any, Any], Any]:
        class Given(IterableDataset[Any]):
            def __iter__(self) -> Iterator[Any]:
                return iter(items)

        return lambda images, labels: Given()

    return {
        "a sound data set": of(lambda x, y, i: (x[i], int(y[i]))),
        "a sound data set of tensors": TensorDataset,
        "a sound loader": lambda x, y: DataLoader(TensorDataset(x, y), 4),
        "a sound data set of three": of(lambda x, y, i: (x[i], y[i], {"meta": i})),
        "images alone": of(lambda x, y, i: x[i]),
        "images in tuples": of(lambda x, y, i: (x[i],)),
        "None for each": of(lambda x, y, i: None),
        "labels first": of(lambda x, y, i: (y[i], x[i])),
        "text for labels": of(lambda x, y, i: (x[i], "seven")),
        "negative labels": of(lambda x, y, i: (x[i], -1)),
        "labels beyond": of(lambda x, y, i: (x[i], 10)),
        "several labels each": of(lambda x, y, i: (x[i], y)),
        "sizes that differ": of(lambda x, y, i: (x[i][:, : 4 + i % 2], 0)),
        "types that differ": of(lambda x, y, i: (x[i] if i % 2 else (x[i] * 255).byte(), 0)),
        "NaN in one": of(lambda x, y, i: (x[i] + float("nan") * (i == 5), 0)),
        "one that fails": of(failing),
        "none": of(lambda x, y, i: (x[i], 0), 0),
        "a negative length": of(lambda x, y, i: (x[i], 0), -1),
        "too long a length": of(lambda x, y, i: (x[i], 0), 9),
        "an empty stream": stream(),
        "a stream of numbers": stream(1, 2, 3),
        "a loader of images alone": lambda x, y: DataLoader(x, 4),
        "a loader of numbers": lambda x, y: DataLoader([1, 2, 3], 2),  # type: ignore[arg-type]
        "a generator": lambda x, y: ((x, y) for _ in range(2)),
        "a class": lambda x, y: TensorDataset,
        "a module": lambda x, y: torch.nn.Identity(),
    }


_ARRAYS: dict[str, Any] = {
    "nothing": {},
    "images alone": {"images": np.zeros((4, 1, 8, 8), np.uint8)},
    "labels alone": {"labels": np.arange(4)},
    "objects": {"images": np.array([{}] * 4, object), "labels": np.arange(4)},
    "objects for labels": {"images": np.zeros((4, 8, 8)), "labels": np.array([{}] * 4, object)},
    "texts": {"images": np.array(["a"] * 4), "labels": np.arange(4)},
    "complex numbers": {"images": np.zeros((4, 8, 8), complex), "labels": np.arange(4)},
    "too few labels": {"images": np.zeros((4, 8, 8)), "labels": np.arange(3)},
    "a single number": {"images": np.zeros(()), "labels": np.zeros(())},
    "vectors": {"images": np.zeros((4, 64)), "labels": np.arange(4)},
    "five axes": {"images": np.zeros((4, 1, 1, 8, 8)), "labels": np.arange(4)},
    "NaN": {"images": np.full((4, 8, 8), np.nan), "labels": np.arange(4)},
    "no samples": {"images": np.zeros((0, 8, 8)), "labels": np.arange(0)},
    "no pixels": {"images": np.zeros((4, 0, 8)), "labels": np.arange(4)},
    "columns first": {"images": np.asfortranarray(np.zeros((4, 8, 8))), "labels": np.arange(4)},
    "names of another kind": {
        **{"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4)},
        "class_names": np.arange(10),
    },
    "control characters in names": {
        **{"images": np.zeros((4, 8, 8), np.uint8), "labels": np.arange(4)},
        "class_names": np.array(["a\nb"] * 10),
    },
}


def at_paths(made: Made, rng: random.Random) -> Iterator[Case]:
    """``--data``: archives that hold other things, cut or flipped ones, what is no data."""
    for told, arrays in _ARRAYS.items():
        yield _at("given.npz", f".npz: {told}", lambda a=arrays: np.savez("given.npz", **a))
    sound = {"images": np.zeros((20, 1, 8, 8), np.uint8), "labels": np.arange(20) % 10}
    yield _at("given.npz", ".npz: sound", lambda: np.savez("given.npz", **sound), TAKEN)
    for _ in range(12):
        place = rng.random()
        yield _at("given.npz", f".npz: cut at {place:.3f}", lambda p=place: _cut(sound, p))
        flip = lambda p=place: _flipped(sound, p)  # noqa: E731
        yield _at("given.npz", f".npz: a byte at {place:.3f}", flip, EITHER)
    for name in ("nix", "a.csv", "a.pt", "a.parquet", "a.toml", "a\nb", "$HOME", "~nix", "x" * 300):
        yield _at(name, f"--data {shown(name)}", lambda: None)
    for name in ("a.npz", "a.parquet", "a.toml", "folder.npz"):
        yield _at(name, f"an empty {name}", lambda n=name: Path(n).write_bytes(b""))
        yield _at(name, f"a folder {name}", lambda n=name: Path(n).mkdir())


def _at(name: str, told: str, lay: Callable[[], object], right: frozenset[int] = REFUSED) -> Case:
    def act() -> None:
        from robusteval import api

        model, *_ = some_samples()
        api.estimate(model, suite="quick", only="fgsm", data=name, threads=1)

    return Case(_FAMILY, told, call(act), lay, right)


def _cut(arrays: dict[str, Any], share: float) -> None:
    path = Path("given.npz")
    np.savez(path, **arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _flipped(arrays: dict[str, Any], share: float) -> None:
    path = Path("given.npz")
    np.savez(path, **arrays)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x55
    path.write_bytes(content)
