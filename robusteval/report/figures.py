"""Pictures for the pages: SVG text from report numbers, PNG data URIs from images."""

import base64
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robusteval import inert
from robusteval.types import NORM_SIGNS

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e3e8ee"
BLUE, RED, AMBER = "#2b6cb0", "#c53030", "#b7791f"
OTHERS = (BLUE, AMBER, "#2f855a", "#6b46c1", MUTED, "#00838f")  # lines beside a red one
# Equal input gives equal bytes: no dates, no random identifiers.
_STYLE: Any = {
    "svg.hashsalt": "robusteval",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # each text names the fonts that it may have
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
}


_GEOMETRY = re.compile(r' (?:d|x|y|points|transform)="[^"]*"')
_BYTES = re.compile(r" <metadata>.*?</metadata>\n|^ +", re.DOTALL | re.MULTILINE)  # unseen
_DIGITS = re.compile(r"(\.\d\d)\d+")


def _in_hundredths(found: re.Match[str]) -> str:
    """Geometry in hundredths of a point: more can't be seen, and is half of a page's size."""
    return _DIGITS.sub(r"\1", found[0])


@contextmanager
def figure_of(width: float, height: float, columns: int = 1) -> Iterator[tuple[Any, Any]]:
    """A figure in the report's look, and its panels side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the page's font may well have
        mpl.rcdefaults()  # a caller's own style is none of a report's
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(1, columns, squeeze=False)[0]


def svg(figure: Any, label: str) -> str:
    """A figure as SVG text with a label for those who can't see it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    body = _BYTES.sub("", _GEOMETRY.sub(_in_hundredths, text[text.index("<svg") :]))
    return body.replace("<svg ", f'<svg role="img" aria-label="{escape(inert.line(label))}" ', 1)


def accuracy_bars(report: dict[str, Any], norm: str) -> str:
    """Robust accuracy per attack of one norm, with intervals; clean above, worst case below."""
    rows = [("clean", report["clean"]["accuracy"], MUTED)]
    several = sum(w["threat"]["norm"] == norm for w in report["worst_case"]) > 1
    for attack in report["attacks"]:
        if attack["threat"]["norm"] == norm:
            suffix = f" @ {attack['threat']['eps']}" if several else ""
            missing = (
                "" if attack["robust_accuracy"] else f" ({attack['status'].replace('_', ' ')})"
            )
            rows.append((attack["title"] + suffix + missing, attack["robust_accuracy"], BLUE))
    for worst in report["worst_case"]:
        if worst["threat"]["norm"] == norm:
            suffix = f" @ {worst['threat']['eps']}" if several else ""
            rows.append(("worst case" + suffix, worst["robust_accuracy"], RED))
    with figure_of(7.2, 0.6 + 0.3 * len(rows)) as (figure, (axes,)):
        for y, (_, rate, colour) in enumerate(rows):
            if rate is None:
                continue
            value = 100 * rate["value"]
            errors = [[value - 100 * rate["low"]], [100 * rate["high"] - value]]
            axes.barh(y, value, color=colour, height=0.62)
            axes.errorbar(value, y, xerr=np.abs(errors), color=INK, capsize=2.5, lw=1)
            axes.text(100 * rate["high"] + 1.2, y, f"{value:.1f}", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [inert.plot(name) for name, _, _ in rows])
        axes.invert_yaxis()
        axes.set(xlim=(0, 108), xlabel="accuracy, % (bars: 95 % intervals)")
        axes.set_xticks(range(0, 101, 20))
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        return svg(figure, f"Robust accuracy per attack, {norm}")


def distance_curve(curve: dict[str, Any], radii: list[float]) -> str:
    """What attacks that minimise a norm leave at most, at every ε: a line each, the best in red."""
    places = [place for place, _ in curve["best"]["points"]]
    if not any(places):  # no attack can have broken what the best of all did not
        return ""
    end = max(float(np.quantile(places, 0.97)), *radii) * 1.25
    lines = [
        (row["title"], row["points"], colour)
        for row, colour in zip(curve["attacks"], cycle(OTHERS), strict=False)
    ]
    lines.append(("best of all attacks", curve["best"]["points"], RED))
    sign = NORM_SIGNS[curve["norm"]]
    with figure_of(7.2, 3.0) as (figure, (axes,)):
        for title, points, colour in lines:
            x, y = _steps(points, curve["samples"], end)
            axes.step(x, y, where="post", label=inert.plot(title), color=colour, lw=1.5)
        for radius in radii:
            axes.axvline(radius, color=MUTED, lw=0.8, ls=":")
        axes.set(xlim=(0, end), xlabel=f"ε, {sign} (dotted: this run's)")
        accuracy_axis(axes)
        return svg(figure, f"Robust accuracy against ε, at most, {sign}")


