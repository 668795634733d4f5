"""Classes that a data set and its outliers share, as far as their names tell.

Names are compared in a simple form: lower case, words apart.  A class is shared if the names are
equal, or if one is a kind of the other by its last word, as "Persian cat" is of "cat".  WordNet's
identifiers of Tiny ImageNet are read as WordNet 3.0's words, of which any may agree.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

_WORDNET = re.compile(r"n[0-9]{8}")
_FEWEST_LETTERS = 3  # "a" and "b" are no kinds


def shared_classes(inside: Iterable[str], outside: Iterable[str]) -> list[str] | None:
    """Pairs of classes that have one name, such as "cat = Persian cat"; None where one side has
    only numbers or identifiers."""
    sides = [[found for name in side for found in _words(name)] for side in (inside, outside)]
    if not all(sides):
        return None
    pairs = (
        f"{mine}" if a == b else f"{mine} = {theirs}"
        for mine, a in sides[0]
        for theirs, b in sides[1]
        if _same(a, b)
    )
    return list(dict.fromkeys(pairs))


def _same(a: Sequence[str], b: Sequence[str]) -> bool:
    if a == b:
        return True
    few, many = sorted((a, b), key=len)
    return len(few) == 1 and len(few[0]) >= _FEWEST_LETTERS and few[0] == many[-1]


def _words(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each class of a group, and each of its synonyms, as it is written and in words."""
    for one in name.split("+"):
        told = wordnet_words().get(one, "") if _WORDNET.fullmatch(one) else one
        for synonym in told.split(","):
            if words := tuple(re.findall(r"[^\W_]+", synonym.casefold())):
                yield synonym.strip(), words


@cache
def wordnet_words() -> dict[str, str]:
    """The words of Tiny ImageNet's classes by their identifier, from WordNet 3.0."""
    text = Path(__file__).with_name("wordnet_words.tsv").read_text("utf-8")
    return dict(line.split("\t") for line in text.splitlines())
