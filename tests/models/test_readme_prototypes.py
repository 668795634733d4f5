"""The README's ten lines on prototypes of one's own run as they stand there."""

import re
from pathlib import Path
from typing import Any

from robusteval.api import Report

README = Path(__file__).parents[2] / "README.md"


def test_ten_lines_evaluate_ones_own_prototypes() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (block,) = [b for b in blocks if "wrap_module(net, prototypes=" in b]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    namespace: dict[str, Any] = {}
    exec(block, namespace)  # noqa: S102 - the README's own
    report = namespace["report"]
    assert isinstance(report, Report)
    assert report.complete
    assert report.content["left_out"] == []
    assert "prototype_margin" in {attack["name"] for attack in report.content["attacks"]}
    assert report.content["clean"]["accuracy"]["value"] > 0.8
