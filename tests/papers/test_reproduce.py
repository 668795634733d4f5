"""Tables made here: what stands in them is what runs found; pages are made of rows alone."""

import csv
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.blocks import FGSM
from robusteval import api, reproduce_verb
from robusteval.errors import DataError
from robusteval.models.registry import find_entry
from robusteval.papers import found, pages, reproduce
from robusteval.papers.asked import Scale
from robusteval.papers.found import COLUMNS, FAILED, FOUND, UNTRAINED, Row, as_csv, read_rows
from robusteval.papers.paper import cells_of, paper_names, read_paper
from robusteval.papers.reproduce import Reproduction, rebuild
from robusteval.papers.training import about
from tests.helpers.commands import cli, refused
from tests.helpers.documents import ROOT

SUITE = (
    'name = "few"\n'
    + FGSM
    + """
[[attacks]]
name = "pgd10"
title = "PGD-10"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 3, random_start = true }
times_eps = { alpha = "1/2" }

[detection]
detectors = ["max_softmax"]
natural = 0
attacks = ["fgsm"]
"""
)
PAPER = """
name = "small"
title = "A <small> paper"
authors = "N. N."
year = 2024
strongest = ["pgd10"]

[[tables]]
number = "1"
title = "Accuracy"
data = "digits"
suite = "few.toml"
all = { read = "attack", norm = "Linf", eps = "0.15" }
notes = ["A slip | of the paper."]
[tables.rows]
Ours = { entry = "pcl_digits" }
Other = { entry = "pcl_digts" }
Cited = { impossible = "cited only" }
[tables.columns]
Clean = { read = "clean" }
FGSM = { attack = "fgsm", assumed = "it states no step" }
"black-box FGSM" = { attack = "fgsm", source = "ce_digits" }
Epochs = { read = "epochs" }
Far = { read = "detection", detector = "max_softmax", metric = "auroc", against = "uniform_noise" }
"AUROC, FGSM" = { read = "detection", detector = "max_softmax", metric = "auroc", attack = "fgsm" }
[[tables.beside]]
title = "by cross-entropy"
[tables.beside.rows]
Ours = { entry = "ce_digits" }
"""
NUMBERS = """row,column,value,unit
Ours,Clean,0.99,fraction
Ours,FGSM,80.5,%
Ours,black-box FGSM,85,%
Ours,Epochs,300,epochs
Ours,Far,90,%
Ours,"AUROC, FGSM",60,%
Other,FGSM,70,%
Cited,FGSM,60,%
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small paper, its tables made with 12 samples, and its runs."""
    place = tmp_path_factory.mktemp("papers")
    (place / "few.toml").write_text(SUITE, "utf-8")
    (place / "paper.toml").write_text(PAPER.replace("few.toml", str(place / "few.toml")), "utf-8")
    (place / "1.csv").write_text(NUMBERS, "utf-8")
    options = api.Options(out=place / "runs")
    told: list[Path] = []
    paper = read_paper(place / "paper.toml")
    one = Reproduction(paper, options, place / "tables", samples=12, told=told.append)
    one.make()
    assert [path.name for path in told] == ["1.md", "index.html"]
    return place


