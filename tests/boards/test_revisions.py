"""Rows are held to the entry, the suite and the columns that they were made with."""

import shutil
from pathlib import Path

import pytest

from robusteval.boards import publish, revisions
from robusteval.models.registry import built_in_folder
from robusteval.plan.suite import Suite, read_suite
from robusteval.report import rows
from tests.helpers.models import file_of

BOARD = "digits_Linf_0.15.csv"


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """One published board."""
    (tmp_path / "boards").mkdir()
    shutil.copy(built_in_folder().parent / "leaderboards" / BOARD, tmp_path / "boards")
    return tmp_path / "boards"


@pytest.mark.parametrize(
    ("revision", "held", "said"), [("", False, "have changed"), (2, True, "1 of them of an earl")]
)
def test_a_changed_entry(
    revision: object, held: bool, said: str, boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = boards.parent / "models"
    folder.mkdir()
    shutil.copy(file_of("ce_digits.safetensors"), folder)
    text = file_of("ce_digits.toml").read_text("utf-8").replace("mean = [0.305]", "mean = [0.3]")
    raised = f"revision = {revision}\n" if revision else ""
    (folder / "ce_digits.toml").write_text(raised + text, "utf-8")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(folder))
    (check,) = publish.check(boards)
    assert check.held == held
    assert said in check.told


@pytest.mark.parametrize(
    ("revision", "held", "said"), [(1, False, "lacks more"), (2, True, "35 of them under an earl")]
)
def test_a_suite_with_another_attack(
    revision: int, held: bool, said: str, boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str) -> Suite:
        suite = read_suite(name)
        if name != "full":
            return suite
        more = suite.attacks[0].model_copy(update={"name": "more"})
        attacks = [*suite.attacks, more]
        return suite.model_copy(update={"attacks": attacks, "revision": revision})

    monkeypatch.setattr(revisions, "read_suite", changed)
    (check,) = publish.check(boards)
    assert check.held == held
    assert said in check.told


def test_columns_of_a_later_revision(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows from before revisions were counted are of the first."""
    (row, *_) = rows.read_rows(boards / BOARD, ("rank",), ("board_sha256",))
    assert rows.revisions(row) == {}
    assert rows.attack_versions(row)["pgd10"] == 1
    (check,) = publish.check(boards)
    assert check.held
    assert "35 of them with earlier columns" in check.told
    monkeypatch.setattr(revisions, "COLUMNS", 1)
    (check,) = publish.check(boards)
    assert "columns" not in check.told


def test_a_row_names_them() -> None:
    row = {"revisions": "columns=2 entry=3 suite=1 attack_pgd10=4 attack_entry=5", "versions": ""}
    assert rows.revisions(row)["entry"] == 3
    assert rows.attack_versions(row) == {"pgd10": 4, "entry": 5}
