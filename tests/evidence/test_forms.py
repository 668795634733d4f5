"""Evidence of a form that no job writes is refused, with all checksums made to fit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robusteval import api
from robusteval.errors import EvidenceError
from robusteval.evidence.files import Local
from robusteval.evidence.pieces import unsealed
from robusteval.evidence.results import load_result
from tests.helpers.forging import change_rows, forge, rows_file


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with scores and diagnostics."""
    folder = tmp_path_factory.mktemp("probed")
    suite = folder / "probed.toml"
    suite.write_text(
        'name = "probed"\n[[attacks]]\nname = "fgsm"\ntitle = "FGSM"\nlibrary = "torchattacks"\n'
        'attack = "FGSM"\nnorms = ["Linf"]\n[detection]\ndetectors = ["energy"]\nnatural = 0\n'
        "[diagnostics]\nsamples = 4\n"
    )
    return api.evaluate("ce_digits", suite, samples=8, out=folder, threads=1).folder


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("clean-0000", {"seconds": "5"}, "seconds"),
        ("clean-0000", {"seconds": True}, "seconds"),
        ("diagnostics", {"losses": "DLR"}, "losses than this run's"),
    ],
)
def test_what_no_job_says_of_itself(
    part: str, change: dict[str, Any], said: str, probed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(probed, tmp_path / probed.name))
    path = copy / "evidence" / f"{part}.parquet"
    _, about, _ = unsealed(path.read_bytes())
    if "losses" in change:
        del about["told"]["gradients"][change["losses"]]
        forge(path, told=about["told"])
    else:
        forge(path, **change)
    with pytest.raises(EvidenceError, match=said):
        load_result(Local(copy))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_are_finite(value: float, probed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(probed, tmp_path / probed.name))
    path = copy / "evidence" / "clean-0000.parquet"
    change_rows(path, score_energy=lambda values: np.full_like(values, value))
    with pytest.raises(EvidenceError, match="score_energy"):
        load_result(Local(copy))


def test_values_of_another_type_that_read_alike(probed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(probed, tmp_path / probed.name))
    path = rows_file(copy)
    table = pq.read_table(path)
    place = table.column_names.index("sha256")
    large = table.set_column(place, "sha256", table["sha256"].cast(pa.large_binary()))
    pq.write_table(large, path)
    with pytest.raises(EvidenceError, match="large_binary"):
        load_result(Local(copy))
