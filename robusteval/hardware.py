"""What a number was made on: processor, threads, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "robusteval",
    "torch",
    "torchattacks",
    "pyautoattack",
    "pytorch-ood",
    "scikit-learn",
    "numpy",
    "pandas",
)


def hardware_name() -> str:
    """The processor (or accelerator) and how many cores of it."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of what can change a number."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a checkout; None in an installed package, whatever surrounds it."""
    if "site-packages" in folder.parts:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit_of(folder: Path) -> str:
    """The commit that a folder is checked out at, or an empty string where there is no git."""
    return _git(folder, "rev-parse", "--short=12", "HEAD") or ""


def is_dirty(folder: Path) -> bool | None:
    """Whether tracked files differ from the commit; None where there is no git."""
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)
