"""What ``robusteval list`` lists, as rows of plain data.  Imports no torch where it need not."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusteval.errors import RobustevalError, WeightsError
from robusteval.models.entry import Entry, weights_content
from robusteval.models.registry import all_entries
from robusteval.models.tensors import held_by, left_of_each_class
from robusteval.report.wording import claimed_by, lowest_claim

if TYPE_CHECKING:
    from robusteval.attacks.record import Library

Rows = list[dict[str, Any]]


def models(data_dir: Path | None) -> Rows:
    """Every entry, its weights' digest checked; a broken one with what is wrong with it."""
    return [
        _model(e) if isinstance(e, Entry) else {"name": "(broken)", "problem": str(e)}
        for e in all_entries()
    ]


def _model(entry: Entry) -> dict[str, Any]:
    trained = entry.trained
    lowest = lowest_claim(c.model_dump() for c in entry.claims)
    return {
        "name": entry.name,
        "method": entry.method,
        "training": entry.training.kind if entry.training else "",
        "dataset": entry.dataset,
        "clean": trained.clean_accuracy if trained else None,
        "clean_count": f"{trained.clean_correct}/{trained.clean_total}" if trained else None,
        "claim": f"{lowest['accuracy']} % {claimed_by(lowest)}" if lowest else "",
        "path": str(entry.path),
        **_weights(entry),
    }


def _weights(entry: Entry) -> dict[str, str]:
    """Whether the weights are there, and their digest is the entry's."""
    if entry.stored is None:
        return {"weights": entry.lacking}
    try:
        weights_content(entry)
    except RobustevalError as error:
        return {"weights": "unusable", "problem": str(error)}
    return {"weights": "checked"}


def weights(entry: Entry) -> dict[str, Any]:
    """What an entry's weights file holds: its tensors by name, and how many numbers they have.

    Raises WeightsError where it can't be read, or isn't the one that the entry names.
    """
    held = held_by(entry)
    return {
        "file": str(entry.weights_path),
        "sha256": entry.stored.sha256 if entry.stored else None,
        "numbers": sum(one.count for one in held),
        "tensors": [{"name": h.name, "shape": list(h.shape), "type": h.type} for h in held],
    }


def prototypes_left(entry: Entry) -> dict[str, list[int]]:
    """How many different prototypes of each class the weights hold, by layer.

    Empty where no class may have several, and where the weights can't be read.
    """
    if entry.head.most_prototypes == 1 or entry.weights is None:
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(weights_content(entry))
        return {
            name: left_of_each_class(tensors[f"prototypes.{name}"]) for name in entry.head.layers
        }
    except (WeightsError, SafetensorError, KeyError, TypeError, ValueError):
        return {}


def datasets(data_dir: Path | None) -> Rows:
    """Every data set, which of its splits were found, and their classes in the labels' order.

    Raises DataError if a folder that the user named does not exist.
    """
    from robusteval.data.entry import MADE_TITLES
    from robusteval.data.known import DATASETS
    from robusteval.data.locate import data_root

    data_root(data_dir)
    rows: Rows = []
    for name in DATASETS:
        info = DATASETS.get(name)
        rows.append(
            {
                "name": name,
                "classes": info.classes,
                "shape": f"{info.shape.channels}×{info.shape.height}×{info.shape.width}",
                "threats": ", ".join(f"{k} {v}" for k, v in info.threats.items()),
                **_found(name, data_dir),
                "title": info.title,
                "license": info.license,
                "source": info.source,
                "path": str(info.path),
            }
        )
    for name, title in MADE_TITLES.items():
        rows.append({"name": name, "found": "made as outliers", "title": title})
    return rows


def _found(name: str, data_dir: Path | None) -> dict[str, Any]:
    """Which splits are there, each one's classes in order, and why others can't be used."""
    from robusteval.data.datasets import Split, class_order

    splits: tuple[Split, Split] = ("train", "test")
    orders: dict[str, list[str]] = {}
    problems = []
    for split in splits:
        try:
            order = class_order(name, split, data_dir)
        except RobustevalError as error:
            problems.append(f"{split} can't be used: {error}")
        else:
            orders |= {split: list(order)} if order else {}
    told = {"problem": "; ".join(problems)} if problems else {}
    return {"found": ", ".join(orders) or "no", "class_order": orders, **told}


def attacks(data_dir: Path | None) -> Rows:
    """The attacks of the suite `full`, those that packages add, of which none is loaded, and what
    else a suite may name of the libraries, with what is to be installed for it."""
    from robusteval.plan.suite import read_suite
    from robusteval.plugins import plugins

    rows: Rows = [
        {
            "name": a.name,
            "title": a.title,
            "library": a.library,
            "attack": a.attack,
            "norms": ", ".join(a.norms),
        }
        for a in read_suite("full").attacks
    ]
    of_packages = [
        {"name": p.name, "library": "robusteval", "attack": p.name, "package": p.package}
        for p in plugins("attacks")
    ]
    return [*rows, *of_packages, *_by_name({(a["library"], a["attack"]) for a in rows})]


def _by_name(shown: set[tuple[str, str]]) -> Rows:
    """The libraries' other attacks, by the names that suites give them."""
    from robusteval.attacks.registry import LIBRARIES

    return [
        {
            "name": attack.key,
            "library": library,
            "attack": name,
            "norms": ", ".join(attack.norms),
            **_needs(attack.library),
        }
        for library, attacks in LIBRARIES.items()
        for name, attack in attacks.items()
        if (library, name) not in shown
    ]


def _needs(library: "Library") -> dict[str, str]:
    """What to do where a library isn't installed."""
    try:
        assert library.version
    except RobustevalError:
        return {"needs": library.install}
    return {}


def detectors(data_dir: Path | None) -> Rows:
    """Every detector: whose it is, what it reads and needs, whether it passes a gradient on to the
    images and how many passes of its own it takes.  Those that packages add aren't loaded, so of
    these nothing more is known."""
    from robusteval.detection.registry import DETECTORS
    from robusteval.plugins import plugins

    rows: Rows = [
        {
            "name": record.name,
            "title": record.title,
            "source": record.source,
            "package": record.package,
            "reads": record.reads,
            "needs prototypes": "yes" if record.needs_prototypes else "no",
            "needs linear layer": "yes" if record.needs_linear_head else "no",
            "needs training data": "yes" if record.needs_training_data else "no",
            "gradient": "yes" if record.gradient else "no",
            "own passes": record.own_passes,
        }
        for record in DETECTORS.own()
    ]
    return [*rows, *({"name": p.name, "package": p.package} for p in plugins("detectors"))]


def suites(data_dir: Path | None) -> Rows:
    """The suites that come with the project, and those of packages."""
    from robusteval.plan.suite import read_suite, suite_sources

    found = []
    for name, (_, package) in suite_sources().items():
        try:
            suite = read_suite(name)
        except RobustevalError as error:
            found.append(
                {"name": name, "attacks": 0, "package": package, "description": str(error)}
            )
            continue
        found.append(
            {
                "name": name,
                "attacks": len(suite.attacks),
                "package": package,
                "description": suite.description,
            }
        )
    return found


ROWS: dict[str, Callable[[Path | None], Rows]] = {
    "models": models,
    "datasets": datasets,
    "attacks": attacks,
    "detectors": detectors,
    "suites": suites,
}