def row_of(folder: Path, row: str, column: str, beside: str = "") -> Row:
    with (folder / "tables" / "small" / "1.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (found,) = [r for r in rows if (r["row"], r["column"], r["beside"]) == (row, column, beside)]
    return found


def report_of(folder: Path, row: Row) -> dict[str, Any]:
    (run,) = (folder / "runs").glob(f"*-{row['run']}")
    return api.rebuild_report(run).content


def test_a_cell_is_what_its_run_found(folder: Path) -> None:
    row = row_of(folder, "Ours", "FGSM")
    report = report_of(folder, row)
    attacks = {attack["name"]: attack["robust_accuracy"] for attack in report["attacks"]}
    assert row["here"] == f"{100 * attacks['fgsm']['value']:.2f}"
    assert row["here_high"] == f"{100 * attacks['fgsm']['high']:.2f}"
    (worst,) = report["worst_case"]
    assert row["strongest"] == f"{100 * worst['robust_accuracy']['value']:.2f}"
    assert float(row["strongest"]) <= float(row["here"])
    assert (row["samples"], row["paper"], row["scale"]) == ("12", "80.5", "small")
    assert row["evidence_sha256"] == report["evidence"]["digest"]
    assert row["assumed"] == "it states no step"


def test_a_black_box_is_another_models_images(folder: Path) -> None:
    row = row_of(folder, "Ours", "black-box FGSM")
    report = report_of(folder, row)
    (made,) = [a for a in report["attacks"] if a["source"]]
    assert (made["source"], row["attack"]) == ("ce_digits", made["name"])
    assert row["here"] == f"{100 * made['robust_accuracy']['value']:.2f}"
    assert row["run"] == row_of(folder, "Ours", "FGSM")["run"]  # one run for both
    weights = [find_entry(name).stored for name in ("pcl_digits", "ce_digits")]
    assert [row[f"{of}_sha256"] for of in ("weights", "source")] == [w.sha256 for w in weights if w]
    assert row_of(folder, "Ours", "FGSM")["source_sha256"] == ""


def test_what_is_read_of_training_and_of_clean_images(folder: Path) -> None:
    clean, epochs = row_of(folder, "Ours", "Clean"), row_of(folder, "Ours", "Epochs")
    assert clean["here"] == f"{100 * report_of(folder, clean)['clean']['accuracy']['value']:.2f}"
    assert epochs["here"] == "40"  # as its entry tells
    assert "backbone: " in clean["differs"]


def test_detection_is_of_outliers_and_of_all_attacked_images(folder: Path) -> None:
    outliers, attacked = (row_of(folder, "Ours", name) for name in ("Far", "AUROC, FGSM"))
    report = report_of(folder, outliers)
    (noise,) = [r for r in report["outliers"] if r["against"] == "uniform_noise"]
    (paper,) = [r for r in report["attack_detection"] if r["reading"] == "paper"]
    assert outliers["here"] == f"{100 * noise['auroc']['value']:.2f}"
    assert attacked["here"] == f"{100 * paper['auroc']['value']:.2f}"
    assert paper["n_in"] == 12  # the whole test set
    assert paper["n_out"] == report["clean"]["accuracy"]["k"]  # what was wrong is not attacked
    assert outliers["strongest"] == ""


def test_what_has_no_number_says_why(folder: Path) -> None:
    other, cited = row_of(folder, "Other", "FGSM"), row_of(folder, "Cited", "FGSM")
    assert (other["status"], other["why"]) == ("no entry", "there is no entry pcl_digts yet")
    assert (cited["status"], cited["why"]) == ("impossible", "cited only")
    assert other["here"] == cited["here"] == ""


def test_what_stands_beside_has_no_number_of_the_papers(folder: Path) -> None:
    row = row_of(folder, "Ours", "FGSM", "by cross-entropy")
    assert (row["entry"], row["paper"], row["status"]) == ("ce_digits", "", "found")
    white = row_of(folder, "Ours", "black-box FGSM", "by cross-entropy")
    assert white["attack"] == "fgsm"  # its source is itself: a white box


def test_runs_verify(folder: Path) -> None:
    (run,) = (folder / "runs").glob("pcl_digits-*")
    assert all(check.held for check in api.verify(run))


def test_pages_are_made_of_stored_rows_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "evaluate", None)
    paper, stored = read_paper(folder / "paper.toml"), folder / "tables"
    made = [*rebuild(paper, stored, tmp_path, paper.tables)]
    assert len(made) == 2
    for name in ("1.csv", "1.md", "index.html"):
        assert (tmp_path / "small" / name).read_bytes() == (stored / "small" / name).read_bytes()


