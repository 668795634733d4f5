"""What is installed here, what is found, and how models would compute: `robusteval doctor`.

It tries what it tells of: packages are imported, plug-ins loaded, a small network is timed.
"""

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, get_args

from robusteval import __version__, listing
from robusteval.errors import DataError, RobustevalError, reason
from robusteval.extras import EXTRAS
from robusteval.hardware import cores, devices, hardware_name
from robusteval.plugins import Kind, Plugin, plugins
from robusteval.vision import make_importable

Rows = list[dict[str, Any]]
# Where a package's module has another name.
_MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
_NOT_TRIED = {"dev"}  # an extra for those who work on the project itself
_REQUIREMENT = re.compile(r"([\w.\-]+)[^;]*(?:;.*extra\s*==\s*['\"]([\w\-]+)['\"])?")


def examined(data_dir: Path | None = None) -> dict[str, Any]:
    """All of it, as plain data; ``data_dir``: instead of ``$ROBUSTEVAL_DATA`` and the cache."""
    return {
        "robusteval": __version__,
        "python": platform.python_version(),
        "packages": packages(),
        "device": device(),
        "forms": forms(),
        "datasets": datasets(data_dir),
        "models": models(),
        "plugins": plugged(),
    }


def packages() -> Rows:
    """Each package that the project or one of its extras needs, and whether it can be imported."""
    make_importable()
    return [_package(name, extra) for name, extra in _required()]


def _required() -> Iterator[tuple[str, str]]:
    """Packages and the extra that each belongs to, empty for what every user has."""
    try:
        stated = requires("robusteval") or []
    except PackageNotFoundError:  # a checkout that nothing installed
        stated = []
    found = [match.groups(default="") for line in stated if (match := _REQUIREMENT.match(line))]
    yield from ((name, extra) for name, extra in found if extra not in _NOT_TRIED)


def _package(name: str, extra: str) -> dict[str, Any]:
    row = {"name": name, "extra": extra, "version": None, "imports": False, "problem": ""}
    try:
        row["version"] = version(name)
        with redirect_stdout(sys.stderr):
            import_module(_MODULES.get(name, name.replace("-", "_")))
    except PackageNotFoundError:
        install = EXTRAS.get(extra, f"pip install 'robusteval[{extra}]'")
        row["problem"] = f"not installed: {install}" if extra else "not installed"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything
        row["problem"] = f"can't be imported ({type(error).__name__}: {reason(error)})"
    else:
        row["imports"] = True
    return row


def device() -> dict[str, Any]:
    """The processor, its cores and torch's threads, and accelerators by name."""
    import torch

    accelerators = [name for name in devices() if ":" in name]
    return {
        "processor": hardware_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "accelerators": {name: hardware_name(name) for name in accelerators},
    }


def forms() -> dict[str, Any]:
    """In which numeric form a small network would compute here, tried on each kind of device.

    Compiling pays in long runs alone, and isn't tried: ``compiler`` is what it would take.
    """
    compiler = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    kinds = dict.fromkeys(name.partition(":")[0] for name in devices())
    return {"compiler": compiler, **{kind: _forms(kind) for kind in kinds}}


def _forms(kind: str) -> dict[str, str]:
    import torch

    from robusteval.ambient import plain_state
    from robusteval.models.acceleration import choose_forms
    from robusteval.models.adapter import PrototypeAdapter
    from robusteval.models.backbones import BACKBONES
    from robusteval.models.head import Head
    from robusteval.models.network import PrototypeNetwork

    with torch.random.fork_rng(devices=[]), plain_state():
        torch.manual_seed(0)
        backbone = BACKBONES.get("resnet_small")(3)
        model = PrototypeAdapter(PrototypeNetwork(backbone, Head(), 10, [0.5], [0.25])).to(kind)
        chosen = choose_forms(model, torch.rand(32, 3, 32, 32).to(kind), passes=0)
    return dict(zip(("libraries", "gradients"), map(str, chosen), strict=True))


def datasets(data_dir: Path | None) -> dict[str, Any]:
    """Where data are looked for, and each set with the place that it was found in."""
    from robusteval.data.datasets import place_of
    from robusteval.data.locate import data_root

    try:
        root = data_root(data_dir)
    except DataError as error:
        return {"folder": None, "problem": str(error), "sets": []}
    rows = [row for row in listing.datasets(data_dir) if "classes" in row]
    sets = [
        {
            "name": row["name"],
            "found": row["found"],
            "place": place_of(row["name"], data_dir) if row["found"] != "no" else None,
            "problem": row.get("problem", ""),
        }
        for row in rows
    ]
    return {"folder": None if root is None else str(root), "problem": "", "sets": sets}


def models() -> dict[str, Any]:
    """The user's model folders, how many entries can be run, and what is wrong with others."""
    from robusteval.models.registry import user_folders

    rows = listing.models(None)
    return {
        "folders": [str(f) for f in user_folders() if isinstance(f, Path)],
        "usable": sum(row.get("weights") in ("checked", "none") for row in rows),
        "problems": [row["problem"] for row in rows if "problem" in row],
    }


def plugged() -> Rows:
    """Every plug-in, and what is wrong with one that can't be used."""
    found: Rows = []
    for kind in get_args(Kind):
        for plugin in plugins(kind):
            try:
                with redirect_stdout(sys.stderr):
                    _try(plugin)
                problem = ""
            except RobustevalError as error:
                problem = str(error)
            about = {"package": plugin.package, "version": plugin.version, "problem": problem}
            found.append({"kind": kind, "name": plugin.name, **about})
    return found


def _try(plugin: Plugin) -> None:
    """Raises RobustevalError for one that can't be used."""
    from robusteval.attacks.registry import OWN
    from robusteval.detection.registry import DETECTORS

    if plugin.kind == "attacks":
        OWN.get(plugin.name)
    elif plugin.kind == "detectors":
        DETECTORS.get(plugin.name)
    else:
        plugin.folders()
