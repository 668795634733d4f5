"""Static transfers among models: each one's adversarial images, counted on each other one.

A row of the matrix is the model that images were made on, a column the one that they are counted
on; on the diagonal both are one, which is a white box.  Each cell is an ordinary run, so what is
finished is kept, whatever models come later, and verified like any run.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robusteval import api
from robusteval.errors import AttackError, RobustevalError
from robusteval.inert import cell as inert_cell
from robusteval.models.registry import find_entry
from robusteval.places import Place
from robusteval.plan.suite import Suite, read_suite
from robusteval.report.files import require_table, write_table
from robusteval.report.rows import percent
from robusteval.report.wording import threat_text

COLUMNS = (
    *("source", "target", "attack", "norm", "eps", "kind", "accuracy", "accuracy_low"),
    *("accuracy_high", "robust_samples", "samples", "clean", "run", "evidence_sha256"),
)
_SUITE = "transfer_"  # begins the names of the suites that are made here
Row = dict[str, str]
Evaluate = Callable[[str, Suite, api.Options], api.Report]


@dataclass(frozen=True)
class Matrix:
    """All cells, and the models in their order."""

    models: tuple[str, ...]
    rows: tuple[Row, ...]
    complete: bool

    def as_csv(self) -> str:
        """A line for each cell."""
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()

    def as_markdown(self) -> str:
        """A table for each threat; robust accuracy in percent, white boxes in bold."""
        threats = dict.fromkeys((row["norm"], row["eps"]) for row in self.rows)
        return "\n\n".join(self._table(*threat) for threat in threats) + "\n"

    def _table(self, norm: str, eps: str) -> str:
        here = [row for row in self.rows if (row["norm"], row["eps"]) == (norm, eps)]
        found = {(row["source"], row["target"]): row for row in here}
        clean = [found[name, name]["clean"] for name in self.models]
        lines = [
            f"{here[0]['attack']}, {threat_text({'norm': norm, 'eps': eps})}, "
            f"{here[0]['samples']} samples: robust accuracy in percent",
            "",
            "| made on ↓, counted on → | " + " | ".join(self.models) + " |",
            "|---|" + "---:|" * len(self.models),
            "| clean | " + " | ".join(clean) + " |",
        ]
        for source in self.models:
            cells = [_shown(found[source, target]) for target in self.models]
            lines.append(f"| {source} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _shown(row: Row) -> str:
    value = row["accuracy"] or "–"
    return f"**{value}**" if row["kind"] == "white box" else value


def matrix(
    models: Sequence[str],
    attack: str,
    suite: str = "full",
    options: api.Options = api.Options(),
    evaluate_one: Evaluate | None = None,
) -> Matrix:
    """Runs one attack of a suite on each of the models, and counts its images on all of them.

    ``models``: entries' names or paths, of one data set and with other weights each.
    ``evaluate_one`` is ``api.evaluate``, or what watches it.  Raises RobustevalError for fewer than
    two models, for those that don't go together, and for an unknown attack.
    """
    plain, names = _one_attack(read_suite(suite), attack), _named(models)
    evaluate = evaluate_one or (lambda name, suite, each: api.evaluate(name, suite, options=each))
    rows: list[Row] = []
    complete = True
    for source in models:
        elsewhere = plain.model_copy(update={"attacks": [plain.attacks[0].made_on(source)]})
        for target in models:
            report = evaluate(target, plain if source == target else elsewhere, options)
            complete &= report.complete
            rows += [
                _row(report.content, found, names[source]) for found in report.content["attacks"]
            ]
    return Matrix(tuple(names.values()), tuple(rows), complete)


def write(found: Matrix, folder: Place, name: str) -> tuple[Place, Place]:
    """The matrix as Markdown and CSV; both files."""
    pages = {folder / f"{name}.md": found.as_markdown(), folder / f"{name}.csv": found.as_csv()}
    for place, text in pages.items():
        require_table(place)
        write_table(place, text)
    first, second = pages
    return first, second


def _named(models: Sequence[str]) -> dict[str, str]:
    """What each is called."""
    if len(dict.fromkeys(models)) < 2:
        raise RobustevalError("a transfer takes two models or more: name them one after the other")
    entries = [find_entry(model) for model in models]
    if len(sets := dict.fromkeys(entry.dataset for entry in entries)) > 1:
        raise RobustevalError(f"models of {', '.join(sets)}: name those of one data set")
    names = {model: entry.name for model, entry in zip(models, entries, strict=True)}
    if len({*names.values()}) < len(models):
        raise RobustevalError("a model is named twice: name each once")
    return names


def _one_attack(suite: Suite, name: str) -> Suite:
    (attack,) = suite.only([name]).attacks
    if attack.transfers:
        raise AttackError(f"{name} comes from another model already: name a plain attack")
    description = f"{attack.title} of {suite.name}, made on each model and counted on all."
    content = {"threats": suite.threats, "attacks": [attack]}
    return Suite(name=f"{_SUITE}{name}", description=description, **content)


def _row(report: dict[str, Any], found: dict[str, Any], source: str) -> Row:
    rate, threat = found["robust_accuracy"] or {}, found["threat"]
    row = {
        "source": source,
        "target": report["model"]["name"],
        "attack": report["suite"]["name"].removeprefix(_SUITE),
        "norm": threat["norm"],
        "eps": threat["eps"],
        "kind": "static transfer" if found["source"] else "white box",
        "accuracy": percent(rate.get("value")),
        "accuracy_low": percent(rate.get("low")),
        "accuracy_high": percent(rate.get("high")),
        "robust_samples": str(rate.get("k", "")),
        "samples": str(report["samples"]),
        "clean": percent(report["clean"]["accuracy"]["value"]),
        "run": report["run"],
        "evidence_sha256": report["evidence"]["digest"],
    }
    return {name: inert_cell(value) for name, value in row.items()}
