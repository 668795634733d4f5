"""What leaves the tool is text, wherever it came from: on each way out nothing of it acts."""

import csv
import io
import json
import random
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import tomlkit
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from robusteval import api, consoles, inert, terminal
from robusteval.cli import app
from robusteval.errors import EvidenceError
from robusteval.models.registry import find_entry
from robusteval.report.detection_figures import rejection_curves, separation_curves
from robusteval.report.figures import accuracy_bars, cost_curve, distance_curve, score_histograms
from robusteval.report.files import report_files
from robusteval.report.page import render_html, render_markdown
from robusteval.report.rows import BACKING, FOUND, as_csv, read_rows, rows_of
from tests.helpers.texts import HIDDEN

pytestmark = pytest.mark.usefixtures("as_in_use")

# What a terminal obeys, what turns the direction of text, and what is no text.
CONTROLS = (
    "\x00\x07\x08\x0b\x1b\x1c\x7f\x85\x90\x9b\u2028\u202e\u2066\u200b\ufeff\udc80\ud800\ufffe"
)
PAYLOADS = [
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://x\x07link \x9b2J \x08\x08 over\rwritten",
    "a\u202egnp.exe\u202c \u2066b\u2069 \u200b\ufeff\udcff\ud800 \ufffe",
    "<script>alert(1)</script> <img src=x onerror=alert(1)> </svg></title></style><!-- ]]> &lt;b>",
    "\"><a href='javascript:alert(1)'>x</a> ' onload=alert(1) {{ 7 * 7 }} {% raw %}",
    "[x](javascript:alert(1)) ![y](http://x/y.png) <http://x> http://x www.x.org me@x.org [a]: b",
    "`code` **bold** __strong__ _em_ ~~gone~~ ~x~ | cell | \\| \\ $\\frac{$ $x$ &amp; &#60;",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "line\n\n# heading\n\n<b>\r\n---\u2028===\x85| a | b |",
    "[bold]b[/bold] [link=http://x]l[/link] :bomb:",
    "=1+1",
    "_hidden",
    "$\\frac{$",
    "a\r=1\x0b=2\x1c=3\x85=4\u2028=5\n=6",
]


# One line


def test_a_line_hides_nothing() -> None:
    shown = inert.line(f"a{CONTROLS}b")
    assert shown.isprintable()
    assert shown.startswith(
        r"a\x00\x07\x08 \x1b \x7f \x90\x9b \u202e\u2066\u200b\ufeff\udc80\ud800"
    )
    assert inert.line("Voráček · ε ≤ 8/255, 東京, שלום 😀") == "Voráček · ε ≤ 8/255, 東京, שלום 😀"
    assert inert.line("one\r\ntwo\tthree") == "one two three"
    assert inert.line(Path("a\udcff")) == r"a\udcff"


def test_of_what_is_too_long_the_ends_are_shown() -> None:
    shown = inert.line("begin " + "x" * 100_000 + " end: mend it")
    assert len(shown) == inert.LONGEST
    assert shown.startswith("begin xxx")
    assert shown.endswith("xxx end: mend it")
    assert inert.line("x" * inert.LONGEST) == "x" * inert.LONGEST


# CSV

FORMULAS = ["=1+1", "+A1", "-1+1|cmd", "@SUM(A1)", " =1", "\t=1", "\xa0=1", "\u3000＝1", "＋A1"]
FORMULAS += ["﹦1", "－A1", "＠x", "\r=1", "\n=1", "\u2028=1", "\x0b=1", "−A1"]


def random_texts(alphabet: str, count: int) -> Iterator[str]:
    numbers = random.Random(0)
    for _ in range(count):
        yield "".join(numbers.choices(alphabet, k=numbers.randint(1, 12)))


def cells() -> list[str]:
    return [*PAYLOADS, *FORMULAS, *random_texts(CONTROLS + "=+-@＝\r\n\t ,;\"'a1", 300)]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    shown = inert.cell(text)
    assert shown.startswith("'")
    assert inert.cell(shown) == shown
    assert inert.cell(f"a{text}")[0] == "a"


@pytest.mark.parametrize("number", ["-0.5", "+30", "1e-05", "-1.5e+3", "–", "0.15", "8/255", ""])
def test_numbers_stay_numbers(number: str) -> None:
    assert inert.cell(number) == number


def table(texts: list[str]) -> list[dict[str, str]]:
    blank = dict.fromkeys((*FOUND, "findings", *BACKING), "")
    return [{**blank, "model": text, "suite": f"x{text}"} for text in texts]


