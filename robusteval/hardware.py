"""What a number was made on: processor, threads, versions, commit."""

import ctypes
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robusteval.errors import UnknownNameError

MOST_THREADS = 1024  # of a process: some OpenMP runtimes end it where many more are asked for
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the processor or an accelerator."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )


@lru_cache(maxsize=2)
def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc's, where that is the C library."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
    return function


def keep_freed_memory() -> None:
    """Lets this process use its freed memory again, until ``give_memory_back``.

    glibc asks the system for each large block anew and hands it back at once, so that a step
    of training or of an attack spends up to half of its time in the kernel, clearing pages.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        for option, value in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)


def give_memory_back() -> None:
    """Hands freed memory back to the system.

    Batches of ever new sizes leave holes behind that glibc keeps, so that a process grows with
    the number of batches it has seen.
    """
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def best_seconds(action: Callable[[], object], device: str = "cpu", times: int = 2) -> float:
    """The best of so many times, after one that warms up, or compiles."""
    best = float("inf")
    for i in range(times + 1):
        started = time.perf_counter()
        action()
        if device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(device)
        if i > 0:
            best = min(best, time.perf_counter() - started)
    return best


def check_device(device: str) -> None:
    """Raises UnknownNameError for one that isn't here."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnknownNameError(
            f"device {device!r} can't be used ({reason}): try cpu or cuda"
        ) from None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it float32 is multiplied as such, and not as TF32 or bfloat16, which a processor with
    matrix units does as well once ``torch.set_float32_matmul_precision`` allows it: verdicts are
    float32's."""
    from torch.backends import cuda, cudnn, mkldnn

    # The older flags raise where a caller has set these.
    kinds: tuple[Any, ...] = (
        *(cuda.matmul, cudnn.conv),  # type: ignore[attr-defined]
        *(mkldnn.matmul, mkldnn.conv, mkldnn.rnn),  # type: ignore[attr-defined]
    )
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def hardware_name(device: str = "cpu") -> str:
    """The accelerator that ``device`` names, or the processor and how many cores of it."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"{_cpu_name()}, {os.cpu_count()} cores"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
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
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit_of(folder: Path) -> str:
    """The commit that a folder is checked out at, or an empty string where there is no git."""
    return _git(folder, "rev-parse", "--short=12", "HEAD") or ""


def is_dirty(folder: Path, *parts: str) -> bool | None:
    """Whether tracked files (in these folders of it, if named) differ from the commit; None where
    there is no git."""
    status = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *parts)
    return None if status is None else bool(status)