def _again(folder: Path, tmp_path: Path, was: str, now: str) -> list[Row]:
    """The pages made anew of stored rows, after a word of the paper's file has changed."""
    for name in ("paper.toml", "1.csv"):
        shutil.copy(folder / name, tmp_path / name)
    text = (tmp_path / "paper.toml").read_text("utf-8")
    assert was in text
    (tmp_path / "paper.toml").write_text(text.replace(was, now), "utf-8")
    given = ("--from", str(folder / "tables"), "--tables", str(tmp_path / "tables"))
    assert cli("reproduce", str(tmp_path / "paper.toml"), *given).exit_code == 0
    paper = read_paper(tmp_path / "paper.toml")
    return read_rows(tmp_path / "tables" / "small" / "1.csv", paper, paper.tables[0])


def test_pages_tell_what_is_left_open_as_it_is_known_today(folder: Path, tmp_path: Path) -> None:
    rows = _again(folder, tmp_path, "it states no step", "it states no ε")
    told = [(r["assumed"], r["here"]) for r in rows if r["status"] == FOUND and r["assumed"]]
    assert told == [("it states no ε", row_of(folder, "Ours", "FGSM")["here"]), *told[1:]]
    assert {assumed for assumed, _ in told} == {"it states no ε"}


def test_a_number_of_another_question_is_gone(folder: Path, tmp_path: Path) -> None:
    rows = _again(folder, tmp_path, '{ entry = "pcl_digits" }', '{ entry = "ce_digits" }')
    (fgsm,) = [r for r in rows if (r["row"], r["column"], r["beside"]) == ("Ours", "FGSM", "")]
    assert (fgsm["status"], fgsm["here"], fgsm["entry"]) == ("not run", "", "ce_digits")


@pytest.mark.parametrize(("changed", "left"), [("pcl_digits", []), ("ce_digits", ["FGSM"])])
def test_a_number_of_other_weights_is_gone(
    folder: Path, tmp_path: Path, changed: str, left: list[str]
) -> None:
    """The attacked model's own, or those that the images were made on."""
    stored = tmp_path / "stored" / "small"
    shutil.copytree(folder / "tables" / "small", stored)
    text = (stored / "1.csv").read_text("utf-8")
    weights = find_entry(changed).stored
    assert weights is not None
    (stored / "1.csv").write_text(text.replace(weights.sha256, "0" * 64), "utf-8")
    paper = read_paper(folder / "paper.toml")
    [*_] = rebuild(paper, stored.parent, tmp_path / "made", paper.tables)
    rows = read_rows(tmp_path / "made" / "small" / "1.csv", paper, paper.tables[0])
    own = [r for r in rows if r["entry"] == "pcl_digits" and r["column"].endswith("x FGSM")]
    white = [r for r in rows if r["entry"] == "pcl_digits" and r["column"] == "FGSM"]
    assert [r["status"] for r in own] == ["not run"]
    assert [r["column"] for r in white if r["status"] == FOUND] == left


def test_what_takes_too_long_runs_at_the_papers_scale(tmp_path: Path) -> None:
    """AutoAttack beside other columns; its own column has it at any scale."""
    paper = read_paper("scpl")

    def attacks(scale: Scale, table: str) -> set[str]:
        one = Reproduction(paper, api.Options(), tmp_path, scale, table)
        runs = [run for wanted in one.runs().values() if (run := one.asked(wanted))]
        return {attack.name for _, suite, _ in runs for attack in suite.attacks}

    assert "autoattack" not in attacks("small", "1/MNIST")
    assert "autoattack" in attacks("paper", "1/MNIST")
    own = [c for t in paper.tables for c in cells_of(paper, t) if c.column == "AutoAttack"]
    assert "autoattack" in {cell.meaning.attack for cell in own}


