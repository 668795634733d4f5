"""Text from outside, on each way out made so that none of it acts.

Names, titles, reasons and paths come from entries, suites, folders and other people's code.  On a
terminal, on a page, in a spreadsheet or in a plot they are shown as what they are: text.  Files
that keep data (``run.json``, ``report.json``) keep it as it came.

==========  ===================================================================================
terminal    ``line``; a stream that lacks a character shows the ``nearest`` that it has
HTML        ``line`` in all that a page is made from (``each``), and Jinja's escapes
Markdown    ``markdown``
CSV         ``cell``
plots       ``plot``
JSON        ``json_text``
==========  ===================================================================================
"""

import codecs
import re
import unicodedata
from collections.abc import Callable
from typing import Any

LONGEST = 2_000  # characters of one text on a page or a terminal
LONGEST_CELL = 32_000  # a spreadsheet takes 32,767
LONGEST_IN_PLOT = 48

_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")  # what any reader takes for a new line
# Controls of terminals, of the direction of text, and what is no character at all.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def line(text: object, longest: int = LONGEST) -> str:
    """One line, in which nothing is hidden: an escape is seen as ``\\x1b``.

    Of what is too long the middle is left out: advice stands at the end, and so do names of files.
    """
    seen = _UNSEEN.sub(lambda found: _escaped(found[0]), _BREAKS.sub(" ", str(text)))
    if len(seen) <= longest:
        return seen
    head = longest * 2 // 3
    return f"{seen[:head]}…{seen[len(seen) - (longest - head - 1) :]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def each(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {each(key, change): each(inner, change) for key, inner in value.items()}
    return [each(inner, change) for inner in value] if isinstance(value, list | tuple) else value


# Markdown

# What CommonMark and GitHub's dialect read as more than text; a name such as ce_digits stays.
_MARKS = re.compile(
    r"""[\\`*<~$|]
    | (?<![^\W_])_ | _(?![^\W_])            # emphasis, but not inside a word
    | \](?=[(\[:])                          # links, images and their definitions
    | &(?=[#\w])                            # entities
    | (?<=[A-Za-z]):(?=\S)                  # addresses that become links by themselves
    | (?<=\bwww)\.
    | (?<=[\w.+-])@(?=[\w-]+\.)
    | (?<!\S)[#] | ^[>=] | ^[-+](?!\d)      # headings, quotes, lines and lists
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")


def markdown(text: object) -> str:
    """Text that Markdown shows as it is, in a line or in a cell of a table."""
    marked = _MARKS.sub(r"\\\g<0>", line(text).strip())
    return _NUMBERED.sub(r"\1\\\2", marked)


# CSV

_FORMULA = tuple("=+-@−")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:e[+-]?[0-9]+)?")


def cell(text: object) -> str:
    """Text that ends no row, and that no spreadsheet takes for a formula."""
    shown = line(text, LONGEST_CELL)
    begins = unicodedata.normalize("NFKC", shown.lstrip()[:1])  # a wide ＝ counts as one
    acts = begins.startswith(_FORMULA) and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if acts else shown


# Plots


def plot(text: object) -> str:
    """Text that matplotlib draws as it is: no formula, and no name that legends leave out."""
    shown = line(text, LONGEST_IN_PLOT).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


# JSON


def json_text(text: str) -> str:
    """JSON, the same data, in which what a terminal obeys or no encoding takes is escaped."""
    return _UNSEEN.sub(lambda m: m[0] if m[0] == "\n" else _json_escaped(m[0]), text)


def _json_escaped(character: str) -> str:
    """One escape for 16 bits; json itself leaves DEL as it is."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


# Streams that are not UTF-8

NEAREST = "robusteval.nearest"  # the name of the error handler
_SAID = {"ε": "eps", "∞": "inf", "≤": "<=", "≥": ">=", "→": "->", "×": "x", "·": "-"}
_LOOKS = {"–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "█": "#"}


def fitting(text: str, encoding: str) -> str:
    """The text as a stream of that encoding will show it, so that a table can be laid out."""
    return text.encode(encoding, NEAREST).decode(encoding)


def nearest(error: UnicodeError) -> tuple[str, int]:
    """What a stream shows in the place of characters that its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_nearest, lacking)), error.end


def _nearest(character: str) -> str:
    if known := _SAID.get(character) or _LOOKS.get(character):
        return known
    parts = [c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c)]
    plain = "".join(parts)
    return plain if plain.isascii() and plain else _escaped(character)


codecs.register_error(NEAREST, nearest)
