"""Robust accuracy of attacks that ran at several ε: a curve each, of one run or of several."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from robusteval import inert
from robusteval.report.figures import INK, OTHERS, RED, accuracy_axis, figure_of, svg
from robusteval.types import NORM_SIGNS, NORMS, Norm

FEWEST = 3  # ε that make a curve
WORST = "worst case"
Line = list[tuple[float, dict[str, Any]]]  # ε and the rate there


def eps_lines(report: dict[str, Any], norm: Norm) -> dict[str, Line]:
    """Each attack's line by its title, and the worst case's; none of fewer than ``FEWEST`` ε."""
    found: dict[str, Line] = {}
    worst = [{**row, "title": WORST} for row in report["worst_case"]]
    for row in (*report["attacks"], *worst):
        if row["threat"]["norm"] == norm and row["robust_accuracy"] and "unbounded" not in row:
            point = row["threat"]["radius"], row["robust_accuracy"]
            found.setdefault(row["title"], []).append(point)
    clean = 0.0, report["clean"]["accuracy"]
    return {
        title: [clean, *sorted(line, key=lambda point: point[0])]
        for title, line in found.items()
        if len(line) >= FEWEST
    }


def eps_curve(report: dict[str, Any], norm: Norm) -> str:
    """The curves of one run as SVG, the worst case in red; empty where there is none."""
    return _drawn([eps_lines(report, norm)], norm)


def eps_curves(reports: Mapping[str, dict[str, Any]]) -> dict[Norm, str]:
    """The curves of several runs in one figure for each norm, by what each run is called.

    Attacks that all runs have; a colour is a run, a dash an attack.
    """
    found: dict[Norm, str] = {}
    for norm in NORMS:
        lines = [eps_lines(report, norm) for report in reports.values()]
        shared = [title for title in lines[0] if all(title in one for one in lines)]
        if shared:
            alike = [{title: one[title] for title in shared} for one in lines]
            found[norm] = _drawn(alike, norm, list(reports))
    return found


_DASHES = ("-", "--", "-.", ":")


def _drawn(runs: Sequence[Mapping[str, Line]], norm: Norm, names: Sequence[str] = ()) -> str:
    if not any(runs):
        return ""
    several, sign = len(runs) > 1, NORM_SIGNS[norm]
    with figure_of(7.2, 3.2) as (figure, (axes,)):
        colours = cycle(OTHERS)
        for place, lines in enumerate(runs):
            dashes, own = cycle(_DASHES), next(colours)
            for title, line in lines.items():
                colour = own if several else RED if title == WORST else next(colours)
                label = inert.plot(f"{names[place]}: {title}" if several else title)
                x, values = zip(*line, strict=True)
                y = [100 * rate["value"] for rate in values]
                low, high = ([100 * rate[end] for rate in values] for end in ("low", "high"))
                dash = next(dashes) if several else "-"
                axes.plot(x, y, dash, marker="o", ms=3, lw=1.5, color=colour, label=label)
                axes.fill_between(x, low, high, color=colour, alpha=0.08, lw=0)
        axes.set(xlim=(0, None), xlabel=f"ε, {sign} (shades: 95 % intervals)")
        axes.tick_params(colors=INK)
        accuracy_axis(axes)
        return svg(figure, f"Robust accuracy of each attack against ε, {sign}")
