"""``robusteval reproduce``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robusteval.arguments import (
    DataDir,
    path_option,
    place_option,
    whole_option,
    workers_option,
)
from robusteval.catalogue import near_names
from robusteval.errors import RobustevalError, UnknownNameError, shown
from robusteval.guarded import EXIT_INCOMPLETE, complain, guarded, note, say

if TYPE_CHECKING:
    from robusteval.papers.asked import Key, Scale
    from robusteval.papers.paper import Paper
    from robusteval.papers.reproduce import AskedRun, Reproduction

ALL = "all"


@guarded
def reproduce(
    paper: Annotated[
        str, typer.Argument(help="A paper: scpl, drp, pcl, mpat, all, or the path of a paper.toml.")
    ],
    table: Annotated[
        str | None, typer.Option(help="One of its tables, such as 3, or a part of it, 3/MNIST.")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="small: 200 samples (100 where C&W takes 1,000 steps), the zoo's models.  paper: "
            "all test samples, and the paper's own networks where the zoo knows them."
        ),
    ] = "small",
    samples: Annotated[
        int | None, whole_option("How many test samples, class-balanced; else the scale's.")
    ] = None,
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Leave out models that have no weights.")
    ] = False,
    stored: Annotated[
        Path | None,
        path_option("Make the pages anew of the tables in this folder, and run nothing.", "--from"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List the trainings and the runs, and how long they take at most."
        ),
    ] = False,
    seed: Annotated[int, whole_option("Seed of every random stream.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute, such as cpu or cuda.")] = "cpu",
    workers: Annotated[Any, workers_option("How many processes share the work.")] = 1,
    data_dir: DataDir = None,
    work_dir: Annotated[Path, path_option("Where checkpoints of trainings go.")] = Path("training"),
    out: Annotated[Any, place_option("Where run folders go.")] = Path("runs"),
    tables: Annotated[Path, path_option("Where tables and pages go, a folder for each paper.")] = (
        Path("reproductions")
    ),
) -> None:
    """Make a paper's tables here.  Each cell: the paper's number, what the same attack leaves here,
    and what the strongest leave.  What is finished is kept, and the same command goes on."""
    from robusteval import api, watching
    from robusteval.papers.asked import require_askable
    from robusteval.papers.reproduce import Reproduction

    meant = _scale(scale)
    papers = _papers(paper, table)
    if stored is not None:
        _require_alone(
            dry_run=dry_run, no_train=no_train, samples=samples is not None, scale=meant != "small"
        )
        _rebuild(papers, stored, tables, table)
        return
    for each in papers:
        require_askable(each)
    options = api.Options(seed=seed, device=device, workers=workers, data_dir=data_dir, out=out)
    asked = [
        Reproduction(one, options, tables, meant, table, samples, watching.evaluate, say)
        for one in papers
    ]
    if dry_run:
        _list(asked, trains=not no_train)
        return
    for one in asked:
        one.earlier()  # before hours of training: whether the tables there can be gone on with
    if not no_train:
        _train(asked, options, work_dir)
    found = [_made(one) for one in asked]
    if any(not whole for whole in found):
        complain("some runs or cells could not be made; the same command does what it can")
        raise typer.Exit(EXIT_INCOMPLETE)


def _papers(name: str, table: str | None) -> "list[Paper]":
    from robusteval.papers.paper import paper_names, read_paper

    if name == ALL and table is not None:
        raise RobustevalError("--table goes with one paper: name it in the place of all")
    known = paper_names()
    is_path = Path(name).suffix == ".toml"
    if name not in (ALL, *known) and not is_path:
        raise UnknownNameError(f"unknown paper {shown(name)}: {near_names(name, [ALL, *known])}")
    papers = [read_paper(one) for one in (known if name == ALL else [name])]
    for paper in papers:
        paper.chosen(table)
    return papers


def _scale(scale: str) -> "Scale":
    from robusteval.papers.asked import SCALES

    found = next((one for one in SCALES if one == scale), None)
    if found is None:
        raise UnknownNameError(f"--scale {shown(scale)}: {near_names(scale, SCALES)}")
    return found


def _require_alone(**beside: object) -> None:
    """Raises RobustevalError for an option that says nothing beside --from."""
    for name, given in beside.items():
        if given:
            option = f"--{name.replace('_', '-')}"
            raise RobustevalError(
                f"--from runs nothing, so that {option} says nothing: leave it out"
            )


def _rebuild(papers: "list[Paper]", stored: Path, tables: Path, table: str | None) -> None:
    from robusteval.papers.reproduce import rebuild

    for paper in papers:
        for place in rebuild(paper, stored, tables, paper.chosen(table)):
            say(place)


def _list(asked: "list[Reproduction]", trains: bool) -> None:
    """What would be trained and run, a line each with its time; then how much that is in all.

    What is finished already is among the runs: the time is that of making everything anew.
    """
    from robusteval.durations import duration_text

    untrained = dict.fromkeys(name for one in asked for name in one.untrained())
    for name in untrained:
        say(_about(name) if trains else f"{name} has no weights: its runs are left out")
    later = list(untrained) if trains else []
    minutes = [found for one in asked for found in _listed(one, later)]
    known = [found for found in minutes if found is not None]
    runs = f"{len(known)} run{'s' * (len(known) != 1)}"
    after = len(minutes) - len(known)
    more = f", and {after} of models that are trained first" if after else ""
    say(f"{runs}, {duration_text(60 * sum(known))} at most{more}")


def _listed(one: "Reproduction", later: list[str]) -> Iterator[float | None]:
    """Says each run of a paper; its minutes at most, None where its model is trained first."""
    for name, runs in one.by_model().items():
        if name in later:
            for wanted in runs:
                say(f"{wanted.key}: after its training")
                yield None
            continue
        asked = [(wanted.key, run) for wanted in runs if (run := one.asked(wanted))]
        try:
            yield from _estimated(name, asked)
        except RobustevalError as error:
            say(f"{name} can't be run: {error}")


def _estimated(name: str, asked: "list[tuple[Key, AskedRun]]") -> Iterator[float]:
    """Says each run of a model; its minutes at most."""
    from robusteval import watching
    from robusteval.durations import duration_text

    estimates = watching.estimates(name, [(suite, options) for _, (_, suite, options) in asked])
    for (key, (_, suite, options)), found in zip(asked, estimates, strict=True):
        samples = "all" if options.samples is None else options.samples
        attacks = ", ".join(attack.name for attack in suite.attacks)
        took = duration_text(60 * found.minutes)
        say(f"{key}, {samples} samples, {took} at most: {attacks}")
        yield found.minutes


def _about(name: str) -> str:
    from robusteval.models.registry import find_entry, readable_entries
    from robusteval.papers.training import about

    return about(find_entry(name), readable_entries())


def _train(asked: "list[Reproduction]", options: Any, work_dir: Path) -> None:
    """What is missing, each told beforehand; one that fails doesn't hold up the others."""
    from robusteval import api, bars
    from robusteval.models.registry import find_entry

    for name in dict.fromkeys(name for one in asked for name in one.untrained()):
        entry = find_entry(name)
        note(f"{_about(name)}; --no-train leaves it out")
        try:
            with bars.epoch_progress(entry) as (on_epoch, progress):
                api.train(
                    entry,
                    data_dir=options.data_dir,
                    device=options.device,
                    work_dir=work_dir,
                    on_epoch=on_epoch,
                    progress=progress,
                )
        except RobustevalError as error:
            complain(f"{name} stays untrained: {error}")


def _made(one: "Reproduction") -> bool:
    """Makes a paper's tables, and says how many of its numbers were found; whether every run that
    could be made is whole, and has what the cells ask of it."""
    from robusteval.papers.found import FAILED
    from robusteval.papers.reproduce import counted

    made = one.make()
    counts = counted(made)
    say(f"{one.paper.name}: {counts['found']} of {counts['all']} numbers")
    is_whole = not any(row["status"] == FAILED for _, rows in made for row in rows)
    for key, report in one.reports.items():
        if isinstance(report, RobustevalError):
            complain(f"{key}: {report}")
            is_whole = False
        else:
            is_whole &= report.complete
    return is_whole
