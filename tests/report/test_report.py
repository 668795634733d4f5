"""The report's content against its schema, and its pages."""

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusteval import api
from robusteval.errors import OutputError
from robusteval.evidence.files import Local
from robusteval.report.figures import difference, picture
from robusteval.report.files import report_files, write_files
from robusteval.report.page import render_html, render_markdown
from robusteval.report.rows import ATTACK, BACKING, DOUBTS, FOUND, LATER, SURROGATE
from robusteval.report.summary import SCHEMA

pytestmark = pytest.mark.usefixtures("as_in_use")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> api.Report:
    out = tmp_path_factory.mktemp("runs")
    return api.evaluate("pcl_digits", "quick", options=api.Options(samples=40, out=out))


def rate_is_sound(rate: dict[str, Any]) -> bool:
    return (
        set(rate) == {"value", "low", "high", "k", "n"}
        and rate["value"] == rate["k"] / rate["n"]
        and 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
    )


def test_the_json_has_what_its_schema_promises(report: api.Report) -> None:
    content = json.loads((report.folder / "report.json").read_text())
    assert content == json.loads(json.dumps(report.content))
    assert content["schema"] == SCHEMA == "robusteval.report/1"
    assert content["status"] == "complete"
    assert content["model"]["name"] == "pcl_digits"
    assert content["suite"]["name"] == "quick"
    assert content["dataset"]["name"] == "digits"
    assert (content["samples"], content["seed"]) == (40, 0)
    assert rate_is_sound(content["clean"]["accuracy"])
    for attack in content["attacks"]:
        assert rate_is_sound(attack["robust_accuracy"])
        assert rate_is_sound(attack["success_rate"])
        assert attack["robust_accuracy"]["n"] == 40
        assert attack["success_rate"]["n"] == content["clean"]["accuracy"]["k"]
        broken = attack["success_rate"]["k"]
        assert attack["robust_accuracy"]["k"] == content["clean"]["accuracy"]["k"] - broken
        assert attack["verified"]["counted"] == broken
        assert set(attack["threat"]) == {"norm", "eps", "radius"}
        assert {"forward", "backward"} == set(attack["passes"])
        assert attack["library"]
        assert attack["library_version"]
        assert attack["seconds"] >= 0
        if attack["verified"]["largest_norm"] is not None:
            assert attack["verified"]["largest_norm"] <= attack["threat"]["radius"] + 1e-6
    assert {"versions", "commit", "dirty", "hardware", "threads"} <= set(content["provenance"])
    assert content["provenance"]["versions"]["torchattacks"] == "3.5.1"
    assert report.folder.name == f"pcl_digits-quick-{content['run']}"
    assert len(content["run"]) == 8


def test_the_row_fits_the_leaderboard(report: api.Report) -> None:
    text = (report.folder / "row.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["norm"] for r in rows] == ["Linf", "L2"]
    attacks = {f"{ATTACK}{a['name']}" for a in report.content["attacks"]}
    assert set(rows[0]) == {*FOUND, *attacks, DOUBTS, *BACKING, *LATER} - {SURROGATE}
    doubted = [f for f in report.content["findings"] if f["verdict"] != "ok"]
    for row in rows:
        told = [f for f in doubted if f["threat"] is None or f["threat"]["norm"] == row["norm"]]
        assert (row[DOUBTS] != "") == bool(told)
        assert all(f["verdict"] in row[DOUBTS] and f["check"] in row[DOUBTS] for f in told)
    worst = report.content["worst_case"][0]["robust_accuracy"]
    assert float(rows[0]["worst_case"]) == pytest.approx(100 * worst["value"], abs=0.01)
    assert rows[0]["status"] == "complete"


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(report: api.Report) -> None:
    page = Page()
    html = (report.folder / "report.html").read_text()
    page.feed(html)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert "script" not in page.tags
    assert "@import" not in html
    assert "url(http" not in html
    assert page.tags.count("svg") >= 2 + 4  # a chart per norm, histograms per group
    assert page.tags.count("img") % 3 == 0
    assert page.tags.count("img") >= 9
    for attack in report.content["attacks"]:
        assert attack["title"] in page.text
    clean = report.content["clean"]["accuracy"]
    assert f"{100 * clean['value']:.1f} %" in page.text


def test_pages_escape_what_comes_from_files(report: api.Report) -> None:
    content = json.loads(json.dumps(report.content))
    content["model"]["description"] = "<script>alert(1)</script>"
    content["dataset"]["classes"][0] = "<b>zero"
    html = render_html(content, [])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<b>zero" not in html


def test_markdown_tables_are_well_formed(report: api.Report) -> None:
    text = render_markdown(report.content)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 4
    for table in tables:
        lines = table.strip().splitlines()
        assert len({line.count("|") for line in lines}) == 1, table


def test_a_failed_attack_shows_no_number(report: api.Report, tmp_path: Path) -> None:
    content = json.loads(json.dumps(report.content))
    attack = content["attacks"][1]
    attack |= {"status": "failed", "reason": "ValueError: x", "robust_accuracy": None}
    attack["success_rate"] = None
    content["worst_case"][0] |= {"complete": False, "robust_accuracy": None, "success_rate": None}
    content["status"] = "incomplete"
    write_files(Local(tmp_path), report_files(content, []))
    html = (tmp_path / "report.html").read_text()
    assert "failed: ValueError: x" in html
    assert "unknown: an attack did not finish" in html
    row = next(csv.DictReader(io.StringIO((tmp_path / "row.csv").read_text())))
    assert (row["status"], row["worst_case"]) == ("incomplete", "")


def test_the_same_content_gives_the_same_page(report: api.Report) -> None:
    assert render_html(report.content, []) == render_html(report.content, [])


def test_pictures() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    assert picture(grey).startswith("data:image/png;base64,")
    delta = difference(grey, grey + 2)
    assert (delta == 255).all()
    assert (difference(grey, grey) == 128).all()


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="--out"):
        Local(blocked / "run").prepare("", "choose another with --out")


def test_claims_stand_beside_what_was_found(report: api.Report) -> None:
    from robusteval.models.entry import Claim
    from robusteval.report.claims import claim_row as _claim

    content = report.content
    claim = Claim(attack="pgd10", accuracy=27.2, norm="Linf", eps="0.03", source="Table 3")
    row = _claim(claim, content["attacks"], content["worst_case"], np.ones(3, bool))
    found = next(a for a in content["attacks"] if a["name"] == "pgd10")
    assert row["found"] == found["robust_accuracy"]
    assert row["found_threat"] == found["threat"]
    assert row["worst"] == content["worst_case"][0]["robust_accuracy"]
    unknown = Claim(attack="spsa", accuracy=50, norm="L2", eps="0.5")
    row = _claim(unknown, content["attacks"], content["worst_case"], np.ones(3, bool))
    assert row["found"] is None
    assert row["worst"] == content["worst_case"][1]["robust_accuracy"]
