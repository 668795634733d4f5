"""Runs of earlier versions: the same numbers, and held to as much.

``older/schema_2`` was made by the version before attacks told records: ``adaptive`` and DeepFool,
which failed, on four digits of a model whose logits are rounded.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robusteval import api
from robusteval.attacks.results import said
from robusteval.errors import EvidenceError
from robusteval.evidence.columns import COLUMNS, SCHEMA, nearest_columns
from robusteval.evidence.files import Local
from robusteval.evidence.older import OLDEST
from robusteval.evidence.pieces import attack_facts, json_bytes, sealed, unsealed
from robusteval.evidence.results import load_result
from robusteval.evidence.telling import stage_text
from tests.helpers.forging import change_told, rows_file
from tests.helpers.runs import FEW, options

KEPT = Path(__file__).parent / "older" / "schema_2"
# What that version's report said of it.
DIGEST = "e7108ae0ddbde66536a13e28c581d00dc7c4707a6c57632951e8135afc05907f"
FINDINGS = [
    "margin broke 0 of 4",
    "aim broke 0 of 4",
    "square broke 0 of 4",
    "more steps broke 0 of 4",
    "more search broke 3 of 4",
    "AutoAttack's apgd-ce broke 0 of 1",
    "AutoAttack's apgd-t broke 0 of 1",
    "AutoAttack's fab-t broke 0 of 1",
    "AutoAttack's square broke 1 of 1",
    "AutoAttack broke 1 of 1",
    "adaptive: 100 % of samples have no gradient; went on with more steps, more search "
    "(in 1 of 2 chunks)",
    "adaptive: 100 % of samples have no gradient; went on with more steps, more search, AutoAttack "
    "(in 1 of 2 chunks)",
    "there are 1 points with zero gradient! This might lead to unreliable evaluation with "
    "gradient-based attacks. See flags_doc.md for details. (in 1 of 2 chunks)",
]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


def test_a_run_of_schema_2_gives_its_numbers(kept: Path) -> None:
    row = (kept / "row.csv").read_bytes()
    report = api.rebuild_report(kept).content
    adaptive, deepfool = report["attacks"]
    assert adaptive["findings"] == FINDINGS
    assert deepfool["reason"] == "returned NaN or infinite pixels in 2 of 2 images"
    assert report["evidence"]["digest"] == DIGEST
    assert (kept / "row.csv").read_bytes() == row
    assert load_result(Local(kept)).outcomes[1].failure == "error"


def as_old(record: Any) -> Any:
    model = {key: value for key, value in record["model"].items() if key != "prototype_layers"}
    return {**record, "schema": f"robusteval.run/{OLDEST}", "model": model}


def as_schema_2(folder: Path) -> None:
    """A finished run's evidence as that version would have written it."""
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_bytes(json_bytes(as_old(record)))
    for path in (folder / "evidence").glob("*.parquet"):
        columns, about, schema = unsealed(path.read_bytes())
        assert schema == SCHEMA
        if path.name.startswith("attack-"):
            told = attack_facts(about["told"])
            about["told"] = {
                "notes": [*told["notes"], *map(stage_text, told["stages"])],
                "warnings": [said(warned) for warned in told["warned"]],
                "lost": told["lost"],
                "drifted": told["drifted"],
            }
        known = [*COLUMNS, *nearest_columns(9)]
        younger = {column.name for column in known if column.since > OLDEST}
        had = {name: values for name, values in columns.items() if name not in younger}
        path.write_bytes(sealed(had, about, OLDEST))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    (out / "few.toml").write_text(FEW)
    return api.evaluate("pcl_digits", out / "few.toml", options=options(out, samples=12)).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture
def old(copied: Path) -> Path:
    as_schema_2(copied)
    return copied


def test_old_evidence_holds(old: Path) -> None:
    api.rebuild_report(old)
    assert [c for c in api.verify(old, again=100) if not c.held] == []


def test_an_old_run_may_have_gone_on(copied: Path, tmp_path: Path) -> None:
    """Its record is that version's; what was done since is today's."""
    path = copied / "run.json"
    path.write_bytes(json_bytes(as_old(json.loads(path.read_text()))))
    assert load_result(Local(copied)).complete


def test_evidence_older_than_its_run_is_refused(old: Path, finished: Path) -> None:
    """Else whoever hides what today's evidence has to tell would say that it is old."""
    shutil.copy(finished / "run.json", old / "run.json")
    with pytest.raises(EvidenceError, match=f"it has schema {OLDEST}, its run {SCHEMA}"):
        load_result(Local(old))
    first, *rest = api.verify(old)
    assert not first.held
    assert rest == []


def resealed(path: Path, **columns: Callable[[Any], Any]) -> None:
    """Columns changed, in a file that is as old as it was."""
    rows, about, schema = unsealed(path.read_bytes())
    changed = {**rows, **{name: change(rows[name].copy()) for name, change in columns.items()}}
    path.write_bytes(sealed(changed, about, schema))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prediction", lambda p: (p + 1) % 10),
        ("fooled", lambda f: ~f),
        ("norm", lambda n: n + 1),
        ("margin", lambda m: -m),
        ("survives_8_bit", lambda s: ~s),
        ("sha256", lambda d: d[::-1]),
        ("forward_passes", lambda p: p / 10),
        ("backward_passes", lambda p: p + 1),
    ],
)
def test_old_columns_are_still_checked(old: Path, name: str, change: Callable[[Any], Any]) -> None:
    resealed(rows_file(old), **{name: change})
    wrong = [c.name for c in api.verify(old, again=100) if not c.held]
    assert set(wrong) - {"report files"}


@pytest.mark.parametrize(
    "changed",
    [
        {"notes": ["square broke 9 of 9"]},
        {"warnings": ["adaptive: outputs change between passes"]},
        {"lost": 3},
        {"drifted": 1},
    ],
)
def test_old_facts_are_still_checked(old: Path, changed: dict[str, Any]) -> None:
    path = rows_file(old)
    columns, about, schema = unsealed(path.read_bytes())
    path.write_bytes(sealed(columns, {**about, "told": {**about["told"], **changed}}, schema))
    wrong = [c.name for c in api.verify(old, again=100) if not c.held]
    assert "jobs done again" in wrong


def test_old_facts_of_another_form_are_refused(old: Path) -> None:
    path = rows_file(old)
    columns, about, schema = unsealed(path.read_bytes())
    for told in ({**about["told"], "reviewed": 1}, {"notes": []}, {**about["told"], "lost": -1}):
        path.write_bytes(sealed(columns, {**about, "told": told}, schema))
        with pytest.raises(EvidenceError, match="is no such job's"):
            load_result(Local(old))


def test_todays_facts_are_whole(copied: Path) -> None:
    """What could be left out would be read as something that nobody told."""
    change_told(rows_file(copied), lambda told: told["warned"].append({"kind": "searched"}))
    with pytest.raises(EvidenceError, match="leaves something out"):
        load_result(Local(copied))
