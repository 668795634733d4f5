"""What the terminal shows: tables, and the path of the report."""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from robusteval import inert
from robusteval.consoles import console
from robusteval.durations import duration_text
from robusteval.lines import DOUBTS
from robusteval.piped import is_piped, pair_rows, print_tsv
from robusteval.report.detection_lines import detection_lines
from robusteval.report.wording import (
    by_protocol,
    check_text,
    found_text,
    interval,
    lowest_claim,
    percent,
    score_notes,
    score_rows,
    threat_text,
    worst_text,
)
from robusteval.types import NORM_SIGNS

if TYPE_CHECKING:
    from robusteval.api import Check, Estimate, Report
    from robusteval.models.entry import Entry


WIDE = 96  # columns of a terminal that has room for intervals
NARROW = 66  # columns of a terminal under which tables lose their lesser columns
# What a table can do without, the least first, and what together.
_LESSER = (
    *(("weights",), ("training",), ("only_first", "only_second"), ("package",)),
    *(("needs prototypes",), ("own passes",), ("gradient",), ("needs linear layer",)),
    *(("shape",), ("method",), ("difference",), ("claim",), ("library", "attack"), ("norms",)),
)
# Columns whose cells may break between words.
_WRAPPED = (
    *("claim", "attack", "threats", "found", "norms", "description", "problem"),
    *("needs prototypes", "needs linear layer", "needs training data", "own passes"),
)
_SHORTEST = 8  # of a line there: longer words are folded
_NUMBERS = ("clean", "first", "second", "difference", "p", "only_first", "only_second")
_ONLY_IN_JSON = ("path", "title", "clean_count", "class_order", "license", "source")
BUDGET = "budget"  # the check that tells what a run was cut to: of interest where it is ok, too
AS_SAID = "as the run says"
_CLASSES_SHOWN = 200  # characters of a data set's class names


def _say(*parts: "str | Text", style: str | None = None) -> None:
    """A line, which is broken on terminals alone."""
    console.print(*parts, style=style, soft_wrap=is_piped())


def _range(rate: dict[str, Any] | None) -> str:
    return f"{100 * rate['low']:.1f}–{100 * rate['high']:.1f}" if rate else ""


def print_report(report: "Report") -> None:
    """The table of robust accuracies, the claims, and the path."""
    content = report.content
    model, data = content["model"]["name"], content["dataset"]["name"]
    table = Table(title=f"{model} · {content['suite']['name']} · {content['samples']} of {data}")
    table.add_column("attack", overflow="fold")
    table.add_column("threat")
    table.add_column("robust", justify="right", no_wrap=True)
    if console.width >= NARROW:
        table.add_column("95 %", justify="right", no_wrap=True)
        table.add_column("s", justify="right", no_wrap=True)

    def add(*cells: str, style: str = "") -> None:
        table.add_row(*cells[: len(table.columns)], style=style)

    clean = content["clean"]["accuracy"]
    add("clean", "", percent(clean), _range(clean), "")
    for attack in content["attacks"]:
        rate = attack["robust_accuracy"]
        shown = percent(rate) if rate else attack["status"].replace("_", " ")
        seconds = f"{attack['seconds']:.1f}"
        add(attack["title"], threat_text(attack["threat"]), shown, _range(rate), seconds)
    table.add_section()
    for worst in content["worst_case"]:
        rate = worst["robust_accuracy"]
        shown = percent(rate) if rate else f"at most {percent(worst['at_most'])}"
        add("worst case", threat_text(worst["threat"]), shown, _range(rate), "", style="bold red")
    console.print(table)
    for attack in content["attacks"]:
        if attack["reason"]:
            status = attack["status"].replace("_", " ")
            _say(f"{attack['title']} {status}: {attack['reason']}")
    if content.get("rejection") or content.get("under_attack"):
        for line in detection_lines(content):
            _say(line)
    for claim in content["claims"]:
        _say(_claim_line(claim))
    for finding in content["findings"]:
        if finding["verdict"] != "ok" or finding["check"] == BUDGET:
            _say(finding_text(finding), style="yellow")
    print(inert.line(report.page))


