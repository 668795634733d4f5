"""Names and paths that no file can have, or that lead to what is no file."""

import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.families.made import MODEL, Made, boards_folder
from benchmarks.trials import EITHER, REFUSED, TAKEN, Case, Setting, command, nothing, shown

_SPARSE = 2**36  # bytes that take no room on the disk


@dataclass(frozen=True)
class Bad:
    """A path, what is laid there, and whether only permissions keep one out.

    ``sound``: it may be read, too; ``makeable``: a folder of that name can be made.
    """

    told: str
    path: str
    lay: Callable[[], object] = nothing
    powerless: bool = False
    sound: bool = False
    makeable: bool = False

    @property
    def says(self) -> tuple[str, ...]:
        """The name, where it is one that can be read."""
        name = self.path.rstrip("/").rpartition("/")[2]
        fits = 1 < len(name) < 40 and len(self.path) < 200
        return (name,) if name.isascii() and name.isprintable() and fits else ()


def nowhere(end: str) -> Iterator[Bad]:
    """Names that lead to nothing, or to what can't be opened; ``end``: such as .toml."""
    for name, told in (
        ("x" * 300, "a name of 300 bytes"),
        ("é" * 200, "a name of 400 bytes in 200 letters"),
        ("d/" * 2500 + "x", "a path of 5,000 bytes"),
        ("a\0b", "NUL"),
        (os.fsdecode(b"\xff\xfe"), "bytes that are not text"),
        ("a\nb", "a line feed"),
        ("\x1b[31mred\x1b[0m", "an escape"),
        ("\x1b]0;title\x07", "an OSC escape"),
        ("a\u202eb\u2028c\x9bd", "what turns text round"),
        ("there/is/none", "no such folder"),
        ("a[b", "a bracket"),
        ("*", "a star"),
        ("~nobody/x", "a tilde"),
        (" ", "a space"),
        ("-", "a dash"),
    ):
        makeable = len(os.fsencode(name)) < 256 and "\0" not in name
        yield Bad(told, f"{name}{end}" if end else name, makeable=makeable)
    yield Bad("nothing", "", sound=not end, makeable=True)


def _make_fifo(path: str) -> Callable[[], object]:
    return lambda: os.mkfifo(path, 0o666)


def _make_socket(path: str) -> Callable[[], object]:
    return lambda: socket.socket(socket.AF_UNIX).bind(path)


def _make_loop(path: str) -> Callable[[], object]:
    def lay() -> None:
        os.symlink(path, "other")
        os.symlink("other", path)

    return lay


def _make_sparse(path: str) -> Callable[[], object]:
    def lay() -> None:
        Path(path).touch()
        os.truncate(path, _SPARSE)

    return lay


def _make_closed(path: str, is_folder: bool) -> Callable[[], object]:
    def lay() -> None:
        Path(path).mkdir() if is_folder else Path(path).write_text('name = "x"\n', encoding="utf-8")
        Path(path).chmod(0)

    return lay


def no_files(path: str) -> Iterator[Bad]:
    """What stands where a file is expected."""
    for device in ("null", "zero", "full", "random", "tty"):
        yield Bad(f"/dev/{device}", path, lambda d=device: os.symlink(f"/dev/{d}", path))
    yield Bad("a FIFO", path, _make_fifo(path))
    yield Bad("a socket", path, _make_socket(path))
    yield Bad("a folder", path, lambda: Path(path).mkdir())
    yield Bad("a link to itself by another", path, _make_loop(path))
    yield Bad("a link to nothing", path, lambda: os.symlink("gone", path))
    yield Bad("no permission", path, _make_closed(path, False), powerless=True)


def bad_files(end: str) -> Iterator[Bad]:
    """Where a file is expected."""
    yield from nowhere(end)
    yield from no_files(f"there{end}")
    yield Bad("64 GiB of zeros", f"there{end}", _make_sparse(f"there{end}"))
    yield Bad("a file below a file", f"file/there{end}", lambda: Path("file").touch())
    yield Bad("in a closed folder", f"shut/there{end}", _make_closed("shut", True), powerless=True)
    yield Bad("a slash at its end", f"there{end}/", lambda: Path(f"there{end}").touch())


