"""The command line: parses, calls the API, prints.  torch and pandas load only when a verb needs
them."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robusteval import __version__, look_verbs, setup_verbs, shard_verbs, stops, streams, watching
from robusteval.arguments import (
    AllowCode,
    AsJson,
    Chosen,
    DataDir,
    MovedData,
    MovedFitData,
    MovedModel,
    OtherDevice,
    expand_lists,
    given_list,
    parse_budget,
    parse_models,
    path_option,
    place_argument,
    place_option,
    seconds_option,
    split_list,
    whole_option,
    workers_option,
)
from robusteval.board_verbs import board
from robusteval.data.choice import parse_samples
from robusteval.endings import print_held, print_json
from robusteval.export_verb import export
from robusteval.guarded import (
    EXIT_BAD_INPUT,
    OneLine,
    Told,
    complain,
    delivered,
    guarded,
    note,
    say,
)
from robusteval.lines import DOUBTS
from robusteval.reproduce_verb import reproduce
from robusteval.transfer_verb import transfer

__all__ = ["app", "board", "expand_lists", "main", "parse_models", "parse_samples", "split_list"]

app = typer.Typer(
    name="robusteval",
    cls=OneLine,
    help="Is a prototype classifier's robustness real?  One command, one standard report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: brackets stay, and rich is not loaded for it
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robusteval {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evaluate prototype classifiers with attacks that tell the truth."""
    logging.getLogger("robusteval").handlers = [Told()]
    DOUBTS.clear()


@app.command()
@guarded
def run(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Option(
            help="A model's name, or the path of its entry; several, 'all', or '*_cifar10'."
        ),
    ],
    suite: Annotated[str, typer.Option(help="A suite's name, or the path of its TOML.")] = "full",
    samples: Chosen = "all",
    data: Annotated[
        str | None,
        typer.Option(
            help="Your own test images (a folder of class folders, .parquet, .npz, a data set's "
            ".toml), or another known data set."
        ),
    ] = None,
    eps: Annotated[
        list[str] | None,
        typer.Option(
            help="One radius or more, such as 4/255 8/255 or L2:0.5; else the usual ones."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these attacks of the suite: --only fgsm pgd20.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Try adversarial images of these models, too: --source ce_cifar10 'drp_*'."
        ),
    ] = None,
    static_source: Annotated[
        list[str] | None,
        typer.Option(
            help="Run the attacks on these models, too, and count their images here: this model is "
            "never asked before."
        ),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(help="An entry whose gradients adaptive follows after this model's own."),
    ] = None,
    seed: Annotated[int, whole_option("Seed of every random stream.")] = 0,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, or one of several, such as cuda:1.")
    ] = "cpu",
    batch_size: Annotated[
        int | None,
        whole_option("Images attacked together; by default 120 at 3x32x32, more if smaller."),
    ] = None,
    workers: Annotated[
        Any,
        workers_option("How many processes share the work; ray or ray:N for those of a cluster."),
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option(help="The Ray cluster to use; else $RAY_ADDRESS, else one for this run."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs of each Ray worker; 0.5 lets two share one.")
    ] = None,
    threads: Annotated[
        int | None,
        whole_option("Threads of each worker; by default the cores are shared among the workers."),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            help="Which adversarial images to store: first (one for each sample and threat model) "
            "or all."
        ),
    ] = "first",
    time_limit: Annotated[
        float | None,
        seconds_option("Seconds for each attack; one that takes longer has no number."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Plan each run to fit into a time, such as 10m; the rest is left out.  A plan, "
            "not a limit: a run that takes longer goes on."
        ),
    ] = None,
    data_dir: DataDir = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set through torchvision.")
    ] = False,
    outlier_dir: Annotated[
        list[Path] | None,
        path_option("A folder of images to use as outliers, too."),
    ] = None,
    fit_data: Annotated[
        Path | None,
        path_option("Training data of your own, which detectors are fitted to."),
    ] = None,
    out: Annotated[
        Any, place_option("Where run folders go: a folder, or a URL such as s3://BUCKET/RUNS.")
    ] = Path("runs"),
    allow_code: AllowCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the run would take, and stop.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Write the run's folder for `robusteval work`, and stop."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite against a model.  A run that was begun continues, a finished one is printed."""
    from robusteval import remembered, running

    question = None if dry_run or prepare else remembered.run_question(context.params)
    if (known := remembered.recall(question)) is not None:
        running.print_one(known, as_json)
        return
    count, seconds = parse_samples(samples), parse_budget(budget)
    with watching.shown("robusteval"):
        from robusteval import api, zoo

        def _models(option: str, given: list[str] | None) -> tuple[str, ...]:
            return tuple(zoo.models_called(given_list(option, given))) if given else ()

        options = api.Options(
            samples=count,
            data=data,
            seed=seed,
            eps=tuple(given_list("eps", eps)),
            only=tuple(given_list("only", only)),
            sources=_models("source", source),
            static_sources=_models("static-source", static_source),
            surrogate=surrogate,
            batch_size=batch_size,
            device=device,
            workers=workers,
            ray_address=ray_address,
            gpus_per_worker=gpus_per_worker,
            threads=threads,
            keep=keep,  # type: ignore[arg-type]  # checked with the other options
            time_limit=time_limit,
            budget=seconds,
            data_dir=data_dir,
            download=download,
            outlier_folders=tuple(outlier_dir or ()),
            fit_data=None if fit_data is None else str(fit_data),
            allow_code=allow_code,
            out=out,
        )
        models = parse_models(model)
        if dry_run:
            running.estimate(models, suite, options, as_json)
        elif prepare:
            running.prepare(models, suite, options)
        elif zoo.is_several(models):
            running.run_several(models, suite, options, as_json)
        else:
            found = watching.evaluate(models[0], suite, options)
            if found.complete:
                remembered.remember(question, remembered.run_question(context.params), found)
            running.print_one(found, as_json)


