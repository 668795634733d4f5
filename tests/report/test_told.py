"""What reports say beside their numbers: how claims compare, what is missing, what costs are known,
and that no attacker knew the detector."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robusteval import api
from robusteval.attacks.counting import Counted
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.registry import OWN
from robusteval.data.datasets import Dataset
from robusteval.endings import complaint
from robusteval.evidence.results import NOT_REACHED
from robusteval.models.adapter import Adapter
from robusteval.models.entry_tables import Claim
from robusteval.report.claims import claim_row as _claim
from robusteval.report.figures import BLUE, cost_curve
from robusteval.report.page import render_html, render_markdown
from robusteval.report.wording import (
    UNAWARE,
    claims_text,
    found_text,
    incomplete_text,
    lowest_claim,
    worst_text,
)
from robusteval.terminal import _claim_line
from robusteval.trust.circumstances import unprobed
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.attacks import Call
from tests.helpers.commands import cli
from tests.helpers.models import file_of

pytestmark = pytest.mark.usefixtures("as_in_use")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> api.Report:
    out = tmp_path_factory.mktemp("runs")
    only = ("fgsm", "pgd10", "prototype_margin")
    options = api.Options(samples=40, out=out, eps=("0.15", "0.1"), threads=1, only=only)
    return api.evaluate("pcl_digits", "quick", options=options)


def row(report: api.Report, **claim: Any) -> dict[str, Any]:
    content = report.content
    made = Claim(**{"accuracy": 27.2, **claim})
    return _claim(made, content["attacks"], content["worst_case"], np.arange(40) > 0)


def rate(report: api.Report, attack: str, eps: str) -> str:
    """In percent, from the report's own rows."""
    rows = report.content["attacks" if attack else "worst_case"]
    (found,) = [
        r["robust_accuracy"]
        for r in rows
        if r["threat"]["eps"] == eps and r["threat"]["norm"] == "Linf"
        if r.get("name", "") == attack
    ]
    return f"{100 * found['k'] / 40:.1f} %"


def bare(report: api.Report) -> dict[str, Any]:
    """Its content without what takes long to draw."""
    content = json.loads(json.dumps(report.content))
    return {
        **content,
        "outliers": [],
        "attack_detection": [],
        "curves": {"cost": [], "distance": []},
    }


# Claims


@pytest.mark.parametrize(
    ("eps", "at", "said"),
    [
        ("0.15", "0.15", "at the same ε"),
        ("3/20", "0.15", "at the same ε"),
        ("0.1", "0.1", "at the same ε"),
        ("0.03", "0.1", "at another ε, L∞ 0.1"),
        ("8/255", "0.1", "at another ε, L∞ 0.1"),
        ("0.1501", "0.15", "at another ε, L∞ 0.15"),
        (None, "0.15", "at L∞ 0.15; the claim names no ε"),
    ],
)
def test_a_claim_beside_the_same_attack(
    report: api.Report, eps: str | None, at: str, said: str
) -> None:
    claim = row(report, attack="fgsm", norm="Linf", eps=eps)
    assert found_text(claim) == f"{rate(report, 'fgsm', at)} {said}"
    assert worst_text(claim) == f"{rate(report, '', at)} {said}"
    threat = "L∞" if eps is None else f"L∞ {eps}"
    assert _claim_line(claim) == (
        f"claimed 27.2 % (fgsm, {threat}); the same here: {found_text(claim)}; "
        f"worst case here: {worst_text(claim)}"
    )


def test_claims_that_nothing_here_compares_with(report: api.Report) -> None:
    other = row(report, attack="spsa", norm="Linf", eps="0.15")
    assert other["compared"] == "not_run"
    assert found_text(other) == "not run here"
    assert worst_text(other) == f"{rate(report, '', '0.15')} at the same ε"
    in_l2 = row(report, attack="fgsm", norm="L2", eps="0.6")  # FGSM runs in L∞ alone
    assert found_text(in_l2) == "not run here"
    at_any_distance = row(report, attack="cw")
    assert (found_text(at_any_distance), worst_text(at_any_distance)) == ("not run here", "–")
    assert _claim_line(at_any_distance) == "claimed 27.2 % (cw); the same here: not run here"


def test_a_clean_claim(report: api.Report) -> None:
    claim = row(report, attack="clean", accuracy=90.45)
    assert found_text(claim) == "97.5 %"
    assert _claim_line(claim) == "claimed 90.5 % (clean); the same here: 97.5 %"


def test_an_attack_that_failed_has_no_number(report: api.Report) -> None:
    content = report.content
    attacks = [{**a, "robust_accuracy": None} for a in content["attacks"]]
    worst = [{**w, "robust_accuracy": None} for w in content["worst_case"]]
    claim = Claim(attack="fgsm", accuracy=50, norm="Linf", eps="0.15")
    made = _claim(claim, attacks, worst, np.ones(3, bool))
    assert found_text(made) == "no number here: it failed or did not finish"
    assert worst_text(made) == "–"


