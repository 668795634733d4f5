"""What leaves the tool: payloads in every text that it is given, and the files that hold them."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import tomlkit

from benchmarks.families.machines import _png
from benchmarks.families.made import MODEL, SMALLEST, Made, texts_of
from benchmarks.trials import (
    EITHER,
    TAKEN,
    Case,
    Seen,
    Setting,
    call,
    command,
    control_characters,
    see,
    shown,
)

_BREAKS = ("\r", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
_FORMULAS = (
    *(f"a{sign}=1+cmd" for sign in _BREAKS),
    *("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", " =1+1", "'=1", '"=1+1"', ";=1"),
    *('a",=1+1,"b', 'a","b', "＝1+1", "＋1", "－1", "＠x", "\ufeff=1+1", "\u200b=1+1", "|=1"),
)
_MARKUP = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></tr></table><iframe>"),
    *("</title><script>x</script>", "</style><svg onload=x>", "</text></svg><script>x</script>"),
    *('" onmouseover="x', "' onload='x", "<!-- x", "--> x", "]]><script>", "&lt;script&gt;", "<b"),
    *("<a href=javascript:x>y</a>", "{{ 7*7 }}", "{% for %}", "${7*7}", "<?php ?>", "&#60;b"),
)
_MARKDOWN = (
    *("[x](javascript:alert(1))", "![x](http://x/y.png)", "[x]: javascript:y", "<javascript:x>"),
    *(
        "<http://x.invalid>",
        "a | b | c",
        "a \\| b",
        "\\",
        "`<b>`",
        "```\ncode",
        "# head",
        "\n# head",
    ),
    *("\n\n<script>x</script>\n\n", "\n---\n", "* a", "1. a", "> a", "**a", "__a", "    code"),
)
_ESCAPES = (
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://x\x07y\x1b]8;;\x07", "\x9b31m"),
    *("\x1b[2J\x1b[H", "\x1bc", "\x08\x08\x08", "\x07", "\x00", "\x7f", "\x0e", "\x90q\x9c"),
    *("\x9d0;x\x9c", "\x1bP1$q\x1b\\", "\u202egnp.exe", "\u2066x\u2069", "a\u200fb"),
    *("[red]x[/red]", "[link=http://x]y[/link]", ":smile:", "[/]", "$x$", r"$\frac{$"),
)
_LONG = ("x" * 50_000, "é" * 5000, "字" * 2000, "a b " * 5000, "\U0010ffff", "\ufffe")
PAYLOADS = (*_FORMULAS, *_MARKUP, *_MARKDOWN, *_ESCAPES, *_LONG)
_BENIGN = "harmless text"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ENTRY_FIELDS = (
    *("description", "license", "method", "paper.title", "paper.authors", "paper.arxiv"),
    *("claims.0.source", "claims.0.note", "claims.0.attack", "trained.hardware"),
    *("trained.precision", "trained.date", "trained.commit", "weights.file", "paper_training.x"),
)
_SUITE_FIELDS = ("description", "title", "note")


def _lay(made: Made, field: str, payload: str) -> Callable[[], object]:
    """An entry and a suite of which one text is the payload."""

    def lay() -> None:
        made.lay_models()
        entry = tomlkit.parse(texts_of(made.folder)[0]).unwrap()
        entry["claims"] = [{"attack": "fgsm", "accuracy": 50.0, "norm": "Linf", "eps": "0.15"}]
        entry["paper_training"] = {"x": 1}
        suite = tomlkit.parse(SMALLEST).unwrap()
        where, _, name = field.partition(":")
        if where == "entry":
            *inner, last = name.split(".")
            table: Any = entry
            for key in inner:
                table = table[int(key) if key.isdigit() else key]
            table[last] = payload
        elif name == "description":
            suite[name] = payload
        elif where == "suite":
            suite["attacks"][0][name] = payload
        Path(f"models/{MODEL}.toml").write_bytes(_toml(entry))
        Path("smallest.toml").write_bytes(_toml(suite))

    return lay


def _toml(table: dict[str, Any]) -> bytes:
    return tomlkit.dumps(table).replace("\x7f", "\\u007f").encode("utf-8", "surrogatepass")


def pages(made: Made, rng: random.Random) -> Iterator[Case]:
    """A whole run with a payload in one text; its pages, its row, what the terminal shows."""
    fields = [*(f"entry:{f}" for f in _ENTRY_FIELDS), *(f"suite:{f}" for f in _SUITE_FIELDS)]
    model = f"models/{MODEL}.toml"
    for field in fields:
        for payload in PAYLOADS:
            asked = ("run", "--model", model, "--suite", "smallest.toml", "--samples", "6")
            told, lay = f"run, {field} = {shown(payload)}", _lay(made, field, payload)
            look = _inert(made, field)
            yield Case("leaving", told, command(*asked), lay, EITHER, look=look)
            if field.startswith("entry"):
                yield _listed(f"show, {field} = {shown(payload)}", ("show", model), lay)
                listing = ("list", "models")
                yield _listed(f"list, {field} = {shown(payload)}", listing, lay)
                shown_json = ("show", model, "--json")
                yield _listed(f"show --json, {field} = {shown(payload)}", shown_json, lay)


def _listed(told: str, arguments: tuple[str, ...], lay: Callable[[], object]) -> Case:
    setting = Setting({"ROBUSTEVAL_MODELS": "models"})
    right = TAKEN if arguments[0] == "list" else EITHER
    return Case("leaving", told, command(*arguments, setting=setting), lay, right)


def _inert(made: Made, field: str) -> Callable[[Seen], str]:
    """What of the run's files isn't inert; compared with those of a harmless text."""

    def look(seen: Seen) -> str:
        if seen.code != 0:
            return ""
        (folder,) = (seen.place / "runs").glob("*/report.html")
        benign = _of_harmless(made.folder, field, seen.place.parent / "harmless")
        return wrong_files(folder.parent, benign)

    return look


@lru_cache
def _of_harmless(made: Path, field: str, work: Path) -> dict[str, str]:
    """The same run's files with a harmless text."""
    work.mkdir(exist_ok=True)
    asked = ("run", "--model", f"models/{MODEL}.toml", "--suite", "smallest.toml", "--samples", "6")
    lay = _lay(Made(made), field, _BENIGN)
    seen = see(Case("leaving", "harmless", command(*asked), lay), work)
    (page,) = (seen.place / "runs").glob("*/report.html")
    names = ("report.html", "report.md", "row.csv")
    return {name: (page.parent / name).read_text("utf-8") for name in names}


