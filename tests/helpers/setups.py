"""What a reader of the documents has and a test has not: a model, images, an installed package.

Each is called with the page's names, its folder, and a stack of what is to be undone after it.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tomllib

from robusteval.models.registry import find_entry
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


def entry_of_pcl(names: dict[str, Any], folder: Path, undo: ExitStack) -> None:
    """``mine.toml``, a copy of pcl_digits' entry."""
    text = find_entry("pcl_digits").path.read_text("utf-8")
    (folder / "mine.toml").write_text(text, "utf-8")


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
