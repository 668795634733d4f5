"""The verbs of a run that several processes share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from robusteval import watching
from robusteval.arguments import path_argument, path_option, seconds_option
from robusteval.endings import exit_of
from robusteval.guarded import guarded, say
from robusteval.run.shard import parse_shard, shard_of_array
from robusteval.watching import watched

RunFolder = Annotated[Path, path_argument("A run's folder, as `robusteval run` made it.")]


def add_to(app: typer.Typer) -> None:
    """Adds them to the command line."""
    for verb in (work,):
        app.command()(verb)


@guarded
@watched("robusteval")
def work(
    run: RunFolder,
    shard: Annotated[
        str | None,
        typer.Option(
            help="I/N: begin at the I-th of N shares of the jobs; by default the task's place in a "
            "Slurm array."
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Write the report, too, once all jobs are done.")
    ] = False,
    lease: Annotated[
        float,
        seconds_option("Seconds without a sign of life until others take this process's job."),
    ] = 60.0,
    model: Annotated[
        str | None, typer.Option(help="Where the run's entry is now, if it has moved.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the run's own data are now, if they have moved.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        path_option("Folder with data sets; else $ROBUSTEVAL_DATA, else the cache."),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let an entry's Python factory run.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Which of the run's kind, such as cuda:1.")
    ] = None,
) -> None:
    """Do jobs of a run beside other processes, on one machine or on many."""
    place = shard_of_array(os.environ) if shard is None else parse_shard(shard)
    from robusteval import sharing, terminal

    with watching.shown(run.name) as display:
        way = sharing.Way(model, data_dir, allow_code, device, data, display)
        worked = sharing.work(run, way, shard=place, lease=lease)
        report = sharing.finish(run, way) if finish else None
    if report:
        terminal.print_report(report)
        exit_of(report)
    else:
        failed = f"; failed: {', '.join(worked.failed)}" if worked.failed else ""
        say(f"{worked.done} of {worked.jobs} jobs are done{failed}")
        say(f"the report: robusteval work {run} --finish")
