"""The verbs of a run that several processes share."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robusteval import watching
from robusteval.arguments import (
    AllowCode,
    AsJson,
    DataDir,
    MovedData,
    MovedModel,
    place_argument,
    place_option,
    seconds_option,
    whole_option,
)
from robusteval.endings import exit_of, print_json
from robusteval.errors import RobustevalError
from robusteval.guarded import EXIT_INCOMPLETE, complain, guarded, say
from robusteval.places import Place
from robusteval.run.shard import parse_shard, shard_of_array

if TYPE_CHECKING:
    from robusteval.sharing import Worked

RunPlace = Annotated[Any, place_argument("A run's folder or URL, as `robusteval run` made it.")]


def add_to(app: typer.Typer) -> None:
    """Adds them to the command line."""
    for verb in (work, submit, pack, clean):
        app.command()(verb)


Device = Annotated[str | None, typer.Option(help="Which of the run's kind, such as cuda:1.")]
Lease = Annotated[
    float, seconds_option("Seconds without a sign of life until others take a process's job.")
]


@guarded
def work(
    run: RunPlace,
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
    lease: Lease = 60.0,
    model: MovedModel = None,
    data: MovedData = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    device: Device = None,
) -> None:
    """Do jobs of a run beside other processes.  They may be on other machines."""
    place = shard_of_array(os.environ) if shard is None else parse_shard(shard)
    with watching.shown(run.name) as display:
        from robusteval import sharing, terminal

        way = sharing.Way(model, data_dir, allow_code, device, data, display)
        worked = sharing.work(run, way, shard=place, lease=lease)
        report = sharing.finish(run, way) if finish else None
    if report:
        terminal.print_report(report)
        exit_of(report)
    else:
        _say_standing(run, worked)


@guarded
def submit(
    run: RunPlace,
    shards: Annotated[int, whole_option("How many jobs share the run.")],
    cpus: Annotated[
        int | None, whole_option("Cores of each job; by default the run's threads.")
    ] = None,
    gpus: Annotated[
        int | None, whole_option("GPUs of each job; by default one where the run is on cuda.")
    ] = None,
    memory: Annotated[float, seconds_option("GB of each job.")] = 8.0,
    minutes: Annotated[
        int,
        whole_option("Time limit of each job; one that reaches it is queued again and continues."),
    ] = 240,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="Another option of sbatch, such as account=mine; may be given repeatedly."
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Start them as processes of this machine, and wait.")
    ] = False,
    lease: Lease = 60.0,
    model: MovedModel = None,
    data: MovedData = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    device: Device = None,
) -> None:
    """Hand a run's jobs to a Slurm queue, in shards.  This needs the extra submitit."""
    from robusteval import sharing, submission

    resources = submission.Resources(
        cpus, gpus, memory, minutes, partition, submission.slurm_options(slurm or [])
    )
    way = sharing.Way(model, data_dir, allow_code, device, data)
    jobs = submission.submit(run, shards, resources, way, lease=lease, local=local)
    say(f"submitted: {', '.join(job.job_id for job in jobs)}")
    say(f"their logs: {submission.logs_of(run)}")
    if not local:
        say(f"once they have ended, the report: robusteval work {run} --finish")
        return
    for job in jobs:
        job.wait()
    _say_standing(run, worked := sharing.standing(run))
    if worked.done < worked.jobs and not worked.failed:
        complain("some processes ended early: see their logs, and submit again")
        raise typer.Exit(EXIT_INCOMPLETE)


@guarded
def pack(
    run: RunPlace,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let each job's rows stand in a file of their own again.")
    ] = False,
) -> None:
    """Put a run's evidence into fewer files.  Each attack's chunks then share one."""
    with watching.shown(run.name):
        from robusteval.api import files_of
        from robusteval.run import packing

        done = (packing.unpack if undo else packing.pack)(files_of(run))
    changed = f"now {done.after}" if done.after != done.before else "nothing to change"
    say(f"{done.before} files of evidence, {changed}")


@guarded
def clean(
    runs: Annotated[
        list[Any] | None, place_argument("Runs to delete; without them, all are listed.")
    ] = None,
    out: Annotated[Any, place_option("Where the listed runs are.")] = "runs",
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """List runs with their sizes and states, or delete some.  Those that are named are deleted."""
    from robusteval import terminal
    from robusteval.runs import delete, look_at, require_deletable, runs_in

    for run in runs or ():
        require_deletable(run)
    found = [look_at(run) for run in dict.fromkeys(runs)] if runs else runs_in(out)
    if as_json:
        print_json([one.to_json() for one in found])
    elif not found:
        say(f"there is no run in {out}")
    else:
        terminal.print_rows("runs", [_row(one.to_json()) for one in found])
    if not runs:
        return
    if not yes and not _agreed(len(found)):
        say("nothing is deleted")
        return
    for run in dict.fromkeys(runs):
        delete(run)


def _row(kept: dict[str, Any]) -> dict[str, Any]:
    """A run as a line of the table."""
    return {
        "run": kept["run"],
        "jobs": f"{kept['done']}/{kept['jobs']}",
        "files": kept["files"],
        "MB": f"{kept['bytes'] / 1e6:.2f}",
        "state": kept["state"],
    }


def _agreed(count: int) -> bool:
    """Asks on the terminal.  Raises RobustevalError where there is none."""
    if not sys.stdin.isatty():
        raise RobustevalError("nobody can be asked whether to delete: give --yes")
    what = "this run" if count == 1 else f"these {count} runs"
    return typer.confirm(f"Delete {what}?", err=True)


def _say_standing(run: Place, worked: "Worked") -> None:
    failed = f"; failed: {', '.join(worked.failed)}" if worked.failed else ""
    say(f"{worked.done} of {worked.jobs} jobs are done{failed}")
    say(f"the report: robusteval work {run} --finish")