def cost_curve(curve: dict[str, Any]) -> str:
    """Robust accuracy against the passes that each sample took: lines for attacks that tell these
    by sample, and a mark where each attack ends."""
    colours, marks = cycle(OTHERS), cycle("os^vDPX<>d")
    with figure_of(7.2, 3.2) as (figure, (axes,)):
        for row in curve["attacks"]:
            left = 100 * row["left"] / curve["samples"]
            colour = next(colours) if row["by_sample"] else MUTED
            if row["by_sample"]:
                x, y = _steps(row["points"], curve["samples"], row["most"])
                axes.step(np.maximum(x, 1), y, where="post", color=colour, lw=1.6)
            mark = "*" if row["by_sample"] else next(marks)
            label = inert.plot(row["title"])
            axes.plot(max(row["most"], 1), left, mark, color=colour, ms=5, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("passes per sample, a backward pass counted as two")
        accuracy_axis(axes)
        return svg(figure, f"Robust accuracy against passes, {curve['threat']['norm']}")


def _steps(points: list[list[float]], samples: int, end: float) -> tuple[list[float], list[float]]:
    """Places and accuracies in percent, from 0 to ``end``, for [place, robust samples]."""
    first = points[0][1] + 1 if points else samples
    x = [0.0, *(place for place, _ in points), end]
    y = [first, *(count for _, count in points), points[-1][1] if points else first]
    return x, [100 * count / samples for count in y]


def accuracy_axis(axes: Any) -> None:
    """In percent, with a legend beside it if there is one."""
    axes.set(ylim=(0, 101), ylabel="robust accuracy, %")
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def shown_name(against: str) -> str:
    """A short name for a legend: a folder's last part, an attack without its threat."""
    return Path(against).name if against.startswith(("/", ".")) else against.partition("/")[0]


def score_histograms(rows: list[dict[str, Any]], inside_name: str) -> str:
    """One panel per detector: its scores on both sides."""
    usable = [r for r in rows if r.get("histogram")]
    if not usable:
        return ""
    with figure_of(min(2.5 * len(usable), 7.2), 2.4, len(usable)) as (figure, panels):
        for axes, row in zip(panels, usable, strict=True):
            edges = np.array(row["histogram"]["edges"])
            for side, colour, name in (
                ("inside", BLUE, inside_name),
                ("outside", AMBER, shown_name(row["against"])),
            ):
                counts = np.array(row["histogram"][side], float)
                look = {"fill": True, "alpha": 0.45, "color": colour, "label": inert.plot(name)}
                axes.stairs(counts / counts.sum(), edges, **look)
            axes.set_title(inert.plot(row["detector"].replace("_", " ")), fontsize=9.5)
            axes.set_yticks([])
            axes.tick_params(labelsize=8)
            axes.spines["left"].set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        look = {"ncols": 1 if max(map(len, labels)) > 40 else 2, "fontsize": 8.5, "frameon": False}
        figure.legend(handles, labels, loc="outside lower center", **look)
        return svg(figure, f"Detector scores on {inside_name} and {usable[0]['against']}")


def picture(image: NDArray[np.uint8], size: int = 96) -> str:
    """A uint8 image (C, H, W) as a PNG data URI, enlarged without smoothing."""
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    scale = max(size // array.shape[0], 1)
    shown = Image.fromarray(array).resize(
        (array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST
    )
    stream = io.BytesIO()
    shown.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def difference(clean: NDArray[np.uint8], adversarial: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The perturbation around mid-grey, stretched to the full range."""
    delta = adversarial.astype(np.float64) - clean.astype(np.float64)
    largest = max(float(np.abs(delta).max()), 1.0)
    stretched: NDArray[np.uint8] = (127.5 + 127.5 * delta / largest).round().astype(np.uint8)
    return stretched