def test_a_table_reads_back_whatever_its_cells_hold(tmp_path: Path) -> None:
    """By our reader, by Python's and by pandas, each row where it was."""
    path, texts = tmp_path / "t.csv", cells()
    path.write_bytes(as_csv(table(texts)).encode())
    wanted = [(inert.cell(text), inert.cell(f"x{text}")) for text in texts]
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, strict=True))
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for read in (read_rows(path), rows, frame.to_dict("records")):
        assert [(row["model"], row["suite"]) for row in read] == wanted
    # As a spreadsheet would: it takes any of these for the end of a row.
    assert len(path.read_text("utf-8").splitlines()) == 1 + len(texts)
    for shown, _ in wanted:
        assert not HIDDEN.search(shown)
        first = unicodedata.normalize("NFKC", shown.strip()[:1])
        assert first not in list("=+-@") or re.fullmatch("[+-]?[0-9.]+", shown)
    path.write_bytes(as_csv(read_rows(path)).encode())
    assert read_rows(path) == rows


def test_an_older_table_is_made_inert_when_it_is_written_again() -> None:
    written = as_csv([{**table(["a"])[0], "method": "=1", "attack_\rx": "@y"}])
    (row,) = csv.DictReader(io.StringIO(written, newline=""))
    assert row["method"] == "'=1"
    assert row["attack_ x"] == "'@y"


def test_a_table_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With a byte-order mark and Windows's line ends; but not with a row that a bare CR cut."""
    path, text = tmp_path / "t.csv", as_csv(table(["a", "b"]))
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert [row["model"] for row in read_rows(path)] == ["a", "b"]
    path.write_bytes(text.replace("xb", "x\rb").encode())
    with pytest.raises(EvidenceError, match="restore it"):
        read_rows(path)


# Markdown

COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAIN = {"text", "text_special", "softbreak"}


def literal(source: str, place: str) -> str:
    """The text that Markdown shows at the only ``place`` of a source, which holds nothing else."""
    tokens = COMMONMARK.parse(source)
    inline = [token for token in tokens if token.type == "inline" and token.content]
    assert place in [token.type for token in tokens], source
    assert {t.type for t in tokens} <= {"inline", *DOCUMENT}, source
    children = inline[-1].children or []
    assert {child.type for child in children} <= PLAIN, source
    return "".join(child.content for child in children)


DOCUMENT = {f"{name}_{end}" for end in ("open", "close") for name in ("paragraph", "heading")}
DOCUMENT |= {f"{n}_{e}" for e in ("open", "close") for n in ("table", "thead", "tbody", "tr")}
DOCUMENT |= {
    f"{n}_{e}" for e in ("open", "close") for n in ("th", "td", "bullet_list", "list_item")
}


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("{}\n", "paragraph_open"),
        ("# {}\n", "heading_open"),
        ("- {}\n", "list_item_open"),
        ("| a |\n|---|\n| {} |\n", "td_open"),
    ],
)
def test_markdown_shows_what_it_is_given(source: str, place: str) -> None:
    texts = [*PAYLOADS, *random_texts("`*_[]()<>#+-=|\\!&~$:.1 ab", 400)]
    for text in texts:
        wanted = inert.line(text).strip()
        if not wanted:
            continue
        assert literal(source.format(inert.markdown(text)), place).strip() == wanted
        assert not re.search(r"(?i)https?://|\bwww\.|(?<!\\)\$", inert.markdown(text))


def test_names_and_numbers_stay_readable_in_markdown() -> None:
    for text in (
        "pcl_at_digits",
        "L∞ 8/255",
        "32.1 %",
        "[28.0, 36.5]",
        "FPR@95TPR",
        "a: b",
        "-0.5",
    ):
        assert inert.markdown(text) == text


# JSON


def test_json_keeps_its_data_and_hides_nothing() -> None:
    data = {"a": "".join(map(chr, range(0x3000))), "b\x9b": [CONTROLS, "\U000e0041", 1.5, None]}
    text = inert.json_text(json.dumps(data, indent=2, ensure_ascii=False))
    assert json.loads(text) == data
    assert not HIDDEN.search(text)
    assert "\U000e0041" not in text
    assert "é" in text
    text.encode()


# Streams that are not UTF-8


def test_the_nearest_that_an_encoding_has() -> None:
    def shown(text: str, encoding: str = "ascii") -> str:
        return text.encode(encoding, inert.NEAREST).decode(encoding)

    assert shown("L∞ ≤ 8/255 · 3×32×32 – … ε → “a”") == 'Linf <= 8/255 - 3x32x32 - ... eps -> "a"'
    assert shown("Voráček", "ascii") == "Voracek"
    assert shown("×é–∞", "latin-1") == "×é-inf"
    assert shown("½ 東 \udc80") == r"\xbd \u6771 \udc80"
    everything = "".join(
        map(chr, [*range(0x3000), *range(0xD7F0, 0xE010), *range(0x1F600, 0x1F650)])
    )
    for encoding in ("ascii", "latin-1", "cp1252", "koi8-r", "utf-8"):
        assert shown(everything, encoding)


