"""Columns and facts of evidence: what is declared is written, read, checked and compared."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robusteval import api
from robusteval.attacks.results import Stage
from robusteval.errors import EvidenceError
from robusteval.evidence import columns, pieces
from robusteval.evidence import results as outcomes
from robusteval.evidence.columns import (
    COLUMNS,
    FACTS,
    Column,
    columns_of,
    filled,
    merged_facts,
    nearest_columns,
)
from robusteval.evidence.files import Local
from robusteval.evidence.pieces import unsealed
from robusteval.evidence.results import load_result
from robusteval.trust import repeat
from tests.helpers.forging import change_rows, rows_file
from tests.helpers.runs import FEW, options

# What a new column takes: how often the attack asked the model, in all.
NEW = Column(
    "passes",
    "forward and backward ones",
    *("float64", lambda values: values >= 0),
    {"attack": lambda made: (made.result.forward_passes + made.result.backward_passes).numpy()},
    blank=np.float64(0),
    again=lambda then, now, alike: (then != now) & alike.same,
)


def declare(monkeypatch: pytest.MonkeyPatch, column: Column) -> None:
    """One column more, for all that follows from declarations."""
    for module in (columns, outcomes, pieces, repeat):
        monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, column))


def run(out: Path) -> Path:
    (out / "few.toml").write_text(FEW)
    return api.evaluate("pcl_digits", out / "few.toml", options=options(out, samples=12)).folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"))


def test_declarations_are_whole() -> None:
    names = [declared.name for declared in (*COLUMNS, *FACTS)]
    assert len(set(names)) == len(names)
    assert all(declared.about for declared in (*COLUMNS, *FACTS))
    for column in columns_of("attack", 1):  # what isn't compared is proven otherwise
        assert column.again or column.name in ("index", "label", "sha256")
    assert [column.name for column in columns_of("attack", 0)] == ["index", "label"]
    assert columns_of("outliers", 5) == columns_of("diagnostics", 0) == []


def test_files_hold_what_is_declared(finished: Path) -> None:
    for kind, path in (
        ("attack", rows_file(finished)),
        ("clean", finished / "evidence" / "clean-0000.parquet"),
    ):
        rows, about, schema = unsealed(path.read_bytes())
        own = [*columns_of(kind, 12), *nearest_columns(3)]  # type: ignore[arg-type]
        declared = {column.name: column.dtype for column in own}
        assert {name: str(values.dtype) for name, values in rows.items()} == declared
        assert list(about["told"]) == ([fact.name for fact in FACTS] if kind == "attack" else [])
        assert schema == columns.SCHEMA


def test_clean_columns_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.0, 4.0, 4.5]])
    made = SimpleNamespace(
        indices=torch.tensor([7, 9]),
        labels=torch.tensor([0, 1]),
        logits=logits,
        second=torch.tensor([0, 1]),
    )
    assert {name: values.tolist() for name, values in filled("clean", made).items()} == {
        "index": [7, 9],
        "label": [0, 1],
        "prediction": [0, 2],
        "gap": [2.0, 0.5],
        "spread": [5.0, 4.5],
        "second_prediction": [0, 1],
    }


def test_facts_of_chunks_are_one() -> None:
    def told(**facts: Any) -> dict[str, Any]:
        return {"stages": [], "warned": [], "notes": [], "lost": 0, "drifted": 0, **facts}

    assert merged_facts([]) == told()
    chunks = [told(lost=2, stages=[Stage("a", 1, 3)]), told(lost=1, drifted=4, notes=["x"])]
    assert merged_facts(chunks) == told(lost=3, drifted=4, notes=["x"], stages=[Stage("a", 1, 3)])


def test_a_new_column_follows_from_its_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, NEW)
    folder = run(tmp_path)
    outcome = load_result(Local(folder)).outcomes[0]
    # FGSM takes a pass of each kind for each correct sample.
    assert outcome.rows["passes"].tolist() == (2.0 * outcome.attacked).tolist()
    assert [c for c in api.verify(folder, again=9) if not c.held] == []
    change_rows(rows_file(folder), passes=lambda values: values + 1)
    api.rebuild_report(folder)
    assert [c.name for c in api.verify(folder, again=9) if not c.held] == ["jobs done again"]
    change_rows(rows_file(folder), passes=lambda values: values - 9)
    with pytest.raises(EvidenceError, match="no proper column 'passes'"):
        load_result(Local(folder))


def test_evidence_older_than_a_column_lacks_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / finished.name))
    declare(monkeypatch, replace(NEW, since=columns.SCHEMA + 1))
    assert load_result(Local(folder)).outcomes[0].rows["passes"].tolist() == [0.0] * 12
    assert [c for c in api.verify(folder, again=9) if not c.held] == []
    declare(monkeypatch, NEW)
    with pytest.raises(EvidenceError, match="no column 'passes'"):
        load_result(Local(folder))