def test_a_page_shows_paper_here_and_strongest(folder: Path) -> None:
    row, page = row_of(folder, "Ours", "FGSM"), folder / "tables" / "small"
    text = (page / "1.md").read_text("utf-8")
    here, strongest = (f"{float(row[name]):.1f}" for name in ("here", "strongest"))
    assert f"80.5 → {here} [" in text
    assert f"→ {strongest} [" in text
    assert "99 → " in text  # the paper's fraction
    assert "60 → not run" in text
    assert "A slip \\| of the paper." in text
    html = (page / "index.html").read_text("utf-8")
    assert "A &lt;small&gt; paper" in html
    assert f"80.5 → {here} → <b>{strongest}</b>" in html


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([("200", ""), ("200", "yes")], "200"),
        ([("100", "yes"), ("200", ""), ("", "")], "200, of attacks at any distance 100"),
        ([("50", ""), ("200", "")], "50 or 200"),
        ([("", "")], ""),
    ],
)
def test_a_page_tells_which_attacks_had_how_many_samples(
    samples: list[tuple[str, str]], said: str
) -> None:
    blank = dict.fromkeys(COLUMNS, "")
    rows = [blank | {"samples": many, "at_any_distance": free} for many, free in samples]
    table = read_paper("pcl").tables[0]
    assert pages.page_of(table, rows).samples == said


def test_stored_rows_of_another_table_are_refused(folder: Path, tmp_path: Path) -> None:
    paper = read_paper(folder / "paper.toml")
    (table,) = paper.tables
    rows = read_rows(folder / "tables" / "small" / "1.csv", paper, table)
    place = tmp_path / "small" / "1.csv"
    place.parent.mkdir()
    for wrong in ([{**rows[0], "paper": "1"}, *rows[1:]], rows[1:]):
        place.write_text(as_csv(wrong), "utf-8")
        given = ("reproduce", str(folder / "paper.toml"), "--from", str(tmp_path))
        refused(cli(*given), "its rows are not those of the paper's table")
    place.write_text(",".join(COLUMNS[1:]) + "\n")
    refused(cli(*given), "is not a table of `robusteval reproduce`")
    place.unlink()
    refused(cli(*given), "no tables of small in")


@pytest.mark.parametrize("name", paper_names())
def test_published_pages_are_those_of_their_rows_as_they_are_today(
    name: str, tmp_path: Path
) -> None:
    """If not: robusteval reproduce all --from leaderboards/reproductions
    --tables leaderboards/reproductions."""
    paper, stored = read_paper(name), ROOT / "leaderboards" / "reproductions"
    [*_] = rebuild(paper, stored, tmp_path, paper.tables)
    made = sorted(path.name for path in (tmp_path / name).iterdir())
    assert made == sorted(path.name for path in (stored / name).iterdir())
    for file in made:
        assert (tmp_path / name / file).read_bytes() == (stored / name / file).read_bytes()


@pytest.mark.parametrize("name", paper_names())
def test_every_table_of_a_paper_is_published(name: str) -> None:
    """One without a number here, too: its page says why."""
    folder = ROOT / "leaderboards" / "reproductions" / name
    assert {path.stem for path in folder.glob("*.csv")} == {t.file for t in read_paper(name).tables}


def test_a_model_without_weights_keeps_its_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another model's are not taken for them."""
    paper = read_paper(folder / "paper.toml")
    shutil.copytree(folder / "tables", tmp_path / "tables")
    before = (tmp_path / "tables" / "small" / "1.csv").read_text("utf-8")
    lacking = (None, {"status": UNTRAINED, "why": "no weights (untrained)"})
    monkeypatch.setattr(found, "looked_up", lambda _: lacking)
    monkeypatch.setattr(reproduce, "looked_up", lambda _: lacking)
    Reproduction(paper, api.Options(out=tmp_path), tmp_path / "tables", samples=12).make()
    rows = read_rows(tmp_path / "tables" / "small" / "1.csv", paper, paper.tables[0])
    stood = list(csv.DictReader(before.splitlines()))
    assert [r for r in rows if r["status"] == FOUND] == [r for r in stood if r["status"] == FOUND]
    (other,) = [row for row in rows if row["row"] == "Other"]
    assert other["status"] == UNTRAINED  # it had no number before


