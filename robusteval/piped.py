"""What goes into a pipe or a file instead of a terminal: rows of tab-separated values.

One line of headings, then a line for each row: no boxes, no line breaks, nothing left out for want
of room; numbers as they are, shares from 0 to 1.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from robusteval import inert


def is_piped() -> bool:
    """Whether stdout is no terminal; ``TTY_COMPATIBLE=1`` says that it is one nevertheless."""
    return not sys.stdout.isatty() and os.environ.get("TTY_COMPATIBLE") != "1"


def print_tsv(rows: Sequence[dict[str, Any]], always: Sequence[str] = ()) -> None:
    """All plain values of rows; ``always``: columns that are there even where no row has them."""
    nested = {key for row in rows for key, value in row.items() if isinstance(value, dict)}
    found = dict.fromkeys([*(k for row in rows for k in row if k not in nested), *always])
    print("\t".join(map(inert.line, found)))
    for row in rows:
        print("\t".join(_plain(row.get(column)) for column in found))


def _plain(value: Any) -> str:
    """One value without tabs and line breaks; nothing stands for none."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return inert.line(text, inert.LONGEST_CELL)


def pair_rows(pair: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each attack of two runs, and what can't be compared with the reason in ``note``."""
    names = {"first_run": pair["first"], "second_run": pair["second"]}
    for row in pair["rows"]:
        threat = row["threat"] or {}
        yield {
            **names,
            **{"attack": row["attack"], "norm": threat.get("norm"), "eps": threat.get("eps")},
            **{"first": row["first"]["value"], "second": row["second"]["value"]},
            **{"difference": row["difference"], "p": row["p"]},
            **{"only_first": len(row["only_first"]), "only_second": len(row["only_second"])},
            "note": "",
        }
    reasons = {
        "only_in_one": "not compared: in one of the two only, or unfinished in the other",
        "not_alike": "not compared: by other attacks or parameters",
    }
    for kind, reason in reasons.items():
        for key in pair[kind]:
            yield {**names, "attack": key, "note": reason}
    for row in pair["detection"]:
        told = ("detector", "against", "reading", "first", "second", "difference")
        yield {**names, **{name: row[name] for name in told}, "note": "AUROC"}
    for name in pair["detectors_apart"]:
        yield {**names, "detector": name, "note": "not compared: other code, or in one only"}
