"""How a run is asked for: every option by its kind, before anything is loaded."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from robusteval.catalogue import near_names
from robusteval.data.choice import Samples, parse_samples
from robusteval.data.locate import data_root
from robusteval.data.outliers import check_folder
from robusteval.durations import parse_duration
from robusteval.errors import RobustevalError, cut, shown
from robusteval.evidence.located import require_usable
from robusteval.hardware import check_device, most_threads, most_workers
from robusteval.places import Place, Url, parse_place, without_secrets
from robusteval.plan.spec import Keep
from robusteval.reading import parse_path
from robusteval.run.crew import Crew, crew_of, parse_workers
from robusteval.run.progress import Progress, Silent
from robusteval.types import parse_float, parse_number, parse_whole

LARGEST_BATCH = 100_000  # images
SHORTEST_LIMIT = 1e-9  # seconds
MOST_GPUS = 64  # of one worker


@dataclass(frozen=True)
class Options:
    """How a run is made.

    - ``samples``: how many, class-balanced; or ``"first:256"``; or ``"@FILE"`` or a list, of
      indices.  None takes all.  ``at_most``: if the data set has fewer, all of them are taken.
    - ``data``: the path of your own data (see ``data.paths``), or the name of a known data set, in
      the place of the model's data set.  ``data_dir``: where known data sets are looked for.
      ``download``: fetch a missing one through torchvision.
    - ``eps``: radii, as text or numbers; L∞ unless written ``"L2:0.5"``.
    - ``only``: names of the suite's attacks, if not all are to run.
    - ``sources``: models whose adversarial images are tried as well, step by step.  The attacked
      model itself is left out.
    - ``static_sources``: models on which the suite's attacks run, too.  The images are counted on
      the attacked model, which is never asked before.  It is left out itself.
    - ``surrogate``: an entry, or a module, whose gradients ``adaptive`` follows after the attacked
      model's own.  Success stays the latter's word.
    - ``outlier_folders``: folders of images, as further outliers.
    - ``fit_data``: the path of training data of your own, which detectors are fitted to (see
      ``data.paths``); or ``fit_images`` and ``fit_labels``, which are what ``evaluate`` takes as
      images and labels.
    - ``seed``: of all randomness.
    - ``batch_size``: images attacked together; by default by the images' size.
    - ``device``: ``cpu``, ``cuda``, ``cuda:1``.
    - ``workers``: how many processes, with ``threads`` each; by default the machine's cores are
      shared among them.  ``"ray"`` and ``"ray:4"`` are workers of a Ray cluster: that at
      ``ray_address``, or one for this run, with ``gpus_per_worker`` each.
    - ``keep``: which adversarial images are stored, the ``first`` success of each sample and threat
      model, or ``all``.
    - ``time_limit``: seconds for each attack.
    - ``budget``: seconds, or text such as ``"10m"``, that the whole run is planned for.  Attacks,
      other parts of the suite and samples are left out for it, and the report says which.
    - ``allow_code``: let an entry's Python factory run.
    - ``out``: the folder for runs, or a URL that fsspec knows, such as ``s3://bucket/runs``.
    - ``progress``: is told how far the run is (``robusteval.run.progress``).

    Numbers and paths may be text.  A single value may stand where several are taken.  Raises
    RobustevalError for a value of another kind.
    """

    samples: Samples = None
    data: str | None = None
    seed: int = 0
    eps: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    batch_size: int | None = None
    device: str = "cpu"
    workers: int | str = 1
    threads: int | None = None
    ray_address: str | None = None
    gpus_per_worker: float | None = None
    keep: Keep = "first"
    sources: tuple[str, ...] = ()
    static_sources: tuple[str, ...] = ()
    surrogate: str | nn.Module | None = None
    time_limit: float | None = None
    budget: float | None = None
    data_dir: Path | None = None
    download: bool = False
    outlier_folders: tuple[Path, ...] = ()
    fit_data: str | None = None
    fit_images: Any = None
    fit_labels: Any = None
    allow_code: bool = False
    out: Place = Path("runs")
    at_most: bool = False
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        for name, read in _READ.items():
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, read(given))
            except (TypeError, ValueError, OverflowError) as error:
                told = without_secrets(given) if isinstance(given, str) else given
                raise RobustevalError(f"{name} = {shown(told)}: {error}") from None

    @property
    def crew(self) -> Crew:
        """Who does the run's jobs."""
        return crew_of(self.workers, self.ray_address, self.gpus_per_worker)


class OptionKeywords(TypedDict, total=False):
    """The same, as keywords of ``evaluate`` and ``estimate``."""

    samples: int | str | Sequence[int] | None
    data: str | Path | None
    seed: int
    eps: str | float | Sequence[str | float]
    only: str | Sequence[str]
    batch_size: int | None
    device: str
    workers: int | str
    threads: int | None
    ray_address: str | None
    gpus_per_worker: float | None
    keep: Keep
    sources: str | Sequence[str]
    static_sources: str | Sequence[str]
    surrogate: str | Path | nn.Module | None
    time_limit: float | None
    budget: str | float | None
    data_dir: str | Path | None
    download: bool
    outlier_folders: str | Path | Sequence[str | Path]
    fit_data: str | Path | None
    fit_images: Any
    fit_labels: Any
    allow_code: bool
    out: str | Path
    at_most: bool
    progress: Progress


# What `evaluate` takes beside options.
_OTHERS = ("images", "labels", "name", "suite", "dataset", "classes")


