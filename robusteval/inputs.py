"""What decides how a run of a registered model comes out, by content.  Imports no torch.

A run is decided by what was asked for, by the files that it reads, and by what is installed.  Where
more than that decides (a factory's or a plug-in's code, folders of images, an accelerator that may
be gone), ``digest_of_run`` gives None, and a run's spec has to tell.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusteval.arguments import parse_models
from robusteval.data.entry import MADE_TITLES, DatasetInfo
from robusteval.data.known import DATASETS, is_known
from robusteval.detection import UNFITTED
from robusteval.errors import RobustevalError
from robusteval.installed import Fact, content_of, digest_of, installation
from robusteval.models.entry import Entry
from robusteval.models.registry import entry_paths, find_entry
from robusteval.plan.suite import Detection, Suite, read_suite, suite_paths
from robusteval.plugins import plugins

if TYPE_CHECKING:
    from robusteval.data.locate import Source

Params = Mapping[str, Any]  # of the verb `run`, as they were parsed

_FILES = (".npz", ".parquet")  # own data that are one file
_NONE = "absent"


class _IntricateError(Exception):
    """Files don't tell all that decides."""


def digest_of_run(params: Params) -> str | None:
    """SHA-256 over all that decides how a run comes out, but for ``params``; None where files don't
    tell, or where no run could be."""
    with suppress(_IntricateError, RobustevalError, OSError):
        return digest_of([installation(), *_facts(params)])
    return None


def _stamp(path: Path) -> Fact:
    """Of a file that decides whether others are used at all."""
    about = os.stat(path)
    return str(path), about.st_size, about.st_mtime_ns, about.st_ino


def _facts(params: Params) -> Iterator[Fact]:
    models = parse_models(params["model"])
    if len(models) != 1:
        raise _IntricateError
    entry = find_entry(models[0])
    if (
        entry.factory
        or params["source"]
        or params["static_source"]
        or params["surrogate"]
        or params["outlier_dir"]
        or params["fit_data"]
        or params["device"] != "cpu"
    ):
        raise _IntricateError
    yield from (content_of(entry.path), content_of(entry.weights_path))
    if (samples := params["samples"]).startswith("@"):
        yield content_of(Path(samples[1:]))
    suite = _suite(params["suite"])
    yield content_of(suite[0])
    yield from _of_data(entry, suite[1], params)


def _suite(name: str) -> tuple[Path, Suite]:
    path = suite_paths().get(name) or Path(name)
    suite = read_suite(name)
    foreign = {plugin.name for kind in ("attacks", "detectors") for plugin in plugins(kind)}
    used = {a.attack for a in suite.attacks if a.library == "robusteval"}
    if suite.sources or foreign & {*used, *suite.detection.detectors}:
        raise _IntricateError
    return path, suite


def _of_data(entry: Entry, suite: Suite, params: Params) -> Iterator[Fact]:
    """The samples, and what depends on which data set they are of."""
    name, place = params["data"] or entry.dataset, params["data_dir"]
    if params["data"] and not is_known(name):
        path = Path(name)
        if path.suffix.lower() not in _FILES:
            raise _IntricateError
        yield content_of(path)
        return
    info = DATASETS.get(name)
    yield from _split(info, "test", place, needed=True)
    if suite.detection.detectors:
        yield from _outliers(info, suite.detection, place)
    if not set(suite.detection.detectors) <= set(UNFITTED):
        yield from _split(info, "train", place)
        if (outliers := suite.detection.tuning) in DATASETS:
            yield from _split(DATASETS.get(outliers), "test", place)
    if suite.diagnostics.samples:
        yield from _others()


def _split(
    info: DatasetInfo, split: str, data_dir: Path | None, needed: bool = False
) -> Iterator[Fact]:
    """The files of a split, and whether those of the other are as they were: class names are held
    against each other."""
    yield content_of(info.path)
    if info.base:
        yield content_of(DATASETS.get(info.base).path)
    if info.reader == "sklearn_digits":
        yield content_of(_of_sklearn("datasets", "data", "digits.csv.gz"))
        return
    source = _source(info, split, data_dir)
    if source is None and needed:
        raise _IntricateError
    yield from map(content_of, source.files) if source else [(info.name, split, _NONE)]
    with suppress(RobustevalError):  # one that can't be used tells no names
        other = _source(info, "test" if split == "train" else "train", data_dir)
        yield from map(_stamp, other.files if other else ())


def _of_sklearn(*parts: str) -> Path:
    """A file of scikit-learn's, which isn't loaded."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise _IntricateError
    return Path(spec.origin).parent.joinpath(*parts)


def _source(info: DatasetInfo, split: str, data_dir: Path | None) -> "Source | None":
    """Where a split is.  A folder of loose images is too much to read for this."""
    from robusteval.data.locate import data_root, find_source

    if (root := data_root(data_dir)) is None:
        return None
    source = find_source(root, info.folders, info.torchvision, split, info.shape)
    if source is not None and source.layout == "folder":
        raise _IntricateError
    return source


def _outliers(info: DatasetInfo, detection: Detection, data_dir: Path | None) -> Iterator[Fact]:
    """The sets that a suite names, or the first ``natural`` ones that are there, and those before
    them that are not."""
    if detection.sets:
        members = {"near": info.near, "far": info.far, "noise": ()}
        for name in detection.sets:
            yield from (f for n in members.get(name, (name,)) for f in _outlier_set(n, data_dir))
        return
    natural = detection.natural
    for name in info.outliers:
        if natural == 0:
            return
        found = _outlier_set(name, data_dir)
        yield from found
        natural -= not any(_NONE in fact for fact in found)


def _outlier_set(name: str, data_dir: Path | None) -> list[Fact]:
    """The files of a set; those of a base that leaves classes out were told with the samples."""
    return [] if name in MADE_TITLES else list(_split(DATASETS.get(name), "test", data_dir))


def _others() -> Iterator[Fact]:
    """Every registered model: one of them lends the diagnostics its adversarials."""
    for path in entry_paths().values():
        yield content_of(path)
    for folder in sorted({path.parent for path in entry_paths().values()}):
        yield from (_stamp(folder / name) for name in sorted(os.listdir(folder)))
