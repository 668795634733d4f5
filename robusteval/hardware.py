"""What a number was made on: processor, threads, versions, commit."""

import ctypes
import errno
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

from robusteval.errors import UnknownNameError, reason, shown

MOST_THREADS = 1024  # of a process: some OpenMP runtimes end it where many more are asked for
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
_BYTES_A_WORKER = 400 * 2**20  # torch and a small model
_MOST_COMPILED = 4096  # forms of models, in one process
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
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = reason(error, most=2000).lower()
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


def compile_any_number() -> None:
    """Lets this process compile model after model.

    torch counts the forms of all models of one class together, and would run the ninth and all
    further ones uncompiled.
    """
    import torch._dynamo.config as dynamo

    for name in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(dynamo, name, max(getattr(dynamo, name), _MOST_COMPILED))


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


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def most_threads() -> int:
    """More than that help nobody; many more, and the process dies when it starts them."""
    return max(64, 4 * cores())


def most_workers() -> int:
    """Processes that this machine bears: each needs a share of a core, and its own torch."""
    by_memory = _memory() // _BYTES_A_WORKER
    return max(1, min(4 * cores(), by_memory))


def _memory() -> int:
    """Bytes of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def devices() -> list[str]:
    """Where this machine can compute: cpu, and accelerators with and without their number."""
    import torch

    found = ["cpu"]
    if torch.accelerator.is_available() and (kind := torch.accelerator.current_accelerator()):
        count = torch.accelerator.device_count()
        found += [kind.type, *(f"{kind.type}:{i}" for i in range(count))]
    return found


def check_device(device: str) -> None:
    """Raises UnknownNameError for one that isn't here, or can't be used."""
    import torch

    if device not in (here := devices()):
        raise UnknownNameError(
            f"device {shown(device)} is not on this machine: choose {' or '.join(here)}"
        )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        others = " or ".join(one for one in here if one != device)
        raise UnknownNameError(
            f"device {device} can't be used ({reason(error)}): free it, or choose {others}"
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
