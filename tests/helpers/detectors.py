"""Suites of detectors, and detectors for one test."""

from pathlib import Path
from typing import Any

from robusteval.detection.record import OURS, Detector

SUITE = """
name = "mine"
[detection]
detectors = [{names}]
natural = 0
tuning = "{tuning}"
"""


def suite_of(folder: Path, *names: str, tuning: str = "") -> Path:
    path = folder / "mine.toml"
    path.write_text(SUITE.format(names=", ".join(f'"{name}"' for name in names), tuning=tuning))
    return path


def record_of(name: str, **facts: Any) -> Detector:
    plain = {
        "title": name,
        "source": "",
        "package": OURS,
        "reads": "images",
        "needs_prototypes": False,
        "needs_linear_head": False,
        "gradient": True,
        "own_passes": 0,
        "settings": (),
        "fit_read": None,
        "score_read": lambda state, model, images: -images.flatten(1).mean(1),
        "version": 1,
    }
    return Detector(name=name, **{**plain, **facts})
