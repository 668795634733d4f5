"""The report as HTML and Markdown, from its JSON content and the attacked images."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from robusteval import inert
from robusteval.durations import duration_text
from robusteval.evidence.results import Example
from robusteval.places import Place
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

METRIC_TITLES = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "fpr95": "FPR@95TPR",
    "detection_error": "Detection error",
}
FILTERS = (
    *(percent, interval, count, threat_text, check_text, sign, number),
    *(parameters_text, fitted_to),
    *(claims_text, found_text, worst_text, incomplete_text, samples_text, usual_eps_text),
    *(from_text, goal_table, duration_text, sentence),
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


def detection_groups(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Detection rows grouped by what they are held against, each with its histograms."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for kind in ("attack_detection", "outliers"):
        for row in report[kind]:
            groups.setdefault((kind, row["against"]), []).append(row)
    inside = report["dataset"]["name"]
    return [
        {
            "kind": kind,
            "against": against,
            "rows": rows,
            "figure": score_histograms(rows, inside),
        }
        for (kind, against), rows in groups.items()
    ]


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
            distance=distance,
            cost=cost,
            pictures=pictures,
            detection=detection_groups(report),
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
    return _markdown().get_template("report.md").render(report=report, metrics=METRIC_TITLES)