def bad_folders() -> Iterator[Bad]:
    """Where a folder is expected."""
    yield from nowhere("")
    for bad in no_files("there"):
        if bad.told not in ("a folder", "no permission"):
            yield bad
    yield Bad("a file", "there", lambda: Path("there").write_text("text", encoding="utf-8"))
    yield Bad("below a file", "file/there", lambda: Path("file").touch())
    yield Bad("no permission", "shut", _make_closed("shut", True), powerless=True)
    yield Bad("in a closed folder", "shut/in", _make_closed("shut", True), powerless=True)
    yield Bad("a device", "/dev/null")


@dataclass(frozen=True)
class Door:
    """A command with a hole for a path: in its arguments, or in a variable.

    ``makes``: a folder that isn't there is made; ``first``: nothing else is wrong with it.
    """

    told: str
    arguments: tuple[str, ...]
    files: bool = False
    variable: str = ""
    right: frozenset[int] = REFUSED
    lay: Callable[[], object] = nothing
    makes: bool = False
    first: bool = True


_HOLE = "{}"
_QUICK = ("run", "--model", "ce_digits", "--suite", "quick", "--dry-run", "--samples", "4")


def _doors(made: Made) -> Iterator[Door]:
    """Every place that takes a path, as near to a good command as can be."""
    run = str(made.run)
    begin = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "4")
    yield Door("show", ("show", _HOLE), files=True)
    yield Door("train", ("train", _HOLE), files=True)
    yield Door("run --model", ("run", "--model", _HOLE, "--dry-run"), files=True)
    yield Door("run --suite", (*_QUICK[:3], "--suite", _HOLE, "--dry-run"), files=True)
    yield Door("run --source", (*_QUICK, "--source", _HOLE), files=True)
    yield Door("verify --model", ("verify", run, "--model", _HOLE), files=True)
    yield Door("report", ("report", _HOLE))
    yield Door("verify", ("verify", _HOLE))
    yield Door("compare, first", ("compare", _HOLE, run))
    yield Door("compare, second", ("compare", run, _HOLE))
    yield Door("leaderboard add", ("leaderboard", "add", _HOLE))
    add = ("leaderboard", "add", run, "--folder", _HOLE)
    yield Door("leaderboard add --folder", add, first=False)
    yield Door("leaderboard check --folder", ("leaderboard", "check", "--folder", _HOLE))
    yield Door("run --data-dir", (*_QUICK, "--data-dir", _HOLE))
    yield Door("verify --data-dir", ("verify", run, "--data-dir", _HOLE), right=EITHER)
    yield Door("list --data-dir", ("list", "datasets", "--data-dir", _HOLE), right=EITHER)
    yield Door("run --outlier-dir", (*_QUICK, "--outlier-dir", _HOLE))
    yield Door("$ROBUSTEVAL_DATA", _QUICK, variable="ROBUSTEVAL_DATA")
    yield Door("$ROBUSTEVAL_MODELS", ("list", "models"), variable="ROBUSTEVAL_MODELS", right=EITHER)
    yield Door("$XDG_CACHE_HOME", ("list", "datasets"), variable="XDG_CACHE_HOME", right=EITHER)
    yield Door("run --out", (*begin, "--out", _HOLE), lay=made.lay_suite, makes=True)
    work = ("train", "models/short.toml", "--work-dir", _HOLE)
    yield Door("train --work-dir", work, lay=lambda: _lay_short(made), makes=True)


def _lay_short(made: Made) -> None:
    """An entry whose training takes next to nothing, were it to begin."""
    made.lay_models()
    text = Path(f"models/{MODEL}.toml").read_text("utf-8")
    text = text[: text.index("[training]")].replace(f'"{MODEL}"', '"short"')
    training = '[training]\nrecipe = "mpat"\nepochs = 1\nlr = 0.1\nvalidation = 20\n'
    Path("models/short.toml").write_text(text + training, "utf-8")
    for path in Path("models").iterdir():
        path.chmod(0o666)
    Path("models").chmod(0o777)


