"""What a reader of the documents has and a test has not: a model, images, an installed package.

Each is called with the page's names, its folder, and a stack of what is to be undone after it.
"""

import sys
import tomllib
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from robusteval.plugins import plugins
from tests.helpers.plugins import lay_package


def module_and_images(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """``my_module``, an MLP trained on digits; ``images`` and ``labels``, arrays that it never
    saw."""
    import torch
    from torch import nn

    from robusteval import load_dataset

    torch.manual_seed(0)
    train, test = load_dataset("digits", "train"), load_dataset("digits").balanced_subset(60)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(train.images()), train.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    names |= {"my_module": module, "images": test.images().numpy(), "labels": test.labels.numpy()}


def installed(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """The package in the folder, as ``pip install .`` would leave it."""
    told = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    project = told["project"]
    points = {
        group.removeprefix("robusteval."): named for group, named in project["entry-points"].items()
    }
    lay_package(folder, project["name"], project["version"], points, {})
    sys.path.insert(0, str(folder))
    plugins.cache_clear()
    undo.callback(_removed, folder, told["tool"]["setuptools"]["py-modules"])


def _removed(folder: Path, modules: list[str]) -> None:
    sys.path.remove(str(folder))
    for name in modules:
        sys.modules.pop(name, None)
    plugins.cache_clear()


def photographs(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """What ``docs/own_data.md`` shows: ``photos/``, three classes of colours, and ``net.py``."""
    from tests.helpers.documents import ROOT, blocks_of

    photos, net, *_ = blocks_of(ROOT / "docs" / "own_data.md")
    exec(compile(photos.text, "own_data.md", "exec"), {})  # noqa: S102 - the project's own page
    (folder / "net.py").write_text(net.text, "utf-8")


def added_to_the_house(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """The attack and the detector in the folder, as if they stood in the package."""
    from robusteval.attacks.registry import OWN
    from robusteval.detection.registry import DETECTORS

    sys.path.insert(0, str(folder))
    undo.callback(_removed, folder, ["contrast", "smallest_logit"])
    (attack,) = import_module("contrast").ATTACKS
    (detector,) = import_module("smallest_logit").DETECTORS
    undo.enter_context(OWN.having(attack.name, attack))
    undo.enter_context(DETECTORS.having(detector.name, detector))


def importable(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """``mine.py``, from which another process imports a model, images and labels."""
    import torch

    module_and_images(names, folder, undo)
    torch.save((names["my_module"], names["images"], names["labels"]), folder / "mine.pt")
    (folder / "mine.py").write_text(
        "import torch\n"
        "my_module, images, labels = torch.load('mine.pt', weights_only=False)\n"
        "images, labels = images[:20], labels[:20]\n"
    )


def a_run(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """``folder``, of a finished run of few samples below ``runs/``."""
    from robusteval import evaluate

    names["folder"] = evaluate("pcl_digits", "quick", samples=20, only=["fgsm", "pgd10"]).folder


def cifar_of_noise(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """RobustBench finds images of noise where it would look for CIFAR-10's."""
    import torch

    from robusteval.robustbench import robustbench

    def loaded(dataset: Any, count: int, data_dir: str, prepr: Any) -> Any:
        return torch.rand(count, 3, 32, 32), torch.arange(count) % 10

    robustbench()
    module = sys.modules["robustbench.eval"]
    undo.callback(setattr, module, "load_clean_dataset", module.load_clean_dataset)
    module.load_clean_dataset = loaded
