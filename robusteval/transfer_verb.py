"""``robusteval transfer``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval.arguments import (
    Chosen,
    DataDir,
    given_list,
    parse_models,
    place_option,
    whole_option,
    workers_option,
)
from robusteval.data.choice import parse_samples
from robusteval.guarded import EXIT_INCOMPLETE, complain, guarded, say


@guarded
def transfer(
    models: Annotated[
        list[str],
        typer.Argument(help="Two models or more of one data set: names, paths, '*_cifar10'."),
    ],
    attack: Annotated[str, typer.Option(help="The attack, by its name in the suite.")] = "pgd20",
    suite: Annotated[str, typer.Option(help="A suite's name, or the path of its TOML.")] = "full",
    samples: Chosen = "all",
    eps: Annotated[
        list[str] | None,
        typer.Option(help="One radius or more, such as 4/255 8/255 or L2:0.5."),
    ] = None,
    seed: Annotated[int, whole_option("Seed of every random stream.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu",
    workers: Annotated[Any, workers_option("How many processes share the work.")] = 1,
    data_dir: DataDir = None,
    out: Annotated[Any, place_option("Where run folders go, and the tables.")] = Path("runs"),
) -> None:
    """Make a matrix of static transfers.  Each model is attacked, and its adversarial images are
    counted on every other one, which is never asked before.  What is finished is kept."""
    from robusteval import api, transfers, watching, zoo

    options = api.Options(
        samples=parse_samples(samples),
        eps=tuple(given_list("eps", eps)),
        seed=seed,
        device=device,
        workers=workers,
        data_dir=data_dir,
        out=out,
    )
    named = zoo.models_called(parse_models(models))
    found = transfers.matrix(named, attack, suite, options, watching.evaluate)
    for line in found.as_markdown().splitlines():
        say(line)
    for place in transfers.write(found, out, f"transfer_{attack}"):
        say(place)
    if not found.complete:
        complain("incomplete: run the same command again, which does what is missing")
        raise typer.Exit(EXIT_INCOMPLETE)