def paths(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each bad path at each door."""
    for door in _doors(made):
        for bad in bad_files(".toml") if door.files else bad_folders():
            if door.variable and ("\0" in bad.path or not bad.path):
                continue  # no variable can hold it; an empty one is none
            yield _case(door, bad)


def _case(door: Door, bad: Bad) -> Case:
    def lay() -> None:
        door.lay()
        bad.lay()

    env = {door.variable: bad.path} if door.variable else {}
    setting = Setting(env=dict(env), powerless=bad.powerless)
    sound = bad.sound or (door.makes and bad.makeable)
    arguments = [bad.path if part == _HOLE else part for part in door.arguments]
    return Case(
        "paths",
        f"{door.told}: {bad.told} ({shown(bad.path, 40)})",
        command(*arguments, setting=setting),
        lay,
        right=door.right | EITHER if sound else door.right,
        says=() if sound or door.right != REFUSED or not door.first else bad.says,
    )


def weights_files(made: Made, rng: random.Random) -> Iterator[Case]:
    """What stands where an entry's weights should be, and where a run's files should be."""
    weights = f"models/{MODEL}.safetensors"
    bads = [*no_files(weights), Bad("64 GiB of zeros", weights, _make_sparse(weights))]
    for bad in bads:

        def lay(bad: Bad = bad) -> None:
            made.lay_models()
            Path(weights).unlink()
            bad.lay()

        told, path = f"weights: {bad.told}", f"models/{MODEL}.toml"
        setting = Setting(powerless=bad.powerless)
        dry = command("run", "--model", path, "--dry-run", setting=setting)
        yield Case("paths", f"run --model: {told}", dry, lay, says=(f"{MODEL}.safetensors",))
        listed = Setting({"ROBUSTEVAL_MODELS": "models"}, powerless=bad.powerless)
        listing = command("list", "models", setting=listed)
        yield Case("paths", f"list models: {told}", listing, lay, right=TAKEN)


_RUN_FILES = ("run.json", "report.json", "row.csv", "report.html", ".lock", "evidence")
_EVIDENCE = ("clean-0000.parquet", "verification.json", "examples.safetensors", "*.failed.json")


def run_files(made: Made, rng: random.Random) -> Iterator[Case]:
    """What stands where a finished run's files should be."""
    found = [f"evidence/{name}" for name in _EVIDENCE[:3]]
    for name in (*_RUN_FILES, *found, "evidence/attack-02-fgsm_Linf_0.15-0000.safetensors"):
        path = f"run/{name}"
        for bad in [*no_files(path), Bad("64 GiB of zeros", path, _make_sparse(path))]:
            for verb in ("report", "verify", "compare"):

                def lay(bad: Bad = bad, path: str = path) -> None:
                    made.lay_run()
                    place = Path(path)
                    _clear(place)
                    bad.lay()

                arguments = (verb, "run", str(made.run)) if verb == "compare" else (verb, "run")
                act = command(*arguments, setting=Setting(powerless=bad.powerless))
                right = EITHER | {1, 3} if verb == "verify" else EITHER | {3}
                told = f"{verb}: {bad.told} as {name}"
                yield Case("paths", told, act, lay, right=right)


def _clear(place: Path) -> None:
    if place.is_dir():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


def homes(made: Made, rng: random.Random) -> Iterator[Case]:
    """Without HOME and without an entry in the passwd file, as in a container of any user."""
    bare = Setting(env={"ROBUSTEVAL_DATA": None}, homeless=True)
    named = Setting(env={"ROBUSTEVAL_DATA": "data"}, homeless=True)
    cached = Setting(env={"ROBUSTEVAL_DATA": None}, homeless=True)
    dry = ("run", "--model", "ce_digits", "--suite", "quick", "--samples", "4", "--dry-run")
    commands = {
        "list models": ("list", "models"),
        "list datasets": ("list", "datasets"),
        "show": ("show", "ce_digits"),
        "dry run": dry,
        "verify": ("verify", str(made.run)),
        "compare": ("compare", str(made.run), str(made.run)),
        "leaderboard check": ("leaderboard", "check", "--folder", str(boards_folder())),
    }
    for told, arguments in commands.items():
        for where, setting in (("nothing", bare), ("$ROBUSTEVAL_DATA", named)):
            act = command(*arguments, setting=setting)
            said = f"no HOME, no passwd entry, {where} named: {told}"
            yield Case("paths", said, act, lambda: Path("data").mkdir(), right=TAKEN)
    for model in ("ce_mnist", "ce_cifar10"):
        for where, setting in (("nothing", cached), ("$ROBUSTEVAL_DATA", named)):
            act = command("run", "--model", model, "--dry-run", setting=setting)
            said = f"no HOME, no passwd entry, {where} named, no data: {model}"
            yield Case("paths", said, act, lambda: Path("data").mkdir(), says=("mnist|cifar10",))