def test_terminal_html_and_markdown_say_the_same_of_claims(report: api.Report) -> None:
    content = bare(report)
    content["claims"] = [
        row(report, attack="fgsm", norm="Linf", eps="0.03"),
        row(report, attack="pgd10", norm="Linf", eps="0.15"),
        row(report, attack="spsa", norm="Linf", eps="0.15"),
    ]
    markdown = render_markdown(content)
    html = render_html(content, [])
    for claim in content["claims"]:
        said = f"{found_text(claim)} | {worst_text(claim)}"
        assert said in markdown
        assert said.replace(" | ", "</td><td>") in html


def test_a_claim_by_protocol_is_never_the_papers(report: api.Report) -> None:
    """What is measured here in a number's place says so wherever it stands, and tables of what
    papers claim are without it."""
    paper = row(report, attack="pgd10", norm="Linf", eps="0.15")
    own = row(report, attack="fgsm", norm="Linf", eps="0.15", by="protocol", accuracy=9)
    assert lowest_claim([paper, own]) == paper
    assert lowest_claim([own]) is None
    assert _claim_line(own).startswith("claimed by the paper's protocol 9.0 % (fgsm, L∞ 0.15); the")
    assert _claim_line(paper).startswith("claimed 27.2 % (")
    assert claims_text([paper]).startswith("A paper's claim is about its own model")
    assert claims_text([own]).startswith("A claim by protocol is about this model")
    assert claims_text([paper, own]) == f"{claims_text([paper])} {claims_text([own])}"
    content = bare(report)
    content["claims"] = [own]
    for page in (render_markdown(content), render_html(content, [])):
        assert claims_text([own]) in page
        assert claims_text([paper]) not in page


def test_the_first_model_a_user_runs_is_claimed_and_found(report: api.Report) -> None:
    assert [(c["attack"], c["by"]) for c in report.content["claims"]] == [
        (attack, "protocol") for attack in ("fgsm", "bim", "mim", "pgd10")
    ]
    table = report.claims.set_index("attack")
    assert set(table.by) == {"protocol"}
    assert list(table.compared) == ["same", "not_run", "not_run", "same"]
    for attack in ("fgsm", "pgd10"):  # of 40 samples, where the claim is of 360
        claimed, low, high = table.loc[attack, ["claimed", "found_low", "found_high"]]
        assert low < claimed < high
    assert (table.worst < table.claimed.min()).all()


def test_the_terminal_compares_each_claim_with_its_own_attack() -> None:
    """Of FGSM at 0.03 it was told what all attacks left at 8/255, without a word on either."""
    text = file_of("pcl_digits.toml")
    weights = text.with_suffix(".safetensors")
    Path("pcl_digits.safetensors").write_bytes(weights.read_bytes())
    claims = '\n[[claims]]\nattack = "fgsm"\naccuracy = 67.7\nnorm = "Linf"\neps = "0.03"\n'
    Path("pcl_digits.toml").write_text(text.read_text() + claims)
    run = ("run", "--model", "./pcl_digits.toml", "--suite", "quick", "--only", "fgsm")
    result = cli(*run, "--samples", "20")
    said = " ".join(result.stdout.split())
    told = re.search(
        r"claimed 67\.7 % \(fgsm, L∞ 0\.03\); the same here: [0-9.]+ % at another ε, L∞ 0\.15; "
        r"worst case here: [0-9.]+ % at another ε, L∞ 0\.15",
        said,
    )
    assert told


# What is missing


def lacks(kind: str, name: str, reason: str = NOT_REACHED) -> dict[str, Any]:
    return {"kind": kind, "name": name, "reason": reason, "reached": reason != NOT_REACHED}


AGAIN = "run the same command again, which does what is missing"
SQUARE = "the time limit of 3 s was reached"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ([], ""),
        ([lacks("diagnostics", "diagnostics")], f"it lacks diagnostics: {AGAIN}"),
        (
            [lacks("outliers", "svhn"), lacks("diagnostics", "diagnostics")],
            f"it lacks outliers svhn, diagnostics: {AGAIN}",
        ),
        (
            [lacks("diagnostics", "diagnostics", "ValueError: x")],
            f"it lacks diagnostics (ValueError: x): {AGAIN}",
        ),
        ([lacks("attack", "Square, L∞ 0.1", SQUARE)], f"Square, L∞ 0.1 has no number ({SQUARE})"),
        (
            [lacks("attack", "A", "ValueError: x"), lacks("attack", "B", SQUARE)],
            "A has no number (ValueError: x), nor has 1 more",
        ),
        (
            [lacks("attack", "A", "ValueError: x"), lacks("attack", "B")],
            f"A has no number (ValueError: x); it lacks B: {AGAIN}",
        ),
        (
            [lacks("attack", letter) for letter in "ABCDEF"],
            f"it lacks A, B, C, D and 2 more: {AGAIN}",
        ),
    ],
)
def test_what_is_missing_in_words(missing: list[dict[str, Any]], said: str) -> None:
    assert incomplete_text(missing) == said


