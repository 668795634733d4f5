"""What ``evaluate`` returns: a report to be read in Python, and shown in a notebook."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robusteval import inert
from robusteval.places import Place
from robusteval.report.page import render_fragment
from robusteval.report.tables import frame
from robusteval.report.wording import check_text, count, interval, percent, threat_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Report:
    """A run's report: its content as plain data, its tables, and the folder its files are in.

    ``folder`` is a path; of a run in a store its URL: text, to which ``/``, ``name`` and ``parent``
    do what they do to a path.

    Tables are pandas frames, made anew each time that one is asked for (``report.tables`` has
    their columns with their kinds).  Accuracies, rates and metrics are shares from 0 to 1, each
    with its 95 % interval in ``…_low`` and ``…_high``; where there is no number, none stands
    there.  In a notebook a report shows itself as HTML.

        >>> from robusteval import evaluate
        >>> report = evaluate("pcl_digits", "quick", samples=20, only="fgsm")
        >>> report
        <Report pcl_digits under quick, 20 samples of digits: complete, in runs/pcl_digits-...>
        >>> report.attacks[["title", "norm", "eps", "samples"]].to_dict("records")
        [{'title': 'FGSM', 'norm': 'Linf', 'eps': '0.15', 'samples': 20}]
        >>> bool((report.worst_case.robust_accuracy <= report.attacks.robust_accuracy).all())
        True
    """

    content: dict[str, Any]
    folder: Place

    @property
    def complete(self) -> bool:
        """Whether every attack has its number."""
        return bool(self.content["status"] == "complete")

    @property
    def proven(self) -> bool:
        """Whether every stored image held when it was predicted again."""
        held = self.content["evidence"]["verification"]
        return held is not None and held["failed"] == 0

    @property
    def attacks(self) -> "pd.DataFrame":
        """A row for each attack and threat model.

        ``robust`` of ``samples`` give ``robust_accuracy``, ``broken`` of the initially ``correct``
        ones ``success_rate``.  Attacks that know no ε have ``success_at_any_norm`` and
        ``median_norm``, too.
        """
        return frame(self.content, "attacks")

    @property
    def worst_case(self) -> "pd.DataFrame":
        """A row for each threat model: a sample is robust only if no attack broke it.

        Where an attack has no number, ``complete`` is False, and there is only ``at_most``.
        """
        return frame(self.content, "worst_case")

    @property
    def classes(self) -> "pd.DataFrame":
        """The same for the samples of each class."""
        return frame(self.content, "classes")

    @property
    def outliers(self) -> "pd.DataFrame":
        """A row for each detector and set of outliers, with five metrics."""
        return frame(self.content, "outliers")

    @property
    def detection(self) -> "pd.DataFrame":
        """A row for each detector and attack: how well it tells attacked images apart.

        ``attacker_knew``: whether the attack was told the detector.
        """
        return frame(self.content, "detection")

    @property
    def claims(self) -> "pd.DataFrame":
        """A row for each number of the paper, beside what was found here."""
        return frame(self.content, "claims")

    @property
    def findings(self) -> "pd.DataFrame":
        """A row for each check of whether the numbers can be trusted."""
        return frame(self.content, "findings")

    @property
    def missing(self) -> "pd.DataFrame":
        """What has no evidence, or not all of it, and why; empty where the run is complete."""
        return frame(self.content, "missing")

    @property
    def left_out(self) -> "pd.DataFrame":
        """The suite's attacks that this model or data set doesn't allow, and why."""
        return frame(self.content, "left_out")

    @property
    def curves(self) -> "pd.DataFrame":
        """A row for each point of a curve: ``robust`` of ``samples`` beyond a ``place``.

        That is an ε where ``curve`` is "distance", passes over a sample where it is "cost".
        """
        return frame(self.content, "curves")

    def __str__(self) -> str:
        """A few lines: what was run, clean and worst-case accuracy, findings that are not ok."""
        content = self.content
        clean = content["clean"]["accuracy"]
        lines = [_about(content), f"clean {_rate(clean)}"]
        for worst in content["worst_case"]:
            bound = "" if worst["complete"] else "at most "
            lines.append(
                f"worst case, {threat_text(worst['threat'])}: {bound}{_rate(worst['at_most'])}"
            )
        lines += [
            f"{check_text(found)}: {found['verdict']}"
            for found in content["findings"]
            if found["verdict"] != "ok"
        ]
        return "\n".join(map(inert.line, [*lines, str(self.folder)]))

    def __repr__(self) -> str:
        """One line; the content alone would fill pages."""
        return f"<Report {inert.line(_about(self.content))}, in {inert.line(self.folder)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a fragment without scripts and without anything from elsewhere."""
        return render_fragment(self.content, self.folder)


def _about(content: dict[str, Any]) -> str:
    model, suite, data = (content[key]["name"] for key in ("model", "suite", "dataset"))
    status = content["status"]
    if content.get("budget") and content["budget"]["left_out"]:
        status += f", but for {', '.join(content['budget']['left_out'])}, left out for a budget"
    return f"{model} under {suite}, {content['samples']} samples of {data}: {status}"


def _rate(rate: dict[str, Any] | None) -> str:
    parts = (percent(rate), interval(rate), f"({count(rate)})" if rate else "")
    return " ".join(part for part in parts if part)