# The report, with every text in it hostile

KEPT = {
    "norm",
    "verdict",
    "status",
    "keep",
    "kind",
    "group",
    "reading",
    "part",
    "compared",
    "worst_compared",
}  # what decides what is shown, not what it says


def hostile(value: Any, payload: str, key: str = "") -> Any:
    """A report with ``payload`` at each end of every text."""
    if isinstance(value, dict):
        return {k: hostile(inner, payload, k) for k, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, payload, key) for inner in value]
    return f"{payload}{value}{payload}" if isinstance(value, str) and key not in KEPT else value


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs")
    options = api.Options(samples=10, only=("fgsm",), out=out)
    report = api.evaluate("pcl_digits", "quick", options=options)
    read: dict[str, Any] = json.loads(json.dumps(report.content))
    read["findings"][0] |= {"verdict": "broken", "advice": "mend it"}
    read["left_out"] = [{"name": "a", "reason": "b"}]
    read["claims"] = [{"attack": "pgd10", "accuracy": 50.0, "norm": "Linf", "eps": "0.15"}]
    read["missing"] = [{"kind": "outliers", "name": "a", "reason": "b", "reached": True}]
    blank = dict.fromkeys(("found", "found_threat", "worst", "worst_threat", "worst_compared"))
    blank |= {"compared": "not_run"}
    read["claims"][0] |= {"source": "Table 3", "note": "a note", **blank}
    return read


class Page(HTMLParser):
    """The tags of a page with their attributes' names, the values of those that lead elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.links: set[str] = set()
        self.text = ""
        self.odd: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *sorted(name for name, _ in attrs)))
        self.links |= {v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.odd.append(data)

    def handle_pi(self, data: str) -> None:
        self.odd.append(data)


def test_nothing_on_the_page_comes_from_payloads(content: dict[str, Any]) -> None:
    clean = Page(render_html(content, []))
    payload = "".join(PAYLOADS)
    html = render_html(hostile(content, payload), [])
    page = Page(html)
    assert set(page.tags) <= set(clean.tags)
    assert page.tags.count(("svg",)) == clean.tags.count(("svg",))
    assert page.tags.count(("tr",)) == clean.tags.count(("tr",))
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert page.odd == clean.odd
    assert not HIDDEN.search(html)
    html.encode()
    assert inert.line(payload) in page.text
    for figure in re.findall(r"(?s)<svg.*?</svg>", html):
        ElementTree.fromstring(figure)


def shape(text: str) -> list[str]:
    """Everything but text that Markdown sees in a text."""
    tokens = COMMONMARK.parse(text)
    inner = [child.type for token in tokens for child in token.children or []]
    return [t.type for t in tokens] + [kind for kind in inner if kind not in PLAIN]


def test_nothing_in_the_markdown_comes_from_payloads(content: dict[str, Any]) -> None:
    wanted = shape(render_markdown(content))
    for payload in PAYLOADS:
        text = render_markdown(hostile(content, payload))
        assert shape(text) == wanted, payload
        assert not HIDDEN.search(text)


def test_rows_hold_no_payload(content: dict[str, Any]) -> None:
    for payload in PAYLOADS:
        text = as_csv(rows_of(hostile(content, payload)))
        assert len(text.splitlines()) == 1 + len(content["worst_case"])
        for row in csv.DictReader(io.StringIO(text, newline="")):
            assert all(inert.cell(value) == value for value in row.values())


def test_files_of_a_report_hold_any_text(content: dict[str, Any]) -> None:
    """Lone surrogates too, which are a path's bytes that are no UTF-8."""
    told = hostile(content, CONTROLS)
    files = report_files(told, [])
    assert json.loads(files["report.json"]) == told  # data stays as it is
    for file in files.values():
        assert not HIDDEN.search(file.decode("utf-8"))


# Plots


def figures(content: dict[str, Any], text: str) -> Iterator[str]:
    told = hostile(content, text)
    yield accuracy_bars(told, "Linf")
    points = [[1.0, 8.0], [2.0, 3.0]]
    row = {"title": text, "name": "a", "points": points, "most": 3, "left": 3, "by_sample": True}
    curve = {"attacks": [row], "samples": 10, "norm": "Linf", "best": {"points": points}}
    yield distance_curve(curve, [0.1])
    yield cost_curve({**curve, "threat": {"norm": "Linf"}})
    histogram = {"edges": [0.0, 1.0, 2.0], "inside": [1, 2], "outside": [2, 1]}
    against = {"detector": text, "against": f"/{text}", "histogram": histogram}
    yield score_histograms([against], text)
    line = {"detector": text, "roc": points, "precision_recall": points, "points": points}
    separated = {"part": "far", "against": f"/{text}", "lines": [line]}
    yield separation_curves(separated, [text])
    yield rejection_curves([{"threat": None, "lines": [line]}], [text])