def test_a_run_that_lacks_its_diagnostics_alone(
    report: api.Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the attacks and the diagnostics: all attacks are done."""
    assert report.content["missing"] == []
    folder = Path(shutil.copytree(report.folder, tmp_path / report.folder.name))
    (folder / "evidence" / "diagnostics.parquet").unlink()
    rebuilt = api.rebuild_report(folder)
    assert rebuilt.content["status"] == "incomplete"
    assert rebuilt.content["missing"] == [lacks("diagnostics", "diagnostics")]
    assert complaint(rebuilt) == 3
    line = capsys.readouterr().err
    assert line == f"robusteval: incomplete: it lacks diagnostics: {AGAIN}\n"
    for name in ("report.html", "report.md"):
        page = (folder / name).read_text()
        assert f"it lacks diagnostics: {AGAIN}." in page
        assert "attack failed" not in page
        assert "attack did not finish" not in page
    assert all(w["robust_accuracy"] for w in rebuilt.content["worst_case"])
    (finding,) = [f for f in rebuilt.content["findings"] if f["check"] == "diagnostics"]
    assert finding["advice"] == "run the same command again: it does what is missing"
    assert "[diagnostics] samples = 0" in unprobed("ValueError: x").advice


def test_an_attack_out_of_time_is_named() -> None:
    run = ("run", "--model", "pcl_digits", "--samples", "10", "--only", "square")
    result = cli(*run, "--time-limit", "0.000001")
    assert result.exit_code == 3
    assert "incomplete: Square, L∞ 0.15 has no number (the time limit of 1e-06 s" in result.stderr
    assert "Square not finished: the time limit" in result.stdout


# Costs


@pytest.mark.parametrize("attack", [joint_pc, prototype_margin])
def test_our_ascents_tell_each_samples_passes(
    attack: Any, pcl_digits: Adapter, digits: Dataset
) -> None:
    """In a batch each costs what it costs alone, and so on its own row."""
    images, labels = digits.images(slice(0, 24)), digits.labels[:24]
    right = pcl_digits(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    threat = ThreatModel("Linf", parse_eps("0.12"))
    options = {"start": False, "steps": 12}
    together = Counted(pcl_digits, len(images))
    attack(together, images, labels, threat, **options)
    alone = []
    for image, label in zip(images, labels, strict=True):
        one = Counted(pcl_digits, 1)
        attack(one, image[None], label[None], threat, **options)
        alone.append((float(one.forward_passes), float(one.backward_passes)))
    found = list(
        zip(together.forward_passes.tolist(), together.backward_passes.tolist(), strict=True)
    )
    assert found == alone
    assert len(set(found)) > 3
    plain = attack(pcl_digits, images, labels, threat, **options)
    assert torch.equal(plain, attack(together, images, labels, threat, **options))


def test_which_attacks_tell_passes_by_sample() -> None:
    assert {n for n in OWN if Call("robusteval", n, {}).record.by_sample} == {
        *("adaptive", "cr", "joint_pc", "pma", "prototype_margin", "transfer"),
    }
    for library, name in (("autoattack", "standard"), ("torchattacks", "PGD"), ("advlib", "fmn")):
        assert not Call(library, name, {}).record.by_sample


def test_a_line_only_where_passes_are_told_by_sample(report: api.Report) -> None:
    costs = {a["name"]: a for a in report.content["curves"]["cost"][0]["attacks"]}
    assert {n: a["by_sample"] for n, a in costs.items()} == {
        "fgsm": False,
        "pgd10": False,
        "prototype_margin": True,
    }
    assert costs["fgsm"]["points"] == costs["pgd10"]["points"] == []
    assert costs["pgd10"]["most"] == 30  # ten steps, a backward pass as two
    points = costs["prototype_margin"]["points"]
    assert points[-1][1] == costs["prototype_margin"]["left"]
    assert points[0][0] < points[-1][0]


def test_libraries_are_marks_in_the_picture() -> None:
    end = {"name": "autoattack", "title": "AutoAttack", "most": 900.0, "mean": 500.0, "left": 3}
    threat = ThreatModel("Linf", parse_eps("0.1")).to_json()

    def picture(**told: Any) -> str:
        return cost_curve({"threat": threat, "samples": 9, "attacks": [{**end, **told}]})

    mark = picture(by_sample=False, points=[])
    line = picture(by_sample=True, points=[[100.0, 8], [900.0, 3]])
    assert "AutoAttack" in mark
    assert f"stroke: {BLUE}" not in mark
    assert f"stroke: {BLUE}" in line


# Detectors


def test_no_attacker_knew_the_detector(report: api.Report) -> None:
    rows = report.content["attack_detection"]
    assert rows
    assert {r["attacker_knew"] for r in rows} == {False}
    content = {**bare(report), "attack_detection": rows[:1]}
    assert f"{UNAWARE}." in render_html(content, [])
    assert f"**{UNAWARE}.**" in render_markdown(content)
    content["attack_detection"] = [{**rows[0], "attacker_knew": True}]  # until one does
    assert UNAWARE not in render_html(content, []) + render_markdown(content)
    content["attack_detection"] = []
    assert UNAWARE not in render_html(content, []) + render_markdown(content)
