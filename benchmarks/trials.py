"""Bad or odd inputs, each tried in a process of its own, and whether the answer was the right one.

What is right is the same for all: bad input ends with exit code 2 and one line on stderr that
says what, where and what to do; nothing that was there is changed, no code that came with the
input runs, and it takes no more than some seconds.
"""

import ctypes
import os
import pwd
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

REFUSED = frozenset({2})
TAKEN = frozenset({0})
EITHER = frozenset({0, 2})
CANARY = "CODE_HAS_RUN"  # a file of that name is what smuggled code would leave
LIMIT = 5.0  # seconds of computing that an input may take
PATIENCE = 5.0  # seconds that it may wait for anything but the processor
_GLANCE = 0.25  # seconds between two looks at a process
_LONGEST = 120.0  # seconds of a machine that is busy with other things
_MEMORY = 4 * 2**30  # bytes that one input may take on top of what is loaded
_BIG = 2**27  # bytes of a file, above which its size speaks for it
_LINE = 2100  # characters of a line that can be read
# What schemas and Python say is not said in words of ours.
_FOREIGN = re.compile(
    r"Input should|Extra inputs|Field required|String should|List should|Value error,|"
    r"validation error|has no attribute|NoneType|unexpected keyword|positional argument|"
    r"object is not|not supported between|unsupported operand|invalid literal|out of range\b.*index"
)


@dataclass(frozen=True)
class Seen:
    """What one input led to."""

    code: int | None  # None: killed by a signal, or by the clock
    stdout: str
    stderr: str
    place: Path
    killed: str = ""
    lost: tuple[str, ...] = ()


Looker = Callable[[Seen], str]  # what is wrong, or nothing


def nothing() -> None:
    """No files are needed."""


@dataclass(frozen=True)
class Case:
    """One input.  ``lay`` puts files into a new folder, ``act`` is done within it.

    ``right``: the exit codes that are; ``says``: what the line must name, each one of ``a|b``;
    ``look``: what else must hold; ``stdout``: a file that takes its place; ``quotes``: the line may
    quote what others' code said; ``spare``: files that are made anew from others, and may go.
    """

    family: str
    told: str
    act: Callable[[], object]
    lay: Callable[[], object] = nothing
    right: frozenset[int] = REFUSED
    says: tuple[str, ...] = ()
    look: Looker | None = None
    stdout: str = "stdout"
    quotes: bool = False
    spare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What surrounds a command: variables, a missing home, another user, an encoding."""

    env: dict[str, str | None] = field(default_factory=dict)
    homeless: bool = False
    powerless: bool = False  # not root, so that permissions count
    encoding: str = ""


PLAIN = Setting()


def command(*arguments: str, setting: Setting = PLAIN) -> Callable[[], None]:
    """Does what the console script does with these arguments."""

    def act() -> None:
        from robusteval import cli

        _enter(setting)
        sys.argv = ["robusteval", *arguments]
        sys.modules["__main__"].__package__ = ""  # usage is told by the name of the command
        cli.main()

    return act


def call(function: Callable[[], object], setting: Setting = PLAIN) -> Callable[[], None]:
    """Calls from Python; a refusal ends as it would on the command line, its text as it is."""

    def act() -> None:
        from robusteval.errors import RobustevalError

        _enter(setting)
        try:
            function()
        except RobustevalError as error:
            print(f"robusteval: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    return act


def _enter(setting: Setting) -> None:
    for name, value in setting.env.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if setting.homeless:
        for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "USERPROFILE"):
            os.environ.pop(name, None)
        pwd.getpwuid = _unknown_user
    if setting.encoding:
        sys.stdout.reconfigure(encoding=setting.encoding)  # type: ignore[union-attr]
        options = {"encoding": setting.encoding, "errors": "backslashreplace"}
        sys.stderr.reconfigure(**options)  # type: ignore[union-attr]
    if setting.powerless and os.getuid() == 0:
        _give_up_powers()


def _give_up_powers() -> None:
    """Root without its capabilities, so that it may do no more than an owner of files."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise RuntimeError("capabilities can't be given up")


