"""Pictures of detection: ROC and precision, accuracy against rejection, confidence."""

from typing import Any

import numpy as np

from robusteval import inert
from robusteval.report.figures import AMBER, BLUE, GRID, MUTED, RED, figure_of, shown_name, svg
from robusteval.report.wording import threat_text

COLOURS = (BLUE, AMBER, "#2f855a", "#6b46c1", RED)
_GROUPS = {
    **{
        "right": (BLUE, "right"),
        "wrong": (RED, "wrong"),
        "attacked": ("#6b46c1", "attacked, wrong"),
    },
    **{"near": (AMBER, "near outliers"), "far": ("#2f855a", "far outliers")},
    **{"natural": (AMBER, "outliers"), "noise": (MUTED, "noise"), "folder": ("#00838f", "folders")},
}
_WIDTH = 7.2
_LETTERS = 90  # that such a width holds
_FEWEST = 10  # samples of a line

Row = dict[str, Any]


def _axes(axes: Any, x: str, y: str, title: str) -> None:
    axes.set(xlim=(0, 1), xlabel=x, ylabel=y)
    axes.set_title(inert.plot(title), fontsize=9.5)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5)


def _legend(figure: Any, axes: Any) -> None:
    """One for all panels, below them, in as many columns as its names leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(3, _LETTERS // (max(map(len, labels), default=0) + 6)))
    look = {"ncols": columns, "fontsize": 8.5, "frameon": False}
    figure.legend(handles, labels, loc="outside lower center", **look)


def separation_curves(curves: Row, detectors: list[str]) -> str:
    """ROC and precision against recall for one set: a line for each detector."""
    against = shown_name(curves["against"])
    with figure_of(_WIDTH, 3.3, 2) as (figure, (left, right)):
        for line in curves["lines"]:
            colour = COLOURS[detectors.index(line["detector"]) % len(COLOURS)]
            look = {"color": colour, "lw": 1.5, "label": inert.plot(line["detector"])}
            left.plot(*np.transpose(line["roc"]), **look)
            right.plot(*np.transpose(line["precision_recall"]), **look)
        left.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=":")
        for axes in (left, right):
            axes.set_ylim(0, 1.01)
        _axes(left, "outliers accepted (FPR)", "inliers accepted (TPR)", f"ROC, {against}")
        _axes(right, "recall", "precision", f"precision and recall, {against}")
        _legend(figure, left)
        return svg(figure, f"ROC and precision-recall curves against {curves['against']}")


def rejection_curves(rows: list[Row], detectors: list[str]) -> str:
    """Accuracy of the accepted samples against the share rejected: a panel for clean samples, and
    one for each threat, three at most."""
    shown = rows[:3]
    with figure_of(_WIDTH, 3.3, len(shown)) as (figure, panels):
        for axes, row in zip(panels, shown, strict=True):
            for line in row["lines"]:
                colour = COLOURS[detectors.index(line["detector"]) % len(COLOURS)]
                x, y = np.transpose(line["points"])
                axes.plot(x, y, color=colour, lw=1.5, label=inert.plot(line["detector"]))
            _fit_heights(axes, row)
            title = f"attacked, {threat_text(row['threat'])}" if row["threat"] else "clean"
            _axes(axes, "share rejected", "", title)
        panels[0].set_ylabel("accuracy of the accepted")
        _legend(figure, panels[0])
        return svg(figure, "Accuracy of accepted samples against the share rejected")


def _fit_heights(axes: Any, row: Row) -> None:
    """Accuracies from the lowest to the highest of all lines, with some room."""
    heights = [y for line in row["lines"] for _, y in line["points"]]
    low, high = min(heights), max(heights)
    axes.set_ylim(max(low - 0.06, 0), min(high + 0.06, 1.01))


def confidence_histogram(confidence: Row) -> str:
    """How often each largest probability is given: a line for each kind of sample, if there are ten
    of it or more."""
    edges = np.array(confidence["edges"])
    with figure_of(_WIDTH, 2.7) as (figure, (axes,)):
        for name, counts in confidence["counts"].items():
            if sum(counts) < _FEWEST:
                continue
            colour, label = _GROUPS.get(name, (MUTED, inert.plot(name)))
            shares = np.array(counts, float) / sum(counts)
            filled = name == "right"
            look = {"fill": filled, "alpha": 0.3 if filled else 1.0, "color": colour, "lw": 1.5}
            axes.stairs(shares, edges, label=f"{label} ({sum(counts)})", **look)
        axes.set(xlim=(0, 1), xlabel="largest probability", ylabel="share of samples")
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.legend(fontsize=8.5, frameon=False, loc="upper left")
        return svg(figure, "Largest probability of right, wrong and outlying samples")
