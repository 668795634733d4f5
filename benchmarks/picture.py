"""The picture of a report in README and docs, made anew by a headless Chromium.

    python -m benchmarks.picture [RUN] [--browser chromium]

``RUN`` is a finished run of ``pcl_digits`` under ``full``, whose report is written anew; without it
one is made, which takes minutes.  Beside the picture stands what it shows, in words: a test holds
that to the reports of today, and to the published leaderboard.
"""

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from robusteval import api
from robusteval.report.wording import percent

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
PICTURE, SHOWN = IMAGES / "report.png", IMAGES / "report.json"
MODEL, NORM = "pcl_digits", "Linf"  # whose bars the picture ends with
WIDTH, HEIGHT = 1000, 1262  # pixels: to the end of the first figure
_HEADS = re.compile(
    r'<div class="card[^"]*"><span>(.*?)</span>|<h[23]>(.*?)</h[23]>|<th[^>]*>(.*?)</th>'
)


def heads_of(page: str) -> list[str]:
    """The names of numbers, the headings and the columns of a report's page, down to the heading of
    its first figure."""
    first = re.search(r"</h3>", page)
    assert first, "a report has a figure for each norm"
    return ["".join(found) for found in _HEADS.findall(page[: first.end()])]


def shown(content: dict[str, Any], page: str, picture: bytes) -> dict[str, Any]:
    """What a picture of this report shows, beside its digest."""
    worst = [case["robust_accuracy"] for case in content["worst_case"]]
    bars = [a for a in content["attacks"] if a["threat"]["norm"] == NORM]
    return {
        "sha256": hashlib.sha256(picture).hexdigest(),
        "heads": heads_of(page),
        "clean": percent(content["clean"]["accuracy"]),
        "worst_case": list(map(percent, worst)),
        "bars": {a["name"]: [a["title"], percent(a["robust_accuracy"])] for a in bars},
    }


def photograph(page: Path, browser: str) -> bytes:
    """The top of a page, as the browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        command = [
            *(browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"),
            *(f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}"),
            *(f"--screenshot={picture}", page.resolve().as_uri()),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return picture.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a finished run; by default a new one")
    parser.add_argument("--browser", default="chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = (
            api.rebuild_report(given.run)
            if given.run
            else api.evaluate(MODEL, "full", out=Path(folder))
        )
        assert (report.content["model"]["name"], report.complete) == (MODEL, True), "another run"
        page = Path(str(report.page))
        picture = photograph(page, given.browser)
        told = shown(report.content, page.read_text("utf-8"), picture)
    PICTURE.write_bytes(picture)
    SHOWN.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