def _unknown_user(uid: int) -> Any:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def try_out(case: Case, work: Path) -> str:
    """What did not hold of a case, in a few words; nothing where all held."""
    seen = see(case, work)
    try:
        return judge(case, seen)
    finally:
        shutil.rmtree(seen.place, ignore_errors=True)


def see(case: Case, work: Path) -> Seen:
    """Tries a case in a folder of its own below ``work``, in a process of its own."""
    place = work / "place"
    _clear(place)
    place.mkdir(parents=True)
    place.chmod(0o777)
    os.chdir(place)
    case.lay()
    before = dict(contents(place))
    told = {name: work / name for name in ("stdout", "stderr")}
    for path in told.values():
        path.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _within(case, told)
    code, killed = _await(pid)
    os.chdir(work)
    after = dict(contents(place))
    lost = tuple(name for name, content in before.items() if after.get(name) != content)
    texts = {n: p.read_bytes().decode("utf-8", "replace") for n, p in told.items() if p.is_file()}
    return Seen(code, texts.get("stdout", ""), texts.get("stderr", ""), place, killed, lost)


def _clear(place: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(place)


def contents(folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """Every path below a folder, with its bytes, its target, or its kind.  Follows no link."""
    for path in sorted(os.scandir(folder), key=lambda found: found.name):
        name = os.fsdecode(path.path)
        if path.is_symlink():
            yield name, f"link to {os.readlink(path.path)}"
        elif path.is_dir():
            yield name, "folder"
            yield from contents(Path(path.path))
        else:
            yield name, _content(path) if path.is_file() else "special"


def _content(file: "os.DirEntry[str]") -> str | bytes:
    size = file.stat().st_size
    return Path(file.path).read_bytes() if size < _BIG else f"{size} bytes"


def _within(case: Case, told: dict[str, Path]) -> None:
    """The child: does it, and ends as a Python process of its own would."""
    code = 1
    try:
        os.setsid()
        _redirect(told["stdout"] if case.stdout == "stdout" else Path(case.stdout), told["stderr"])
        room = _memory() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            case.act()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:  # noqa: BLE001 - a process that ends so says so
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except OSError as error:
            print(f"Exception ignored: {error}", file=sys.stderr)
            code = 120
        sys.stderr.flush()
    finally:
        os._exit(code)


def _redirect(stdout: Path, stderr: Path) -> None:
    kinds = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, kinds, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _memory() -> int:
    """Bytes of address space that this process has by now."""
    return (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        * resource.getpagesize()
    )


def _await(pid: int) -> tuple[int | None, str]:
    """The exit code, or what ended it."""
    handle, watch, killed = os.pidfd_open(pid), _Watch(pid), ""
    try:
        while not killed and not select.select([handle], [], [], _GLANCE)[0]:
            killed = watch.too_long()
    finally:
        os.close(handle)
    with suppress(ProcessLookupError, PermissionError):  # it, and what it left behind
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if killed:
        return None, killed
    if os.WIFSIGNALED(status):
        return None, f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return os.waitstatus_to_exitcode(status), ""


class _Watch:
    """How long a process computes, and how long it waits for what is not the processor."""

    def __init__(self, pid: int) -> None:
        self.pid, self.began = pid, time.perf_counter()
        self.computed = self.waited = 0.0

    def too_long(self) -> str:
        """Looks once more; says so if it takes too long."""
        try:
            fields = (
                Path(f"/proc/{self.pid}/stat")
                .read_text(encoding="utf-8")
                .rpartition(")")[2]
                .split()
            )
        except (FileNotFoundError, ProcessLookupError):
            return ""
        computed = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if fields[0] != "R" and computed == self.computed:
            self.waited += _GLANCE
        self.computed = computed
        if computed > LIMIT:
            return f"hangs: computes for more than {LIMIT:g} s"
        if self.waited > PATIENCE:
            return f"hangs: waits for more than {PATIENCE:g} s"
        return f"hangs: {_LONGEST:g} s" if time.perf_counter() - self.began > _LONGEST else ""


def judge(case: Case, seen: Seen) -> str:
    """What does not hold, in a few words."""
    return next(filter(None, _wrong(case, seen)), "")


def _wrong(case: Case, seen: Seen) -> Iterator[str]:
    """Each thing that may be wrong, the gravest first; nothing where it isn't."""
    yield seen.killed
    yield "code of the input has run" if (seen.place / CANARY).exists() else ""
    raised = "Traceback (most recent call last)" in seen.stderr
    yield f"traceback: {_last_line(seen.stderr)}" if raised else ""
    ended = f"exit {seen.code}: {_last_line(seen.stderr) or '(no word)'}"
    yield "" if seen.code in case.right else ended
    yield wrong_line(seen.stderr, case.says, case.quotes) if seen.code in (1, 2) else ""
    lost = [name for path in seen.lost if (name := Path(path).name) not in case.spare]
    yield f"changed: {', '.join(lost[:3])}" if seen.code == 2 and lost else ""
    found = control_characters(seen.stdout)
    yield f"control characters on stdout: {found}" if found else ""
    yield case.look(seen) if case.look else ""


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def wrong_line(stderr: str, says: tuple[str, ...] = (), quotes: bool = False) -> str:
    """What is wrong with what should be one line of ours."""
    return next(filter(None, _wrong_of_line(stderr, says, quotes)), "")


_PROGRESS = re.compile(
    r"^(?:.*━.*|epoch [0-9]+/[0-9]+: .*|.*: (?:[0-9]+ of [0-9]+ jobs|nothing) done(?: yet)?:.*)\n",
    re.MULTILINE,
)


def _wrong_of_line(stderr: str, says: tuple[str, ...], quotes: bool) -> Iterator[str]:
    stderr = _PROGRESS.sub("", stderr)
    one = stderr.endswith("\n") and stderr.count("\n") == 1
    yield "" if one else f"{stderr.count(chr(10))} lines: {_last_line(stderr)}"
    found = control_characters(stderr)
    yield f"control characters on stderr: {found}" if found else ""
    said = stderr.strip()[:300]
    yield "" if stderr.startswith("robusteval: ") else f"not our line: {said}"
    yield f"a line of {len(stderr)} characters: {said[:100]}" if len(stderr) > _LINE else ""
    foreign = None if quotes else _FOREIGN.search(stderr)
    yield f"not in our words ({foreign[0]}): {said}" if foreign else ""
    for word in says:
        there = any(part.lower() in stderr.lower() for part in word.split("|"))
        yield "" if there else f"doesn't say {word!r}: {said}"


def control_characters(text: str) -> str:
    """Those that a terminal or a reader acts on, line feeds apart; empty where there are none."""
    found = [c for c in set(text) if c != "\n" and _acts(c)]
    return " ".join(f"U+{ord(c):04X}" for c in sorted(found))


def _acts(character: str) -> bool:
    turning = unicodedata.bidirectional(character) in {"LRO", "RLO", "LRE", "RLE", "PDF"}
    isolating = unicodedata.bidirectional(character) in {"LRI", "RLI", "FSI", "PDI"}
    return turning or isolating or unicodedata.category(character) in ("Cc", "Zl", "Zp")


def shown(text: object, most: int = 60) -> str:
    """A value in few characters, as Python writes it."""
    told = repr(text) if not isinstance(text, int | Fraction) else _digits(text)
    return told if len(told) <= most else f"{told[: most - 20]}…({len(told)} characters)"


def _digits(number: int | Fraction) -> str:
    """A number that may have too many digits to be written."""
    try:
        return str(number)
    except ValueError:
        return "a number of thousands of digits"


def of(family: str, cases: Iterator[Case]) -> list[Case]:
    """The same cases, as of that family."""
    return [replace(case, family=family) for case in cases]
