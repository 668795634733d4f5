"""What ``evaluate`` returns: a report to be read in Python, and shown in a notebook.

Importing it loads neither torch nor pandas: a report that was made before is printed at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robusteval import inert
from robusteval.places import Place, Url
from robusteval.report.wording import check_text, count, interval, percent, threat_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Report:
    """A run's report: its content as plain data, its tables, and the folder of its files.

    ``folder`` is a path.  If the run is in a store, it is the URL: text, to which ``/``, ``name``
    and ``parent`` do what they do to a path.

    Tables are pandas frames, made anew each time that one is asked for.  Accuracies, rates and
    metrics are shares from 0 to 1, each with its 95 % interval in ``…_low`` and ``…_high``.  What
    has no number is missing there.  In a notebook a report shows itself as HTML.

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
    def page(self) -> Place:
        """The HTML page for people.  For a run in an archive this is the archive."""
        is_archive = not isinstance(self.folder, Url) and self.folder.is_file()
        return self.folder if is_archive else self.folder / "report.html"

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
        return self._frame("attacks")

    @property
    def worst_case(self) -> "pd.DataFrame":
        """A row for each threat model.  A sample is robust only if no attack broke it.

        If an attack has no number, ``complete`` is False, and there is only ``at_most``.
        """
        return self._frame("worst_case")

    @property
    def classes(self) -> "pd.DataFrame":
        """The worst case for the samples of each class."""
        return self._frame("classes")

    @property
    def outliers(self) -> "pd.DataFrame":
        """A row for each detector and set of outliers, with its ``group`` and seven metrics."""
        return self._frame("outliers")

    @property
    def detection(self) -> "pd.DataFrame":
        """A row for each detector, attack and ``reading``: how well it tells attacked images apart.

        ``reading``: "paper" (the whole test set against every attacked image), "strict" (images
        that are classified correctly against those that fool the model) or "worst_case" (the same
        over all detected attacks of a threat together).  ``attacker_knew``: whether the attack was
        told the detector.
        """
        return self._frame("detection")

    @property
    def rejection(self) -> "pd.DataFrame":
        """A row for each detector that was attacked by who knows it, as the model's guard.

        Shares of the same samples: ``accepted`` are classified right and not rejected; ``robust``
        are those for which no image in the ball was found that is wrong and accepted,
        ``robust_without`` those for which none was found that is wrong.
        """
        return self._frame("rejection")

    @property
    def under_attack(self) -> "pd.DataFrame":
        """A row for each detector and each side that an attacker who knows it has ``attacked``:
        "none", "outliers", "inliers", "both", or "misclassified" inliers."""
        return self._frame("under_attack")

    @property
    def claims(self) -> "pd.DataFrame":
        """A row for each number of the paper, beside what was found here."""
        return self._frame("claims")

    @property
    def findings(self) -> "pd.DataFrame":
        """A row for each check of whether the numbers can be trusted.

        A check of one threat model has its ``norm`` and ``eps``; without them it is of the whole
        run.
        """
        return self._frame("findings")

    @property
    def missing(self) -> "pd.DataFrame":
        """What has no evidence, or not all of it, and why; empty where the run is complete."""
        return self._frame("missing")

    @property
    def left_out(self) -> "pd.DataFrame":
        """The suite's attacks that this model or data set doesn't allow, and why."""
        return self._frame("left_out")

    @property
    def prototypes(self) -> "pd.DataFrame":
        """A row for each layer with prototypes and each class: how many it has, how many are
        ``distinct``, and how many of those are ``unused``; and to how many clean samples its
        prototypes are ``nearest``.  Empty for a model without prototypes."""
        return self._frame("prototypes")

    @property
    def curves(self) -> "pd.DataFrame":
        """A row for each point of a curve: ``robust`` of ``samples`` are robust at a ``place``.

        The place is an ε if ``curve`` is "distance", and a number of passes over a sample if it is
        "cost".
        """
        return self._frame("curves")

    @property
    def samples(self) -> "pd.DataFrame":
        """A row for each sample, attack and threat model, read from the run's evidence.

        `robusteval export --columns` explains its columns.  Within an attack and a threat model
        the mean of ``robust`` is the robust accuracy, and that of ``success`` the success rate;
        a sample's least ``robust`` over all attacks is its worst case.  Raises EvidenceError for
        evidence that is missing or corrupt.
        """
        from robusteval.evidence.located import files_at
        from robusteval.report.samples import samples_of

        return samples_of(files_at(self.folder)).frame

    def __str__(self) -> str:
        """A few lines: what was run, clean and worst-case accuracy, findings that are not ok."""
        content = self.content
        clean = content["clean"]["accuracy"]
        lines = [_about(content), f"clean {_rate(clean)}"]
        for worst in content["worst_case"]:
            bound = "" if worst["complete"] else "at most "
            usual = worst["threat"]["norm"] in content["dataset"]["usual_eps"]
            threat = threat_text(worst["threat"]) + (" (ε by default)" if usual else "")
            lines.append(f"worst case, {threat}: {bound}{_rate(worst['at_most'])}")
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
        from robusteval.report.page import render_fragment

        return render_fragment(self.content, self.folder)

    def _frame(self, name: str) -> "pd.DataFrame":
        from robusteval.report.tables import frame

        return frame(self.content, name)


def _about(content: dict[str, Any]) -> str:
    model, suite, data = (content[key]["name"] for key in ("model", "suite", "dataset"))
    status = content["status"]
    if content.get("budget") and content["budget"]["left_out"]:
        status += f", but for {', '.join(content['budget']['left_out'])}, left out for a budget"
    return f"{model} under {suite}, {content['samples']} samples of {data}: {status}"


def _rate(rate: dict[str, Any] | None) -> str:
    parts = (percent(rate), interval(rate), f"({count(rate)})" if rate else "")
    return " ".join(part for part in parts if part)