def test_a_run_that_fails_takes_no_number_away_and_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> api.Report:
        raise DataError("the disk is full")

    shutil.copytree(folder / "tables", tmp_path / "tables")
    paper = read_paper(folder / "paper.toml")
    one = Reproduction(
        paper, api.Options(out=tmp_path), tmp_path / "tables", samples=12, evaluate_one=fails
    )
    assert not reproduce_verb._made(one)
    said = capsys.readouterr()
    assert "small: 6 of 8 numbers" in said.out
    assert "robusteval: pcl_digits, few, Linf 0.15: the disk is full" in said.err
    for name in ("1.csv", "1.md", "index.html"):
        now, before = (place / "tables" / "small" / name for place in (tmp_path, folder))
        assert now.read_bytes() == before.read_bytes()


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (",small,", ",paper,", "1.csv has numbers at the scale paper: choose another folder"),
        ("\n", '\n"', "can't be read"),
        ("80.5", "81", "its rows are not those of the paper's table"),
    ],
)
def test_tables_that_cannot_be_gone_on_with_are_refused_before_anything_runs(
    folder: Path, tmp_path: Path, was: str, now: str, said: str
) -> None:
    """And stay as they are."""
    shutil.copytree(folder / "tables", tmp_path / "tables")
    place = tmp_path / "tables" / "small" / "1.csv"
    text = place.read_text("utf-8")
    assert was in text
    place.write_text(text.replace(was, now), "utf-8")
    asked = ("reproduce", str(folder / "paper.toml"), "--samples", "12")
    told = cli(*asked, "--tables", str(tmp_path / "tables"), "--out", str(tmp_path / "runs"))
    refused(told, said)
    assert not (tmp_path / "runs").exists()
    assert place.read_text("utf-8") == text.replace(was, now)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("here", "abc"),
        ("here", "180.0"),
        ("strongest_low", "x"),
        ("here_high", ""),
        ("here", ""),
        ("here_low", ""),
        ("strongest", ""),
        ("samples", "many"),
        ("samples", "0"),
        ("status", "fond"),
        ("scale", "smal"),
    ],
)
def test_a_stored_row_that_none_can_be_is_told_in_one_line(
    folder: Path, tmp_path: Path, column: str, value: str
) -> None:
    paper = read_paper(folder / "paper.toml")
    rows = read_rows(folder / "tables" / "small" / "1.csv", paper, paper.tables[0])
    number = next(i for i, row in enumerate(rows) if row["strongest"])
    rows[number][column] = value
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "1.csv").write_text(as_csv(rows), "utf-8")
    given = ("reproduce", str(folder / "paper.toml"), "--from", str(tmp_path))
    refused(cli(*given), f"1.csv: {column} of row {number + 2} is {value!r}")


