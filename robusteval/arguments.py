"""What stands on the command line, parsed: lists, numbers and paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval.durations import parse_duration
from robusteval.errors import RobustevalError, shown
from robusteval.places import Place, parse_place
from robusteval.reading import parse_path
from robusteval.run.crew import parse_workers
from robusteval.types import parse_float, parse_whole

# Options that take several values.
_LISTS = ("--model", "--only", "--eps", "--outlier-dir", "--source", "--static-source")


def _whole(text: str | int) -> int:
    try:
        return parse_whole(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _seconds(text: str | float) -> float:
    if text in ("nan", "inf"):  # refused with the range of what makes sense
        return float(text)
    try:
        return parse_float(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _path(text: str | os.PathLike[str]) -> Path:
    try:
        return parse_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _place(text: str | os.PathLike[str]) -> Place:
    try:
        return parse_place(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def whole_option(help: str) -> Any:
    """An option that is a whole number."""
    return typer.Option(help=help, parser=_whole, metavar="INTEGER")


def _workers(text: str | int) -> int | str:
    try:
        return parse_workers(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def workers_option(help: str) -> Any:
    """An option that is a number of processes, or of workers of a cluster."""
    return typer.Option(help=help, parser=_workers, metavar="N|ray[:N]")


def seconds_option(help: str) -> Any:
    """An option that is a number."""
    return typer.Option(help=help, parser=_seconds, metavar="NUMBER")


def path_option(help: str, *names: str) -> Any:
    """An option that is a path; ``names``: how it is written, where not as its argument."""
    return typer.Option(*names, help=help, parser=_path, metavar="PATH")


def path_argument(help: str) -> Any:
    """An argument that is a path."""
    return typer.Argument(help=help, parser=_path)


def place_option(help: str) -> Any:
    """An option that is a path or a URL."""
    return typer.Option(help=help, parser=_place, metavar="PATH|URL")


def place_argument(help: str) -> Any:
    """An argument that is a path or a URL."""
    return typer.Argument(help=help, parser=_place)


def parse_budget(text: str | None) -> float | None:
    """Seconds, of such as 90s, 10m or 1h30m."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise RobustevalError(f"--budget {shown(text)}: {error}") from None


def split_list(values: Sequence[str] | None) -> list[str]:
    """Options given several times, or once with commas between."""
    parts = (part.strip() for value in values or [] for part in value.split(","))
    return [part for part in parts if part]


def given_list(name: str, values: Sequence[str] | None) -> list[str]:
    """The same of an option that, if it is given, names something: else all would be meant."""
    parts = split_list(values)
    if values and not parts:
        raise RobustevalError(f"--{name} is empty: name one or more, or leave it out")
    return parts


def parse_models(values: Sequence[str]) -> list[str]:
    """Names and paths, given several times or with commas between; a path may hold commas."""
    return [
        m for value in values for m in ([value] if os.path.isfile(value) else split_list([value]))
    ]


def expand_lists(arguments: list[str]) -> list[str]:
    """``run --only a b`` becomes ``run --only a --only b``, which is what the parser takes.

    Other verbs have arguments of their own, which an option may stand before.
    """
    if arguments[:1] != ["run"]:
        return arguments
    expanded: list[str] = []
    current = ""
    for argument in arguments:
        value = not argument.startswith("-") or argument[1:2].isdigit()
        if not value:
            name, _, given = argument.partition("=")
            current = name if name in _LISTS and not given else ""
            expanded.append(argument)
        elif current and expanded[-1] != current:
            expanded += [current, argument]
        else:
            expanded.append(argument)
    return expanded


# Options that several verbs have.
DataDir = Annotated[
    Path | None,
    path_option("Folder with data sets; by default $ROBUSTEVAL_DATA, else the user's cache."),
]
Chosen = Annotated[
    str,
    typer.Option(
        "--samples",
        help="Which: a number (class-balanced), first:256, @FILE with one index a line, or all.",
    ),
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let an entry's Python factory run.")]
OtherDevice = Annotated[
    str | None, typer.Option("--device", help="Compute on this device instead of the run's own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MovedFitData = Annotated[
    str | None,
    typer.Option("--fit-data", help="Where the run's own training data are now, if they moved."),
]
MovedModel = Annotated[
    str | None, typer.Option("--model", help="Where the run's entry is now, if it has moved.")
]
MovedData = Annotated[
    str | None, typer.Option("--data", help="Where the run's own data are now, if they have moved.")
]