def options_of(options: Options | None, keywords: Mapping[str, Any]) -> Options:
    """Options given together or by keyword.  Raises RobustevalError for both, and for others.

    >>> options_of(None, {"samples": 200, "seed": 1}).samples
    200
    >>> options_of(None, {"seeed": 200})
    Traceback (most recent call last):
    robusteval.errors.RobustevalError: unknown option seeed: did you mean seed?
    """
    known = [*(option.name for option in fields(Options)), *_OTHERS]
    if "norm" in keywords:
        raise RobustevalError("unknown option norm: write it into eps, such as eps='L2:0.5'")
    if unknown := [name for name in keywords if name not in known]:
        raise RobustevalError(
            f"unknown option {cut(unknown[0], 60)}: {near_names(unknown[0], known)}"
        )
    if options is None:
        return Options(**keywords)
    if keywords:
        raise RobustevalError(
            f"options= and {', '.join(f'{name}=' for name in keywords)} were both given: put all "
            "of them into options, or give each by keyword"
        )
    if not isinstance(options, Options):
        raise RobustevalError(f"options = {shown(options)}: pass api.Options(…)")
    return options


def _some(value: Any) -> int | None:
    return None if value is None else parse_whole(value)


def _seconds(value: Any) -> float | None:
    if value is None or isinstance(value, float):  # its range is checked with the others'
        return value
    return parse_float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("choose True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError("give a name")
    return str(value)


def _eps(value: Any) -> str:
    """A number as people write it; text is read with its norm, later."""
    if not isinstance(value, str):
        parse_number(value)
    return str(value)


def _several(value: Any) -> tuple[Any, ...]:
    """A single value stands for one, None for none."""
    if value is None:
        return ()
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        return (value,)
    if isinstance(value, bytes | dict):
        raise ValueError("give a list")
    return tuple(value)


def _progress(value: Any) -> Progress:
    if not isinstance(value, Progress):
        raise ValueError("give an object with the methods of robusteval.run.progress")
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "samples": parse_samples,
    "data": lambda value: None if value is None else _text(value),
    "fit_data": lambda value: None if value is None else _text(value),
    "seed": parse_whole,
    "eps": lambda value: tuple(map(_eps, _several(value))),
    "only": lambda value: tuple(map(_text, _several(value))),
    "keep": _text,
    "sources": lambda value: tuple(map(_text, _several(value))),
    "static_sources": lambda value: tuple(map(_text, _several(value))),
    "surrogate": lambda value: value if isinstance(value, nn.Module | None) else _text(value),
    "batch_size": _some,
    "device": str,
    "workers": parse_workers,
    "ray_address": lambda value: None if value is None else _text(value),
    "gpus_per_worker": _seconds,
    "threads": _some,
    "time_limit": _seconds,
    "budget": lambda value: None if value is None else parse_duration(value),
    "data_dir": lambda value: None if value is None else parse_path(value),
    "outlier_folders": lambda value: tuple(map(parse_path, _several(value))),
    "out": parse_place,
    "download": _flag,
    "allow_code": _flag,
    "at_most": _flag,
    "progress": _progress,
}


def check_options(options: Options) -> None:
    """Raises RobustevalError for what makes no sense, before anything is loaded."""
    if not 0 <= options.seed < 2**32:
        raise RobustevalError(f"--seed {options.seed}: choose 0 to {2**32 - 1}")
    limits = {
        "batch-size": (options.batch_size, LARGEST_BATCH),
        "threads": (options.threads, most_threads()),
        "workers": (None if options.crew.is_ray else options.crew.count, most_workers()),
    }
    _check_ray(options)
    for name, (value, most) in limits.items():
        if value is not None and not 1 <= value <= most:
            raise RobustevalError(f"--{name} {value}: choose 1 to {most} on this machine")
    if options.keep not in ("first", "all"):
        raise RobustevalError(f"--keep {shown(options.keep)}: choose first or all")
    limit = options.time_limit
    if limit is not None and not (math.isfinite(limit) and limit >= SHORTEST_LIMIT):
        raise RobustevalError(f"--time-limit {limit:g}: choose a positive number of seconds")
    _check_fit_data(options)
    check_device(options.device)
    require_usable(options.out)
    _require_shared(options.out, options.crew)
    data_root(options.data_dir)
    for folder in options.outlier_folders:
        check_folder(folder)


def _require_shared(out: Place, crew: Crew) -> None:
    """Raises RobustevalError for workers that can't see the run."""
    is_alone = crew.count == 1 and not crew.is_ray
    if isinstance(out, Url) and out.is_of_one_process and not is_alone:
        raise RobustevalError(f"--out {out}: a memory belongs to one process: use --workers 1")


def _check_fit_data(options: Options) -> None:
    """Raises RobustevalError for training data that were given twice, or labels alone."""
    if options.fit_data is not None and options.fit_images is not None:
        raise RobustevalError("fit_images= and fit_data= were both given: leave one out")
    if options.fit_labels is not None and options.fit_images is None:
        raise RobustevalError("fit_labels= need images: pass fit_images=…, too")


def _check_ray(options: Options) -> None:
    """Raises RobustevalError for what goes with Ray alone, and for no share of a GPU."""
    given = {"ray-address": options.ray_address, "gpus-per-worker": options.gpus_per_worker}
    for name, value in given.items():
        if value is not None and not options.crew.is_ray:
            raise RobustevalError(f"--{name} {shown(value)}: goes with --workers ray")
    if (gpus := options.gpus_per_worker) is not None and not 0 < gpus <= MOST_GPUS:
        raise RobustevalError(f"--gpus-per-worker {gpus:g}: choose above 0 to {MOST_GPUS}")