def test_tables_without_a_newer_column_are_read(folder: Path, tmp_path: Path) -> None:
    paper = read_paper(folder / "paper.toml")
    text = (folder / "tables" / "small" / "1.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    older = [{k: v for k, v in row.items() if k != "source_differs"} for row in rows]
    (tmp_path / "small").mkdir()
    with (tmp_path / "small" / "1.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(older[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(older)
    [*_] = rebuild(paper, tmp_path, tmp_path / "made", paper.tables)
    assert (tmp_path / "made" / "small" / "1.csv").read_text("utf-8") == text


def test_pages_of_another_scale_are_not_written_over(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tables", tmp_path / "tables")
    place = tmp_path / "tables" / "small" / "1.csv"
    text = place.read_text("utf-8").replace(",small,", ",paper,")
    place.write_text(text, "utf-8")
    given = ("--from", str(folder / "tables"), "--tables", str(tmp_path / "tables"))
    told = cli("reproduce", str(folder / "paper.toml"), *given)
    refused(told, "1.csv has numbers at the scale paper")
    assert place.read_text("utf-8") == text


def test_pages_of_some_tables_leave_the_others_that_are_there(tmp_path: Path) -> None:
    stored = ROOT / "leaderboards" / "reproductions"
    shutil.copytree(stored / "drp", tmp_path / "tables" / "drp")
    (tmp_path / "some" / "drp").mkdir(parents=True)
    shutil.copy(stored / "drp" / "4.csv", tmp_path / "some" / "drp")
    given = ("--from", str(tmp_path / "some"), "--tables", str(tmp_path / "tables"))
    assert cli("reproduce", "drp", *given).exit_code == 0
    page = (tmp_path / "tables" / "drp" / "index.html").read_bytes()
    assert page == (stored / "drp" / "index.html").read_bytes()


def test_pages_of_one_table_leave_the_others_on_the_page(tmp_path: Path) -> None:
    stored = ROOT / "leaderboards" / "reproductions"
    shutil.copytree(stored / "drp", tmp_path / "drp")
    given = ("reproduce", "drp", "--table", "4", "--from", str(stored), "--tables", str(tmp_path))
    assert cli(*given).exit_code == 0
    for file in ("2.md", "4.md", "index.html"):
        assert (tmp_path / "drp" / file).read_bytes() == (stored / "drp" / file).read_bytes()


def test_a_page_tells_of_the_models_that_images_are_made_on() -> None:
    text = (ROOT / "leaderboards" / "reproductions" / "drp" / "4.md").read_text("utf-8")
    assert "- images made on `ce_cifar10`: data: cifar10; backbone: resnet_small" in text
    html = (ROOT / "leaderboards" / "reproductions" / "pcl" / "index.html").read_text("utf-8")
    assert "images made on <code>vgg_cifar10</code>: " in html


def test_a_cell_that_its_run_could_not_fill_makes_the_go_incomplete(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paper = read_paper("drp")
    table = paper.tables[1]
    rows = found.rows_of(paper, table, {}, "small")
    for status, is_whole in ((FAILED, False), (UNTRAINED, True), (FOUND, True)):
        made = [(table, [{**row, "status": status} for row in rows])]
        one = SimpleNamespace(paper=paper, reports={}, make=lambda made=made: made)
        assert reproduce_verb._made(one) is is_whole  # type: ignore[arg-type]
    assert "of 20 numbers" in capsys.readouterr().out


def test_a_paper_without_authors_is_told_of_without_them(folder: Path, tmp_path: Path) -> None:
    for name in ("paper.toml", "1.csv"):
        text = (folder / name).read_text("utf-8")
        lines = [one for one in text.splitlines() if not one.startswith(("authors", "year"))]
        (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
    paper = read_paper(tmp_path / "paper.toml")
    [*_] = rebuild(paper, folder / "tables", tmp_path / "made", paper.tables)
    text = (tmp_path / "made" / "small" / "1.md").read_text("utf-8")
    assert "\n“A" in text
    html = (tmp_path / "made" / "small" / "index.html").read_text("utf-8")
    assert '<p class="muted">' not in html


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("pdl",), "did you mean pcl"),
        (("pcl", "--table", "33"), "has no table '33'"),
        (("all", "--table", "3"), "--table goes with one paper"),
        (("pcl", "--scale", "tiny"), "--scale 'tiny': known: paper, small"),
        (("pcl", "--from", "x", "--scale", "tiny"), "--scale 'tiny': known: paper, small"),
        (("pcl", "--from", "x", "--dry-run"), "--from runs nothing, so that --dry-run"),
        (("pcl", "--from", "x", "--samples", "3"), "--from runs nothing, so that --samples"),
        (("pcl", "--from", "x", "--scale", "paper"), "--from runs nothing, so that --scale"),
    ],
)
def test_bad_input_is_told_in_one_line(given: tuple[str, ...], said: str) -> None:
    refused(cli("reproduce", *given), said)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (
            'FGSM = { attack = "fgsm"',
            'FGSM = { attack = "fgsn"',
            "1: Ours × FGSM: suite few has no",
        ),
        ("strongest = [", 'strongest = ["pgd_10", ', "strongest: 'pgd_10': did you mean pgd10"),
        ("strongest", 'only_at_paper_scale = ["aa"]\nstrongest', "only_at_paper_scale: 'aa': "),
        ('norm = "Linf"', 'norm = "L2"', "1: Ours × FGSM: fgsm of suite few is not in L2"),
        ('{ attack = "fgsm", a', '{ attack = "fgsm", any_distance = true, a', "fgsm knows ε"),
        (
            'detector = "max_softmax", metric = "auroc", against',
            'detector = "max_sotfmax", metric = "auroc", against',
            "1: Ours × Far: suite few has no detector 'max_sotfmax'",
        ),
        ('"auroc", against', '"aurocc", against', "has no metric 'aurocc': did you mean auroc"),
        ('"uniform_noise"', '"uniform_nose"', "has no outlier set 'uniform_nose'"),
        ('"auroc", attack = "fgsm"', '"auroc", attack = "pgd10"', "has no detected attack 'pgd10'"),
        (
            'Epochs = { read = "epochs" }',
            'Epochs = { read = "setting", attack = "fgsm", parameter = "c" }',
            "1: Ours × Epochs: fgsm has no 'c': give one of",
        ),
    ],
)
def test_what_its_suite_lacks_is_told_before_anything_runs(
    folder: Path, tmp_path: Path, was: str, now: str, said: str
) -> None:
    text = (folder / "paper.toml").read_text("utf-8")
    assert was in text
    (tmp_path / "mine.toml").write_text(text.replace(was, now, 1), "utf-8")
    shutil.copy(folder / "1.csv", tmp_path)
    refused(cli("reproduce", str(tmp_path / "mine.toml"), "--dry-run"), "mine.toml: ", said)


