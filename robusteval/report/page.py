"""The report as HTML and Markdown, from its JSON content and the attacked images."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from robusteval import inert
from robusteval.durations import duration_text
from robusteval.evidence.results import Example
from robusteval.places import Place
from robusteval.report.attackers import attackers_tables
from robusteval.report.detection_figures import (
    confidence_histogram,
    rejection_curves,
    separation_curves,
)
from robusteval.report.detection_tables import (
    METRIC_TITLES,
    classes_text,
    detection_groups,
    detection_overview,
    share,
)
from robusteval.report.eps_curves import eps_curve
from robusteval.report.figures import (
    accuracy_bars,
    cost_curve,
    difference,
    distance_curve,
    picture,
    score_histograms,
)
from robusteval.report.prototypes import from_text, goal_table
from robusteval.report.wording import (
    UNAWARE,
    check_text,
    claims_text,
    count,
    fitted_to,
    found_text,
    incomplete_text,
    interval,
    number,
    parameters_text,
    percent,
    samples_text,
    sentence,
    sign,
    threat_text,
    usual_eps_text,
    worst_text,
)

_HISTOGRAMS = 4  # detectors whose scores are drawn
FILTERS = (
    *(percent, interval, count, threat_text, check_text, sign, number),
    *(parameters_text, fitted_to),
    *(claims_text, found_text, worst_text, incomplete_text, samples_text, usual_eps_text),
    *(from_text, goal_table, duration_text, sentence, share, classes_text),
)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("robusteval.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in FILTERS:
        environment.filters[function.__name__] = function
    environment.globals["unaware"] = UNAWARE
    return environment


@cache
def _markdown() -> Environment:
    return _environment().overlay(finalize=inert.markdown)


def _detection(report: dict[str, Any], drawn: bool) -> dict[str, Any]:
    """What the pages say of detection; ``drawn``: with its pictures.

    The first set of each part has histograms and curves, so that the page stays small.
    """
    curves = report.get("detection_curves") or {}
    groups = detection_groups(report)
    for group in groups if drawn else []:
        first = group["sets"][0]
        rows = first["shown"] + first["folded"]
        shown = [row for row in rows if row.get("histogram")][:_HISTOGRAMS]
        if group["part"] not in ("strict", "paper"):
            first["figures"].append(score_histograms(shown, report["dataset"]["name"]))
        for curve in curves.get("separations", []):
            if (curve["part"], curve["against"]) == (group["part"], first["against"]):
                first["figures"].append(separation_curves(curve, curves["detectors"]))
    figures = {"rejection": "", "confidence": ""}
    if drawn and curves.get("rejection"):
        figures["rejection"] = rejection_curves(curves["rejection"], curves["detectors"])
    if drawn and curves.get("confidence"):
        figures["confidence"] = confidence_histogram(curves["confidence"])
    return {
        "groups": groups,
        "overview": detection_overview(report),
        "figures": figures,
        "attackers": attackers_tables(report),
    }


def render_html(report: dict[str, Any], examples: list[Example]) -> str:
    """One self-contained page: no network, no script."""
    report = inert.each(report, inert.line)
    norms = list(dict.fromkeys(w["threat"]["norm"] for w in report["worst_case"]))
    names = report["dataset"]["classes"]
    pictures = [
        {
            "clean": picture(e.clean),
            "adversarial": picture(e.adversarial),
            "difference": picture(difference(e.clean, e.adversarial)),
            "label": names[e.label],
            "prediction": names[e.prediction],
            "attack": inert.line(e.attack),
            "threat": threat_text(e.threat.to_json()),
        }
        for e in examples
    ]
    bars = [(sign(norm), accuracy_bars(report, norm)) for norm in norms]
    over_eps = [(sign(norm), eps_curve(report, norm)) for norm in norms]
    radii: dict[str, list[float]] = {norm: [] for norm in norms}
    for worst in report["worst_case"]:
        radii[worst["threat"]["norm"]].append(worst["threat"]["radius"])
    curves = report["curves"]
    distance = [(c, distance_curve(c, radii[c["norm"]])) for c in curves["distance"]]
    cost = [(c, cost_curve(c)) for c in curves["cost"] if c["attacks"]]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            bars=bars,
            over_eps=[(norm, figure) for norm, figure in over_eps if figure],
            distance=distance,
            cost=cost,
            pictures=pictures,
            detection=_detection(report, drawn=True),
            metrics=METRIC_TITLES,
        )
    )


def render_fragment(report: dict[str, Any], folder: Place) -> str:
    """The numbers in short, to stand in another page: no network, no script."""
    report = inert.each(report, inert.line)
    template = _environment().get_template("notebook.html")
    return template.render(report=report, folder=inert.line(folder))


def render_markdown(report: dict[str, Any]) -> str:
    """The same numbers as text."""
    template, detection = _markdown().get_template("report.md"), _detection(report, drawn=False)
    return template.render(report=report, metrics=METRIC_TITLES, detection=detection)
