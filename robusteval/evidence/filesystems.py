"""Stores that fsspec knows: opened, asked with patience, and asked what they promise.

Whatever a store says is turned into an OSError with a short ``strerror``.  Keys and endpoints come
from the environment and from fsspec's own configuration, never from a URL.
"""

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from robusteval.errors import OutputError, RobustevalError, reason
from robusteval.extras import extra
from robusteval.places import Url, without_secrets

_LOG = logging.getLogger("robusteval")
# By protocol: a package of the extras, the extra that brings it.
_EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
_EXTRAS["gcs"] = _EXTRAS["gs"]
# Seconds between one try and the next, while a store doesn't answer, and for all of them: a try
# may take seconds of its own.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
LONGEST = 60.0
# What no second try would mend: names that some packages' own errors bear, and kinds of others.
_LASTING_NAMES = ("Credential", "Param", "Region", "Profile", "Token", "Config")
_LASTING = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    AttributeError,
    LookupError,
    ValueError,
    TypeError,
    MemoryError,
)
_LASTING_CODES = (errno.EINVAL, errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_PROBES = 3
T = TypeVar("T")


def open_filesystem(url: Url) -> Any:
    """The fsspec filesystem of a URL, which caches no listing.

    Raises OutputError where fsspec knows no such, or lacks a package for it.
    """
    import fsspec

    if url.protocol in _EXTRAS:
        package, name = _EXTRAS[url.protocol]
        extra(package, name, f"{url.protocol}://", OutputError)
    try:
        return fsspec.core.url_to_fs(str(url), use_listings_cache=False)[0]
    except ImportError as error:
        raise OutputError(f"{url.protocol}:// can't be used here: {reason(error)}") from None
    except ValueError as error:
        told = reason(error)
        raise OutputError(f"{url} can't be used ({told}): try s3://…, gs://… or a folder") from None
    except Exception as error:  # noqa: BLE001 - whatever a filesystem says when it is opened
        raise OutputError(f"{url} can't be used ({_said(error)}): see to its settings") from None


class Patience:
    """Asks a store again while it doesn't answer.  Once it gave up, it asks but once, until there
    is an answer."""

    def __init__(self, url: Url) -> None:
        self.url, self.gave_up = url, False

    def ask(self, act: Callable[[], T]) -> T:
        """What ``act`` returns.  Raises OSError with a ``strerror``: FileNotFoundError and
        FileExistsError as they are, other kinds as the store has them."""
        return self.ask_again(lambda _: act())

    def ask_again(self, act: Callable[[bool], T]) -> T:
        """The same, where ``act`` is told whether it was tried before."""
        pauses, end = () if self.gave_up else PAUSES, time.monotonic() + LONGEST
        for tries in range(len(pauses) + 1):
            try:
                found = act(tries > 0)
            except RobustevalError:  # nothing here can open it
                raise
            except Exception as error:  # noqa: BLE001 - stores raise what their packages raise
                if _is_lasting(error):  # an answer
                    self.gave_up = False
                    raise _as_os_error(error) from None
                if tries == len(pauses) or time.monotonic() > end:
                    self.gave_up = True
                    raise _as_os_error(error) from None
                if tries == 0:
                    told = self.url, _said(error), LONGEST
                    _LOG.warning("%s does not answer (%s): trying again for %.0f s", *told)
                time.sleep(pauses[tries])
            else:
                self.gave_up = False
                return found
        raise AssertionError  # one of the tries returned, or raised


def excludes(filesystem: Any, path: str) -> bool:
    """Whether of several processes that create one file a single one succeeds.  Tried with an
    object in a folder, removed afterwards.  Raises what the store raises."""
    import fsspec

    probe = f"{path}/.probe"
    base = fsspec.AbstractFileSystem.pipe_file  # it looks first, then writes
    try:
        if not filesystem.async_impl and type(filesystem).pipe_file is base:
            raise NotImplementedError
        for _ in range(_PROBES):  # another process may remove it in between
            filesystem.pipe_file(probe, b"1", mode="create")
            filesystem.pipe_file(probe, b"2", mode="create")
    except FileExistsError:
        return True
    except (TypeError, NotImplementedError):
        filesystem.pipe_file(probe, b"1")  # whether it can be written at all
    finally:
        with suppress(Exception):
            filesystem.rm_file(probe)
    return False


def _is_lasting(error: Exception) -> bool:
    if isinstance(error, _LASTING):
        return True
    if isinstance(error, OSError) and error.errno in _LASTING_CODES:
        return True
    return any(name in type(error).__name__ for name in _LASTING_NAMES)


def _said(error: BaseException) -> str:
    return without_secrets(reason(error))


def _as_os_error(error: Exception) -> OSError:
    """The same, in the form that a disk's has."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is none")
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "it is there already")
    told = getattr(error, "strerror", None) or _said(error)
    if isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, without_secrets(told))
    return OSError(getattr(error, "errno", None) or errno.EIO, without_secrets(told))
