"""The project's own models, as files."""

from pathlib import Path

from robusteval.models.registry import built_in_folder


def file_of(name: str) -> Path:
    """Such as ``ce_digits.toml``."""
    return next(built_in_folder().glob(f"*/{name}"))