@pytest.mark.parametrize(
    "text", ["$\\frac{$", "x" * 100_000, "\\$x$", "_hidden", "😀 東京 שלום <b>", CONTROLS, "\n\n"]
)
def test_plots_draw_text_as_it_is(content: dict[str, Any], text: str) -> None:
    """No formula, no font's lack and no length stops them, and each is XML."""
    shown = inert.line(text, inert.LONGEST_IN_PLOT).strip()
    for figure in figures(content, text):
        texts = ["".join(e.itertext()) for e in ElementTree.fromstring(figure).iter() if is_text(e)]
        assert any(shown[:20] in drawn for drawn in texts)
        assert max(map(len, texts)) < 60  # our own are a little longer


def is_text(element: ElementTree.Element) -> bool:
    return element.tag.endswith("}text")


# Terminal


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the console prints, to a terminal that takes colours."""
    stream = io.StringIO()
    console = consoles.InertConsole()
    console.file = stream
    console.width = 200
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(terminal, "is_piped", lambda: False)
    return stream


def test_tables_show_others_text_literally(
    content: dict[str, Any], printed: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    for payload in PAYLOADS:
        told = hostile(content, payload)
        terminal.print_report(api.Report(told, Path(f"runs{payload}")))
        terminal.print_models([told, told])
        terminal.print_rows(payload, [{"name": payload, payload: payload, "problem": payload}])
        terminal.print_checks([api.Check(payload, False, payload)])
        terminal.print_estimate(payload, api.Estimate(1, 1, 1, 1.0, 1))
    text = printed.getvalue() + capsys.readouterr().out
    assert not HIDDEN.search(text)
    assert "[bold]b[/bold] [link=http://x]l[/link] :bomb:" in text
    assert r"\x1b[31mred\x1b[0m" in text


def test_columns_stand_straight_where_characters_are_lacking(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles.InertConsole, "encoding", "ascii")
    terminal.print_rows("t", [{"name": "L∞", "b": "x"}, {"name": "…", "b": "≤"}])
    _, *lines = printed.getvalue().rstrip("\n").split("\n")
    assert "| Linf | x  |" in lines
    assert len(set(map(len, lines))) == 1
    assert all(line.isascii() for line in lines)


# All of it at once, from files


@pytest.fixture
def hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry, a suite and an outlier folder whose every free text is hostile."""
    escape = PAYLOADS[0]
    entry = find_entry("pcl_digits")
    table: dict[str, Any] = tomllib.loads(entry.path.read_text("utf-8"))
    table |= {"name": "hostile", "method": escape, "description": escape, "license": escape}
    table["paper"] |= {"title": escape, "authors": escape}
    table["claims"] = [{"attack": "a", "accuracy": 50.0, "norm": "Linf", "eps": "0.15"}]
    table["claims"][0] |= {"source": escape, "note": escape}
    attack = {
        "name": "a",
        "title": "$\\frac{$" + escape,
        "library": "torchattacks",
        "attack": "FGSM",
    }
    suite = {
        "name": "s",
        "description": escape,
        "attacks": [{**attack, "norms": ["Linf"], "note": escape}],
        "detection": {"detectors": ["max_softmax"], "natural": 0, "attacks": ["a"]},
    }
    models = tmp_path / "models"
    outliers = tmp_path / "o<b>$\\frac{$"
    for folder in (models, outliers):
        folder.mkdir()
    (models / "hostile.toml").write_text(tomlkit.dumps(table), "utf-8")
    (models / entry.weights_path.name).write_bytes(entry.weights_path.read_bytes())
    (tmp_path / "s.toml").write_text(tomlkit.dumps(suite), "utf-8")
    for grey in range(3):
        Image.new("L", (8, 8), 40 * grey).save(outliers / f"{grey}.png")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(models))
    return outliers


def test_every_verb_shows_files_texts_inertly(hostile_files: Path) -> None:
    def printed(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        # Tabs are between a pipe's cells alone: no line has more of them than the headings.
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}
        assert not HIDDEN.search(result.stdout.replace("\t", "") + result.stderr)
        return result.stdout + result.stderr

    run = ("run", "--model", "hostile", "--suite", "s.toml", "--samples", "10")
    assert r"$\frac{$\x1b[31mred" in printed(*run, "--outlier-dir", str(hostile_files))
    (folder,) = Path("runs").glob("*")
    for verb in ("report", "verify", "compare"):
        printed(verb, str(folder), *[str(folder)] * (verb == "compare"))
    assert r"\x1b[31mred" in printed("show", "hostile")
    assert json.loads(printed("show", "hostile", "--json"))["license"] == PAYLOADS[0]
    assert "hostile" in printed("list")
    printed("list", "--json")