def wrong_files(folder: Path, benign: dict[str, str]) -> str:
    """What isn't inert in a run's files; nothing where all is."""
    for name, wrong in (
        ("report.html", wrong_html),
        ("report.md", wrong_markdown),
        ("row.csv", wrong_csv),
    ):
        content = (folder / name).read_bytes().decode("utf-8", "replace")
        if found := wrong(content, benign[name]):
            return f"{name}: {found}"
    return ""


class _Tags(HTMLParser):
    """Which tags with which attributes, and where addresses lead."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: set[tuple[str, str]] = set()
        self.leads: set[str] = set()
        self.feed(text)
        if self.rawdata:  # a comment or a tag that doesn't end
            self.found.add(("open", self.rawdata[:9]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, ""), *((tag, name) for name, _ in attrs)}
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action"):
                self.leads.add((value or "").partition(",")[0].partition("#")[0])

    def handle_decl(self, decl: str) -> None:
        self.found.add(("!", decl))

    def handle_comment(self, data: str) -> None:
        self.found.add(("comment", ""))


def wrong_html(text: str, benign: str) -> str:
    """Tags, attributes or addresses that a harmless page hasn't, or control characters."""
    page, harmless = _Tags(text), _Tags(benign)
    if new := sorted(page.found - harmless.found - _DRAWN):
        return f"new: {new[:3]}"
    if new_leads := sorted(page.leads - harmless.leads):
        return f"leads to {shown(new_leads[0])}"
    controls = "".join(c for c in text if ord(c) < 32 or 127 <= ord(c) < 160)
    return control_characters(controls.replace("\t", ""))


# What matplotlib may draw of any text.
_DRAWN = {(tag, name) for tag in ("g", "text", "tspan", "path", "use", "defs") for name in (
    *("", "id", "style", "transform", "x", "y", "d", "xlink:href", "clip-path"),)}  # fmt: skip


def wrong_markdown(text: str, benign: str) -> str:
    """HTML, links or pictures that a harmless report hasn't; blocks that end elsewhere."""
    blocks, inside = _structure(text)
    harmless_blocks, harmless_inside = _structure(benign)
    forbidden = {"html_inline", "html_block", "link_open", "image"}
    if new := (inside | set(blocks)) & forbidden - harmless_inside - set(harmless_blocks):
        return f"holds {', '.join(sorted(new))}"
    if blocks != harmless_blocks:
        place = next((i for i, (a, b) in enumerate(zip(blocks, harmless_blocks, strict=False))
                      if a != b), min(len(blocks), len(harmless_blocks)))  # fmt: skip
        there, due = blocks[place : place + 3], harmless_blocks[place : place + 3]
        return f"its blocks differ: {there} for {due}"
    return control_characters(text.replace("\t", ""))


