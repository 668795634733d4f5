"""What ``robusteval run`` prints: of one model or of several, for people or as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

from robusteval import terminal
from robusteval.endings import complaint, exit_after, exit_of, print_json
from robusteval.guarded import complain, note, say

if TYPE_CHECKING:
    from robusteval import api


def print_one(report: "api.Report", as_json: bool) -> None:
    """A report, as the terminal shows it or as JSON; exits as it deserves."""
    if as_json:
        print_json(report.content)
        note(report.page)
    else:
        terminal.print_report(report)
    if report.content["evidence"]["verification"] is None and report.complete:
        complain(
            f"not proven yet: `robusteval work {report.folder} --finish` predicts stored images "
            "again"
        )
    exit_of(report)


def estimate(models: list[str], suite: str, options: "api.Options", as_json: bool) -> None:
    """What the run of one model or of several would take, as the terminal shows it or as JSON."""
    from robusteval import watching, zoo

    if zoo.is_several(models):
        estimate_several(models, suite, options, as_json)
    elif as_json:
        print_json(watching.estimate(models[0], suite, options).to_json(models[0]))
    else:
        terminal.print_estimate(models[0], watching.estimate(models[0], suite, options))


def run_several(models: list[str], suite: str, options: "api.Options", as_json: bool) -> None:
    """One table of all models, and its CSV; those that can't be run are told last."""
    from robusteval import watching, zoo
    from robusteval.report.files import require_table

    table = options.out / f"{Path(suite).stem}.csv"
    require_table(table)
    outcomes = zoo.evaluate(models, suite, options, watching.evaluate)
    reports = [o for o in outcomes if not isinstance(o, zoo.Refused)]
    refused = [o for o in outcomes if isinstance(o, zoo.Refused)]
    if reports:
        zoo.write(reports, table)
    if as_json:
        print_json([report.content for report in reports])
    elif reports:
        terminal.print_models([report.content for report in reports])
    if reports:
        (note if as_json else say)(table)
    codes = [complaint(report, f"{report.content['model']['name']} is ") for report in reports]
    exit_after(refused, "run", codes)


def prepare(models: list[str], suite: str, options: "api.Options") -> None:
    """Each run's folder, a line each; of several models, those that can't be run are told last."""
    from robusteval import watching, zoo

    if not zoo.is_several(models):
        say(watching.begin(models[0], suite, options))
        return
    found = zoo.for_each(models, options, lambda name, each: watching.begin(name, suite, each))
    folders = [folder for folder in found if isinstance(folder, Path)]
    for folder in folders:
        say(folder)
    refused = [one for one in found if isinstance(one, zoo.Refused)]
    exit_after(refused, "prepared", [0] * len(folders))


def estimate_several(models: list[str], suite: str, options: "api.Options", as_json: bool) -> None:
    """What each model's run would take; those that can't be run are told last."""
    from robusteval import watching, zoo

    refused, estimates = [], []
    for found in zoo.for_each(
        models, options, lambda name, options: (name, watching.estimate(name, suite, options))
    ):
        if isinstance(found, zoo.Refused):
            refused.append(found)
            continue
        estimates.append(found)
        if not as_json:
            terminal.print_estimate(*found)
    if as_json:
        print_json([estimate.to_json(name) for name, estimate in estimates])
    exit_after(refused, "estimated", [0 for _ in estimates])