def test_a_dry_run_lists_runs_and_their_time_and_makes_none(folder: Path, tmp_path: Path) -> None:
    place = str(folder / "paper.toml")
    out = str(tmp_path / "runs")
    done = cli("reproduce", place, "--dry-run", "--samples", "12", "--out", out)
    assert done.exit_code == 0
    *runs, total = done.stdout.splitlines()
    (mine,) = [line for line in runs if line.startswith("pcl_digits")]
    form = r"pcl_digits, few, Linf 0.15, 12 samples, .* at most: fgsm, pgd10, static_fgsm_ce_digits"
    assert re.fullmatch(form, mine)
    assert re.fullmatch(r"2 runs, \d+ s at most", total)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_waits_for_a_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "models" / "digits" / "pcl_digits.toml").read_text("utf-8")
    fresh = text[: text.index("[weights]")].replace('name = "pcl_digits"', 'name = "pcl_digts"')
    (tmp_path / "pcl_digts.toml").write_text(fresh, "utf-8")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    asked = ("reproduce", str(folder / "paper.toml"), "--dry-run", "--samples", "12")
    with_training, without = cli(*asked).stdout, cli(*asked, "--no-train").stdout
    assert "training pcl_digts: 40 epochs of digits, some 8 s by what pcl_digits" in with_training
    assert "pcl_digts, few, Linf 0.15: after its training" in with_training
    assert with_training.splitlines()[-1].endswith("and 1 of models that are trained first")
    assert "pcl_digts has no weights: its runs are left out" in without
    assert "after its training" not in without


def test_a_dry_run_says_what_cannot_be_run(tmp_path: Path) -> None:
    asked = ("reproduce", "pcl", "--table", "3/MNIST", "--no-train", "--dry-run")
    told = cli(*asked, "--data-dir", str(tmp_path)).stdout.splitlines()
    assert "pcl_mnist can't be run: data set mnist" in " ".join(told)
    assert told[-1].startswith("0 runs")


def test_how_long_a_training_may_take() -> None:
    """By the trained model that is most like it: as many epochs take as long."""
    entry = next(e for e in api.list_entries() if e.name == "pcl_digits")
    fresh = entry.model_copy(update={"trained": None, "weights": None, "name": "fresh"})
    assert "training fresh: 40 epochs of digits, some 8 s by what pcl_digits" in about(
        fresh, [entry]
    )
    assert "nobody knows" in about(fresh, [])
