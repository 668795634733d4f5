"""Rows are held to the entry, the suite and the columns that they were made with."""

import shutil
from pathlib import Path

import pytest

from robusteval.boards import publish, revisions
from robusteval.boards.board import read_board
from robusteval.models.registry import built_in_folder
from robusteval.plan.suite import Suite, read_suite
from robusteval.report import rows
from tests.helpers.commands import cli, refused
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


@pytest.mark.parametrize("revision", ["", 2])
def test_a_claim_that_an_entry_tells_otherwise(
    revision: object, boards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is the same: the board is told of it, and nothing runs."""
    folder = boards.parent / "models"
    folder.mkdir()
    shutil.copy(file_of("pcl_digits.safetensors"), folder)
    text = file_of("pcl_digits.toml").read_text("utf-8")
    claim = (
        '[[claims]]\nattack = "pgd10"\naccuracy = 1.25\nnorm = "Linf"\neps = "0.15"\nsource = "x"\n'
    )
    raised = f"revision = {revision}\n" if revision else ""
    (folder / "pcl_digits.toml").write_text(f"{raised}{text}\n{claim}", "utf-8")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(folder))
    (check,) = publish.check(boards)
    assert not check.held
    assert "pcl_digits: its claimed is not its entry's" in check.told
    told = cli("leaderboard", "retell", "--folder", str(boards))
    assert told.stdout == f"{boards / BOARD}\n"
    (check,) = publish.check(boards)
    assert check.held
    (row,) = [r for r in read_board(boards / BOARD) if r["model"] == "pcl_digits"]
    assert (row["claimed"], row["claimed_by"]) == ("1.25", "pgd10 Linf 0.15")
    refused(cli("leaderboard", "retell", "--folder", str(folder)), "no leaderboards in")
    refused(cli("leaderboard", "retell", "--folder", str(folder / "x")), "no leaderboards in")
    again = cli("leaderboard", "retell", "--folder", str(boards))
    assert again.stdout == "each row tells what its entry claims\n"


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