def _claim_line(claim: dict[str, Any]) -> str:
    """A claim beside the same attack here, and beside all attacks."""
    at = f"{claim['attack']}, {threat_text(claim)}" if claim["norm"] else claim["attack"]
    whose = " by the paper's protocol" if by_protocol(claim) else ""
    line = f"claimed{whose} {claim['accuracy']:.1f} % ({at}); the same here: {found_text(claim)}"
    return f"{line}; worst case here: {worst_text(claim)}" if claim["worst"] else line


def finding_text(finding: dict[str, Any]) -> str:
    """Check, verdict, what was measured, and what to do, unless that was told already."""
    said = f"{check_text(finding)}: {finding['verdict']}: {finding['measured']}"
    told = f"{said}; {finding['advice']}" if finding["advice"] else said
    return said if any(told in doubt for doubt in DOUBTS) else told


def _fitting(text: str) -> str:
    """A text as it will be shown, of which a line with several styles is made."""
    return inert.fitting(inert.line(text), console.encoding)


def _verdict(check: "Check") -> str:
    if not check.proven:
        return AS_SAID
    return "holds" if check.held else "DOES NOT HOLD"


def print_checks(checks: "list[Check]", limits: str = "") -> None:
    """What verification found, line by line, and what it can't tell; rows alone go into a pipe."""
    if is_piped():
        print_tsv([{"check": c.name, "verdict": _verdict(c), "told": c.told} for c in checks])
        return
    width = max(len(_fitting(check.name)) for check in checks)
    for check in checks:
        word = _verdict(check)
        style = {"holds": "green", AS_SAID: "yellow"}.get(word, "bold red")
        name, told = _fitting(check.name), _fitting(check.told)
        start = f"{name:{width}}  " if console.width >= NARROW else f"{name}: "
        console.print(Text(start).append(word, style=style).append(f"  {told}"))
    if limits:
        print(limits)


def print_comparison(found: dict[str, Any]) -> None:
    """A table per pair of runs."""
    if is_piped():
        print_tsv([row for pair in found["pairs"] for row in pair_rows(pair)])
        return
    for pair in found["pairs"]:
        title = f"{pair['first']} and {pair['second']} · {found['samples']} of {found['dataset']}"
        rows = [
            {
                "attack": row["attack"],
                "threat": threat_text(row["threat"]) if row["threat"] else "",
                "first": percent(row["first"]),
                "second": percent(row["second"]),
                "difference": f"{100 * row['difference']:+.1f}",
                "p": f"{row['p']:.2g}",
                "only_first": len(row["only_first"]),
                "only_second": len(row["only_second"]),
            }
            for row in pair["rows"]
        ]
        _print_table(title, rows)
        for key in pair["only_in_one"]:
            console.print(f"{key} is in one of the two only, or did not finish in the other")
        for key in pair["not_alike"]:
            console.print(f"{key} is by other attacks or parameters: not compared")
        if scores := score_rows(pair):
            _print_table("AUROC", scores)
        for line in score_notes(pair):
            console.print(line)


def print_models(reports: list[dict[str, Any]]) -> None:
    """A line for each model under its data set: clean accuracy and worst cases, firmest first."""
    if not reports:
        return
    table = Table(title=reports[0]["suite"]["name"])
    table.add_column("model", overflow="fold")
    norms = [n for n in NORM_SIGNS if any(_worst(r, n) for r in reports)]
    for name in ("clean", *(NORM_SIGNS[n] for n in norms)):
        table.add_column(name, justify="right", no_wrap=True)
    if console.width >= NARROW and any(_lowest_claim(r) for r in reports):
        table.add_column("claimed", justify="right")
    for data in sorted({r["dataset"]["name"] for r in reports}):
        group = sorted((r for r in reports if r["dataset"]["name"] == data), key=_firmest)
        counts = sorted({report["samples"] for report in group})
        about = f"{data}, {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}"
        eps = [" / ".join(w["threat"]["eps"] for w in _worst(group[0], n)) for n in norms]
        table.add_row(about, "", *eps, style="bold")
        for report in group:
            left = [" / ".join(_left(w) for w in _worst(report, n)) for n in norms]
            claim = _lowest_claim(report)
            clean = percent(report["clean"]["accuracy"])
            cells = [f"  {report['model']['name']}", clean, *left, claim]
            table.add_row(*cells[: len(table.columns)])
        table.add_section()
    console.print(table)
    if any(_lowest_claim(r) for r in reports):
        console.print(Text("The claim is about one attack, the columns before it are about all."))
    for report in reports:
        for finding in report["findings"]:
            if finding["check"] == BUDGET:
                console.print(Text(f"{report['model']['name']}: {finding['measured']}"))


