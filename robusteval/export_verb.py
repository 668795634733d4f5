"""``robusteval export``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval.arguments import path_option, place_argument
from robusteval.errors import OutputError
from robusteval.guarded import guarded, say

_STANDARD_OUTPUT = Path("-")


def _columns(wanted: bool) -> None:
    """Prints the columns of per-sample results, and ends."""
    if wanted:
        from robusteval.report.samples import columns

        for column in columns():
            say(f"{column.name:<30} {column.kind_text:<8} {column.about}")
        raise typer.Exit


@guarded
def export(
    run: Annotated[Any, place_argument("A run's folder or URL, or its archive.")],
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            help="parquet or json: a row for each sample, attack and threat model, without names "
            "of machines, users and folders; archive: the whole run as it is, with the hardware "
            "and the paths in its run.json, for verify, report, compare and leaderboard add.",
        ),
    ] = "parquet",
    to: Annotated[
        Path | None,
        path_option("The file, or a folder for it; by default named after the run; - prints JSON."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there already.")
    ] = False,
    columns: Annotated[
        bool,
        typer.Option(
            "--columns",
            callback=_columns,
            is_eager=True,
            help="Print what each column of per-sample results holds, and stop.",
        ),
    ] = False,
) -> None:
    """Write a run as one file.  That is a table of its samples, or an archive of all of it."""
    from robusteval import exports

    if to != _STANDARD_OUTPUT:
        say(exports.export(run, as_, to, overwrite))  # type: ignore[arg-type]  # checked there
    elif as_ != "json":
        raise OutputError(f"--to -: only JSON is printed, not {as_}: name a file")
    else:
        sys.stdout.write(exports.json_of(run))
