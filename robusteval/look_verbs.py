"""The verbs that look at what there is: `list` and `show`."""

from typing import Annotated

import typer

from robusteval.arguments import AsJson, DataDir
from robusteval.endings import print_json
from robusteval.errors import shown
from robusteval.guarded import guarded

KINDS = ("models", "datasets", "attacks", "detectors", "suites")


@guarded
def list_things(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))] = "models",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List models, datasets, attacks, detectors or suites."""
    from robusteval import listing, terminal
    from robusteval.catalogue import near_names
    from robusteval.errors import UnknownNameError

    if kind not in KINDS:
        raise UnknownNameError(
            f"nothing called {shown(kind)} can be listed: {near_names(kind, KINDS)}"
        )
    rows = listing.ROWS[kind](data_dir)
    if as_json:
        print_json(rows)
    elif kind == "datasets":
        terminal.print_datasets(rows)
    else:
        terminal.print_rows(kind, rows)


@guarded
def show(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of its entry.")],
    weights: Annotated[
        bool, typer.Option("--weights", help="Names, shapes and types of its weights instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one model's entry.  It says what a paper claims and how the model was trained."""
    from robusteval import listing, terminal
    from robusteval.models.registry import find_entry

    entry = find_entry(name)
    left = {} if weights else listing.prototypes_left(entry)
    found = listing.weights(entry) if weights else entry.model_dump(mode="json")
    if left:
        found["head"]["prototypes_left"] = left
    if as_json:
        print_json(found)
    elif weights:
        terminal.print_weights(found)
    else:
        terminal.print_entry(entry, left)
