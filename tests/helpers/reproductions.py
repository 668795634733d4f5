"""Which models stand in the papers' tables that are published."""

import csv
from collections import defaultdict

from tests.helpers.documents import ROOT


def reproduced() -> dict[str, set[str]]:
    """The digests of the weights that tables were made with, by entry."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "leaderboards" / "reproductions").glob("*/*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["status"] == "found":
                    found[row["entry"]].add(row["weights_sha256"])
                    found[row["source"]].add(row["source_sha256"])
    return found