def _structure(text: str) -> tuple[list[str], set[str]]:
    """Blocks in their order, and kinds of what is inside of lines."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.validateLink = lambda url: True  # others' readers don't look where a link leads
    tokens = parser.parse(text)
    inside = {child.type for token in tokens for child in token.children or ()}
    return [token.type for token in tokens], inside


def wrong_csv(text: str, benign: str) -> str:
    """Cells that begin a formula, rows that end elsewhere."""
    due = list(csv.reader(io.StringIO(benign, newline="")))
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if [len(row) for row in rows] != [len(row) for row in due]:
        return f"{len(rows)} rows, not {len(due)}, or other cells"
    if len(text.splitlines()) != len(due):
        return f"{len(text.splitlines())} lines for some readers, not {len(due)}"
    for row in rows:
        for cell in row:
            if cell.lstrip(" \ufeff\u200b").startswith(_FORMULA):
                return f"a cell begins a formula: {shown(cell)}"
    return control_characters(text)


def cells(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each cell of a row on its way through a CSV and back."""
    report = json.loads((made.run / "report.json").read_text("utf-8"))
    places = {
        "model": ("model", "name"),
        "method": ("model", "method"),
        "training": ("model", "training"),
        "dataset": ("dataset", "name"),
        "suite": ("suite", "name"),
    }
    for column, path in places.items():
        for payload in PAYLOADS:

            def act(path: tuple[str, str] = path, payload: str = payload) -> None:
                from robusteval.report.rows import as_csv, read_rows, rows_of

                changed = json.loads(json.dumps(report))
                changed[path[0]][path[1]] = payload
                rows = rows_of(changed)
                text, plain = as_csv(rows), as_csv(rows_of(report))
                if wrong := wrong_csv(text, plain):
                    raise AssertionError(wrong)
                Path("row.csv").write_bytes(text.encode("utf-8", "replace"))
                found = read_rows(Path("row.csv"))
                pairs = zip(found, rows, strict=True)
                if any({name: read[name] for name in row} != row for read, row in pairs):
                    raise AssertionError("is read back as other rows")

            told = f"cell {column} = {shown(payload)}"
            yield Case("leaving", told, call(act), right=TAKEN)


def others(made: Made, rng: random.Random) -> Iterator[Case]:
    """Payloads in names of folders, in errors, and in what a failing module says."""
    suite = SMALLEST + '\n[detection]\ndetectors = ["max_softmax"]\nnatural = 0\n'
    for payload in PAYLOADS:
        folder = payload.replace("/", "∕").replace("\0", "")[:60].strip() or "x"

        def lay(folder: str = folder) -> None:
            Path("smallest.toml").write_text(suite, "utf-8")
            Path(folder).mkdir()
            (Path(folder) / "a.png").write_bytes(_png())

        asked = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "6")
        act = command(*asked, "--outlier-dir", f"./{folder}")
        told = f"run, outlier folder {shown(folder)}"
        yield Case("leaving", told, act, lay, EITHER, look=_inert_alone)
        yield Case("leaving", f"run, failure says {shown(payload)}", call(_failing(payload)),
                   made.lay_suite, TAKEN, look=_inert_alone)  # fmt: skip
        for verb, arguments in {
            "--model": ("run", "--model", payload, "--dry-run"),
            "--suite": ("run", "--model", "ce_digits", "--suite", payload, "--dry-run"),
            "--only": ("run", "--model", "ce_digits", "--only", f"x{payload}", "--dry-run"),
            "--eps": ("run", "--model", "ce_digits", "--eps", f"x{payload}", "--dry-run"),
            "--device": ("run", "--model", "ce_digits", "--device", payload, "--dry-run"),
            "--keep": ("run", "--model", "ce_digits", "--keep", payload, "--dry-run"),
            "report": ("report", payload),
            "list": ("list", payload),
            "show": ("show", payload),
            "command": (f"x{payload}",),
        }.items():
            said = f"error about {verb} {shown(payload)}"
            yield Case("leaving", said, command(*arguments), right=EITHER)


def _failing(payload: str) -> Callable[[], None]:
    """A run of a module that fails under the attack, and says the payload."""

    def act() -> None:
        import torch

        from robusteval import api

        class Net(torch.nn.Module):
            def forward(self, images: Any) -> Any:
                if images.requires_grad:
                    raise RuntimeError(payload)
                return images.flatten(1)[:, :10]

        options = api.Options(samples=6, out=Path("runs"))
        adapter = api.wrap_module(Net(), 10)
        api.evaluate(adapter, "smallest.toml", "digits", "given", options)

    return act


def _inert_alone(seen: Seen) -> str:
    """The same where there is no harmless run to compare with: nothing active at all."""
    pages = list((seen.place / "runs").glob("*/report.html"))
    if seen.code != 0 or not pages:
        return ""
    page = _Tags(pages[0].read_text("utf-8"))
    active = {tag for tag, _ in page.found} & {"script", "iframe", "object", "embed", "form", "a"}
    handlers = {name for _, name in page.found if name.startswith("on")}
    if active or handlers:
        return f"report.html: {sorted(active | handlers)}"
    text = (pages[0].parent / "report.md").read_bytes().decode("utf-8", "replace")
    blocks, inside = _structure(text)
    if found := (inside | set(blocks)) & {"html_inline", "html_block", "link_open", "image"}:
        return f"report.md: holds {', '.join(sorted(found))}"
    return control_characters(text)