def _worst(report: dict[str, Any], norm: str) -> list[dict[str, Any]]:
    return [w for w in report["worst_case"] if w["threat"]["norm"] == norm]


def _left(worst: dict[str, Any]) -> str:
    """A worst case, with its interval where there is room; an upper bound if it did not finish."""
    rate = worst["robust_accuracy"]
    if not rate:
        return f"≤ {percent(worst['at_most'])}"
    return f"{percent(rate)} {interval(rate)}" if console.width >= WIDE else percent(rate)


def _firmest(report: dict[str, Any]) -> tuple[float, str]:
    first = report["worst_case"][0]["robust_accuracy"] if report["worst_case"] else None
    return (-first["value"] if first else 1.0, report["model"]["name"])


def _lowest_claim(report: dict[str, Any]) -> str:
    lowest = lowest_claim(report["claims"])
    if not lowest:
        return ""
    at = f" at {lowest['eps']}" if lowest["eps"] else ""
    return f"{lowest['accuracy']:.1f} % by {lowest['attack']}{at}"


def print_estimate(model: str, found: "Estimate") -> None:
    """What a run would take."""
    print(inert.line(model))
    print(f"jobs            {found.jobs}")
    print(f"forward passes  {found.forward_passes:,} at most")
    print(f"backward passes {found.backward_passes:,} at most")
    print(f"time            {duration_text(60 * found.minutes)} at most, if nothing breaks early")
    print(f"evidence        about {found.bytes / 1000:.0f} kB")
    for part in found.parts:
        jobs = f"{part.jobs} job{'s' * (part.jobs != 1)}"
        passes = f"{part.forward_passes:,} + {part.backward_passes:,} passes"
        print(f"  {part.purpose:17}  {jobs}, {passes}, {duration_text(60 * part.minutes)}")
    for line in found.left_out:
        print(inert.line(line))


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows of plain data as a table; what is long is left to --json, and to pipes."""
    if is_piped():
        print_tsv(rows, ("problem",) if title == "models" else ())
    else:
        _print_table(title, [{k: row[k] for k in row if k not in _ONLY_IN_JSON} for row in rows])


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Headings and whole names at any width: lesser columns are left out, which is said."""
    every = list(dict.fromkeys(key for row in rows for key in row))
    columns = _that_fit(every, rows)
    is_narrow, fits = console.width < NARROW, _needed(columns, rows) <= console.width
    table = Table(title=title, box=None if is_narrow else HEAVY_HEAD, pad_edge=not is_narrow)
    for column in columns:
        table.add_column(
            column.replace("_", " "),
            justify="right" if column in _NUMBERS else "left",
            overflow="fold",
            no_wrap=fits and column not in _WRAPPED,
        )
    for row in _told_in(columns, rows):
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    console.print(table)
    left_out = [c for c in chain(*_LESSER) if c in every and c not in columns]
    if left_out:
        console.print(f"A wider terminal, or --json, shows {_listed(left_out)}, too.")


def _listed(columns: list[str]) -> str:
    *most, last = (column.replace("_", " ") for column in columns)
    return " and ".join([", ".join(most), last] if most else [last])


