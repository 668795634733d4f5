"""What ``robusteval run`` does and prints, of one model or of several."""

from pathlib import Path

from robusteval import api, terminal, watching, zoo
from robusteval.endings import complaint, exit_after, exit_of
from robusteval.guarded import say
from robusteval.report.files import require_table


def run_one(model: str, suite: str, options: api.Options) -> None:
    """A report, as the terminal shows it; exits as it deserves."""
    report = watching.evaluate(model, suite, options)
    terminal.print_report(report)
    exit_of(report)


def run_several(models: list[str], suite: str, options: api.Options) -> None:
    """One table of all models, and its CSV; those that can't be run are told last."""
    table = options.out / f"{Path(suite).stem}.csv"
    require_table(table)
    outcomes = zoo.evaluate(models, suite, options, watching.evaluate)
    reports = [o for o in outcomes if not isinstance(o, zoo.Refused)]
    refused = [o for o in outcomes if isinstance(o, zoo.Refused)]
    if reports:
        zoo.write(reports, table)
        terminal.print_models([report.content for report in reports])
        say(table)
    codes = [complaint(report, f"{report.content['model']['name']} is ") for report in reports]
    exit_after(refused, "run", codes)


def estimate_several(models: list[str], suite: str, options: api.Options) -> None:
    """What each model's run would take; those that can't be run are told last."""
    refused, codes = [], []
    for found in zoo.for_each(
        models, options, lambda name, options: (name, watching.estimate(name, suite, options))
    ):
        if isinstance(found, zoo.Refused):
            refused.append(found)
        else:
            terminal.print_estimate(*found)
            codes.append(0)
    exit_after(refused, "estimated", codes)