RunFolder = Annotated[
    Any, place_argument("A run's folder or URL, as `run` made it, or its archive.")
]


@app.command()
@guarded
def report(run: RunFolder, as_json: AsJson = False) -> None:
    """Write a run's report anew from its evidence.  This needs no model."""
    from robusteval import remembered, running

    question = remembered.report_question(run)
    if (found := remembered.recall(question)) is None:
        from robusteval import api

        found = api.rebuild_report(run)
        remembered.remember(question, remembered.report_question(run), found)
    running.print_one(found, as_json)


@app.command()
@guarded
@watching.watched("robusteval")
def verify(
    run: RunFolder,
    model: MovedModel = None,
    data: MovedData = None,
    fit_data: MovedFitData = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    again: Annotated[
        int,
        whole_option("How many jobs, chosen at random, to do once more."),
    ] = 0,
    device: OtherDevice = None,
    as_json: AsJson = False,
) -> None:
    """Check a run's evidence and report, afresh.  Model and data are loaded again."""
    from robusteval import api

    with watching.shown(str(run)) as told:
        checks = api.verify(
            *(run, model, data_dir, allow_code, again, device),
            data=data,
            fit_data=fit_data,
            progress=told,
        )
    print_held(checks, as_json)


app.command()(export)
app.command()(transfer)
app.command()(reproduce)


@app.command()
@guarded
def compare(
    runs: Annotated[list[Any], place_argument("Two run folders, URLs or archives, or more.")],
    figure: Annotated[
        Path | None,
        path_option("Draw attacks that ran at several radii, all runs in one SVG file, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs on the same samples.  Each is set beside the first: difference, McNemar's p,
    and AUROC of the detectors that both have."""
    from robusteval import api, terminal

    found = api.compare(runs)
    if figure is not None:
        from robusteval import eps_figures

        for drawn in eps_figures.draw(runs, figure):
            note(drawn)
    if as_json:
        print_json(found)
    else:
        terminal.print_comparison(found)


@app.command()
@guarded
def train(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of its entry.")],
    data_dir: DataDir = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a missing data set through torchvision.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, or one of several, such as cuda:1.")
    ] = "cpu",
    work_dir: Annotated[Path, path_option("Where checkpoints and logs go.")] = Path("training"),
) -> None:
    """Train a model by its entry's [training] table.  What was stopped continues."""
    from robusteval import api, bars
    from robusteval.models.entry import read_entry
    from robusteval.models.registry import find_entry

    entry = find_entry(name)
    with bars.epoch_progress(entry) as (on_epoch, progress):
        trained = api.train(
            entry,
            data_dir=data_dir,
            download=download,
            device=device,
            work_dir=work_dir,
            on_epoch=on_epoch,
            progress=progress,
        )
    say(
        f"{entry.name}: clean accuracy {100 * trained.clean_accuracy:.2f} % "
        f"({trained.clean_correct}/{trained.clean_total}), "
        f"weights in {read_entry(entry.path).weights_path}"
    )


app.add_typer(board, name="leaderboard")
shard_verbs.add_to(app)
app.command("list")(look_verbs.list_things)
app.command()(look_verbs.show)
app.command()(setup_verbs.init)
app.command()(setup_verbs.doctor)


def main() -> None:
    """The console script."""
    is_closed = sys.stdout is None
    streams.settle()
    if is_closed:
        complain("standard output is closed: redirect it to a file, or to /dev/null")
        sys.exit(EXIT_BAD_INPUT)
    with stops.heeded(), delivered():
        typer.main.get_command(app)(expand_lists(sys.argv[1:]))


if __name__ == "__main__":
    main()