def _told_in(columns: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in which what is wrong with weights stands where a number can't be trusted, unless it
    has a column of its own."""
    if "weights" in columns:
        return rows
    return [
        {**r, "clean": r["weights"]} if r.get("weights", "checked") != "checked" else r
        for r in rows
    ]


def print_datasets(rows: list[dict[str, Any]]) -> None:
    """The table of data sets; below it the classes found, and what can't be used."""
    if is_piped():
        print_tsv(rows, ("problem",))
        return
    print_rows("datasets", [{k: v for k, v in row.items() if k != "problem"} for row in rows])
    if any(row.get("class_order") for row in rows):
        console.print("Classes in the order of their labels, from 0:")
    for row in rows:
        orders = list(row.get("class_order", {}).items())
        alike = all(names == orders[0][1] for _, names in orders)
        for split, names in orders[:1] if alike else orders:
            console.print(f"{row['name'] if alike else split}: {_classes(names)}")
        if "problem" in row:
            console.print(f"{row['name']}: {row['problem']}", style="yellow")


def _classes(names: list[str]) -> str:
    """As many names as have room, and the last one."""
    whole = ", ".join(names)
    if len(whole) <= _CLASSES_SHOWN:
        return whole
    first = whole[:_CLASSES_SHOWN].rpartition(", ")[0] or names[0]
    return f"{first}, …, {names[-1]} ({len(names)}; --json shows all)"


def _that_fit(columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Without the lesser columns, one after another, while no line would fit without a break."""
    kept = list(columns)
    for lesser in _LESSER:
        if _needed(kept, rows) <= console.width:
            break
        if set(lesser) <= set(kept):  # an attack without its library is a comparison's
            kept = [column for column in kept if column not in lesser]
    return kept


def _needed(columns: list[str], rows: list[dict[str, Any]]) -> int:
    """How wide a table must be in which nothing breaks but where that may be."""
    told = _told_in(columns, rows)

    def width(column: str) -> int:
        cells = [column.replace("_", " "), *(_cell(column, row.get(column)) for row in told)]
        if column not in _WRAPPED:
            return max(map(cell_len, cells))
        return min(_SHORTEST, max(cell_len(word) for cell in cells for word in cell.split()))

    between = 2 if console.width < NARROW else 3
    return sum(width(column) + between for column in columns) + between - 2


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if isinstance(value, float) else inert.line(value)


def print_entry(entry: "Entry", prototypes_left: dict[str, list[int]]) -> None:
    """One entry, table by table; what is empty is left out.  ``prototypes_left``: see listing."""
    _say(Text(_fitting(entry.name), style="bold"), entry.description)
    content = entry.model_dump(mode="json", exclude_none=True, exclude={"name", "description"})
    content["head"]["prototypes_left"] = prototypes_left
    for key, value in _told(content):
        if isinstance(value, dict):
            _say(f"[{key}]", style="bold")
            for name, inner in _told(value):
                _say(f"  {name} = {inner}")
        elif isinstance(value, list):
            for item in value:
                _say(f"[{key}] {item}{_not_run(item) if key == 'claims' else ''}")
        else:
            _say(f"{key} = {value}")


def print_weights(found: dict[str, Any]) -> None:
    """A line for each tensor, and the file that they are in."""
    rows = [(t["name"], _shape(t["shape"]), t["type"]) for t in found["tensors"]]
    widths = [max((len(_fitting(row[k])) for row in rows), default=0) for k in range(2)]
    for name, shape, kind in rows:
        print(inert.line(f"{name:{widths[0]}}  {shape:{widths[1]}}  {kind}"))
    print(inert.line(f"{len(rows)} tensors, {found['numbers']:,} numbers, in {found['file']}"))


def _shape(sizes: list[int]) -> str:
    return f"({', '.join(map(str, sizes))})"


def _not_run(claim: dict[str, Any]) -> str:
    """What is to be said of a claim of an attack that no suite has."""
    from robusteval.plan.suite import suites_with

    known = claim["attack"] == "clean" or suites_with(claim["attack"])
    return "" if known else " (not run here: no suite has this attack)"


def _told(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a table says anything in."""
    return ((key, value) for key, value in table.items() if value not in ("", [], {}))
