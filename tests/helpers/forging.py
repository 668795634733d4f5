"""Evidence altered, with checksums that fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robusteval.evidence.columns import SCHEMA
from robusteval.evidence.pieces import sealed, unsealed


def rows_file(folder: Path, part: str = "fgsm") -> Path:
    return sorted((folder / "evidence").glob(f"attack-*{part}*.parquet"))[0]


def images_file(folder: Path, part: str = "fgsm") -> Path:
    return sorted((folder / "evidence").glob(f"attack-*{part}*.safetensors"))[0]


def forge(path: Path, columns: dict[str, Any] | None = None, **about: Any) -> None:
    """Rewrites a job's rows, or what it says of itself, with checksums that fit."""
    rows, said, _ = unsealed(path.read_bytes())
    path.write_bytes(sealed(rows if columns is None else columns, {**said, **about}, SCHEMA))


def change_rows(path: Path, **columns: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrites columns of a job's rows, leaving what it says of itself."""
    changed, _, _ = unsealed(path.read_bytes())
    for name, change in columns.items():
        changed[name] = change(changed[name].copy())
    forge(path, changed)


def change_told(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """What a job tells of its whole chunk, rewritten."""
    _, about, _ = unsealed(path.read_bytes())
    change(about["told"])
    forge(path, told=about["told"])
