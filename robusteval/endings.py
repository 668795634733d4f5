"""What a verb prints last, and the exit code that its outcome deserves."""

import codecs
import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from robusteval import inert
from robusteval.guarded import EXIT_BAD_INPUT, EXIT_INCOMPLETE, EXIT_NOT_HELD, complain

if TYPE_CHECKING:
    from robusteval.api import Check, Report
    from robusteval.zoo import Refused


def exit_after(refused: "list[Refused]", verb: str, codes: list[int]) -> None:
    """Tells what was refused, and exits with the gravest code of all, if any is above 0."""
    for one in refused:
        complain(f"{one.name} was not {verb}: {one.reason}")
    codes = codes + [EXIT_INCOMPLETE if codes else one.exit_code for one in refused]
    for code in (EXIT_NOT_HELD, EXIT_INCOMPLETE, EXIT_BAD_INPUT):
        if code in codes:
            raise typer.Exit(code)


def complaint(report: "Report", about: str = "") -> int:
    """The exit code that a report deserves, with a line that says why."""
    if report.content["evidence"]["verification"] and not report.proven:
        complain(
            f"{about}not proven: stored images don't hold when predicted again; see the findings"
        )
        return EXIT_NOT_HELD
    if not report.complete:
        from robusteval.report.wording import incomplete_text

        complain(f"{about}incomplete: {incomplete_text(report.content['missing'])}")
        return EXIT_INCOMPLETE
    return 0


def exit_of(report: "Report") -> None:
    """Exits as a report deserves it, unless that is 0."""
    if code := complaint(report):
        raise typer.Exit(code)


def print_held(checks: "list[Check]", as_json: bool, limits: str = "") -> None:
    """What was checked, and what that can't tell; exits with 1 where something does not hold."""
    from robusteval import terminal

    if as_json:
        print_json([check.to_json() for check in checks])
    else:
        terminal.print_checks(checks, limits)
    if failed := [check.name for check in checks if not check.held]:
        complain(f"does not hold: {', '.join(failed)}")
        raise typer.Exit(EXIT_NOT_HELD)


def print_json(value: Any) -> None:
    """Indented JSON on stdout."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    is_utf8 = codecs.lookup(encoding).name.startswith("utf-")
    print(inert.json_text(json.dumps(value, indent=2, ensure_ascii=not is_utf8)))
