"""What is made once for all inputs: a small finished run, and a complete entry and suite."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "mpat_at_digits"
TINY = """name = "tiny"
description = "As little as a run can be, with a part of every kind."

[[attacks]]
name = "gaussian_noise"
title = "Gaussian noise"
library = "robusteval"
attack = "gaussian_noise"
norms = ["Linf", "L2"]

[[attacks]]
name = "fgsm"
title = "FGSM"
library = "torchattacks"
attack = "FGSM"
norms = ["Linf"]

[[attacks]]
name = "prototype_margin"
title = "Prototype margin"
library = "robusteval"
attack = "prototype_margin"
norms = ["Linf"]
parameters = { steps = 3 }
note = "few steps"

[[attacks]]
name = "pgd_l2"
title = "PGD-L2"
library = "torchattacks"
attack = "PGDL2"
norms = ["L2"]
parameters = { steps = 2, random_start = true, eps_for_division = 1e-30 }
times_eps = { alpha = "1/4" }

[detection]
detectors = ["max_softmax"]
natural = 0
attacks = ["fgsm"]

[diagnostics]
samples = 2
"""
# Of fgsm alone: what a run that must not begin would do, in a fraction of a second.
_FIRST, _SECOND = TINY.index("[[attacks]]"), TINY.index('[[attacks]]\nname = "fgsm"')
SMALLEST = TINY[:_FIRST] + TINY[_SECOND : TINY.index('[[attacks]]\nname = "prototype_margin"')]
SMALLEST = SMALLEST.replace('"tiny"', '"smallest"')


@dataclass(frozen=True)
class Made:
    """A folder with ``models/`` (one entry with its weights), ``suite.toml`` and a finished run."""

    folder: Path

    @property
    def run(self) -> Path:
        """The finished run."""
        (found,) = (self.folder / "runs").glob(f"{MODEL}-tiny-*")
        return found

    @property
    def record(self) -> Any:
        """Its run.json."""
        return json.loads((self.run / "run.json").read_text("utf-8"))

    def lay_run(self, to: str = "run") -> Path:
        """A copy of the run in the present folder."""
        shutil.copytree(self.run, to)
        return Path(to)

    def lay_out(self) -> Path:
        """A copy of the run where ``run --out runs`` finds it."""
        return self.lay_run(f"runs/{self.run.name}")

    def lay_suite(self) -> None:
        """``tiny.toml``, by which the run was made, and ``smallest.toml``."""
        Path("tiny.toml").write_text(TINY, "utf-8")
        Path("smallest.toml").write_text(SMALLEST, "utf-8")

    def lay_models(self) -> None:
        """``models/`` with one entry that can be run, in the present folder."""
        shutil.copytree(self.folder / "models", "models")


def make(folder: Path) -> Made:
    """Makes all of it in an empty folder; takes some seconds."""
    models = folder / "models"
    models.mkdir()
    for path in (boards_folder().parent / "models").glob(f"*/{MODEL}.*"):
        shutil.copy(path, models)
    suite = folder / "suite.toml"
    suite.write_text(TINY, "utf-8")
    asked = ("--model", MODEL, "--suite", str(suite), "--samples", "12", "--threads", "1")
    begun = [sys.executable, "-m", "robusteval", "run", *asked, "--out", str(folder / "runs")]
    subprocess.run(begun, check=True, capture_output=True, timeout=300)
    return Made(folder)


def texts_of(folder: Path) -> tuple[str, str]:
    """The entry's and the suite's text."""
    entry = (folder / "models" / f"{MODEL}.toml").read_text("utf-8")
    return entry, (folder / "suite.toml").read_text("utf-8")


def boards_folder() -> Path:
    """Where the project's own leaderboards are."""
    from robusteval.models.registry import built_in_folder

    return built_in_folder().parent / "leaderboards"
