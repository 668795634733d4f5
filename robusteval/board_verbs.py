"""The verbs of published leaderboards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval import watching
from robusteval.arguments import (
    AllowCode,
    AsJson,
    DataDir,
    OtherDevice,
    path_option,
    place_argument,
    whole_option,
)
from robusteval.endings import print_held
from robusteval.guarded import guarded, say
from robusteval.storage import LEADERBOARDS

board = typer.Typer(
    help="Publish runs on leaderboards, and check what is published.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Boards = Annotated[Path, path_option("Where the leaderboards are.")]


@board.command("add")
@guarded
def board_add(
    runs: Annotated[list[Any], place_argument("Run folders, URLs or archives.")],
    folder: Boards = LEADERBOARDS,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    again: Annotated[
        int,
        whole_option("How many jobs of each run, chosen at random, to do again: 1 or more."),
    ] = 1,
    device: OtherDevice = None,
) -> None:
    """Verify runs and put their models on the leaderboards of their threat models."""
    from robusteval.boards import publish as leaderboards

    with watching.shown("leaderboards"):
        changed = leaderboards.add(runs, folder, data_dir, allow_code, again, device)
    for path in changed:
        say(path)


@board.command("retell")
@guarded
def board_retell(folder: Boards = LEADERBOARDS) -> None:
    """Write anew what entries claim, in rows whose model has not changed.  Nothing runs."""
    from robusteval.boards import publish as leaderboards

    changed = leaderboards.retell(folder)
    for path in changed:
        say(path)
    if not changed:
        say("each row tells what its entry claims")


@board.command("check")
@guarded
def board_check(folder: Boards = LEADERBOARDS, as_json: AsJson = False) -> None:
    """Check published leaderboards: numbers, ranks, and the registry's entries."""
    from robusteval.boards import publish as leaderboards

    print_held(leaderboards.check(folder), as_json, leaderboards.LIMITS)
