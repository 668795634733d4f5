"""A run as a table of its samples: every number of the report follows from it, and no place or
person is in it."""

import getpass
import json
import os
import platform
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import robusteval
from benchmarks.blocks import FGSM, PGD_L2_3
from robusteval import api
from robusteval.errors import EvidenceError, OutputError, UnknownNameError
from robusteval.evidence.columns import COLUMNS
from robusteval.evidence.pieces import unsealed
from robusteval.report.samples import columns
from tests.helpers.commands import cli, refused
from tests.helpers.forging import rows_file
from tests.helpers.models import file_of
from tests.helpers.runs import options

OLDER = Path(__file__).parents[1] / "evidence" / "older" / "schema_2"
SAMPLES = 16
SECRET = "Elpenors_own"  # a folder that no one else is to hear of
SUITE = (
    """
name = "few"
"""
    + FGSM
    + PGD_L2_3
    + """
[[attacks]]
name = "deepfool"
title = "DeepFool"
library = "torchattacks"
attack = "DeepFool"
norms = ["L2"]
parameters = { steps = 3 }
[detection]
detectors = ["max_logit", "energy"]
natural = 0
attacks = ["fgsm"]
"""
)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data and outliers of one's own."""
    folder = tmp_path_factory.mktemp("home") / SECRET
    for name in ("data", "photos"):
        (folder / name).mkdir(parents=True)
    for suffix in ("toml", "safetensors"):
        shutil.copy(file_of(f"pcl_digits.{suffix}"), folder)
    for number in range(12):
        grey = np.full((8, 8), 20 * number, np.uint8)
        Image.fromarray(grey).save(folder / "photos" / f"{number}.png")
    (folder / "suite.toml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def report(secret: Path) -> api.Report:
    """Under four threat models, two of them DeepFool's, which knows no ε."""
    asked = options(
        secret / "runs",
        samples=SAMPLES,
        eps=("0.1", "0.15", "L2:0.3", "L2:0.6"),
        data_dir=secret / "data",
        outlier_folders=(secret / "photos",),
    )
    return api.evaluate(secret / "pcl_digits.toml", secret / "suite.toml", options=asked)


@pytest.fixture(scope="module")
def frame(report: api.Report) -> pd.DataFrame:
    return report.samples


def test_every_number_of_the_report_follows(report: api.Report, frame: pd.DataFrame) -> None:
    assert len(frame) == SAMPLES * 6
    of_attack = frame.groupby(["attack", "norm", "eps"])
    for _, row in report.attacks.iterrows():
        part = of_attack.get_group((row["name"], row.norm, row.eps))
        assert (part.robust.sum(), len(part)) == (row.robust, row.samples)
        assert (part.success.sum(), part.success.count()) == (row.broken, row.correct)
        assert part.forward_passes.sum() == pytest.approx(row.forward_passes, abs=1)
        assert (part.success & part.survives_8_bit).sum() == row.survive_8_bit
    for _, row in report.worst_case.iterrows():
        part = frame[(frame.norm == row.norm) & (frame.eps == row.eps)]
        assert part.groupby("sample").robust.min().sum() == row.robust
    clean = frame.drop_duplicates("sample")
    accuracy = report.content["clean"]["accuracy"]
    assert (clean.label == clean.clean_prediction).sum() == accuracy["k"]


def test_rows_are_what_the_evidence_holds(report: api.Report, frame: pd.DataFrame) -> None:
    part = frame[(frame.attack == "fgsm") & (frame.eps == "0.15") & frame.success.notna()]
    kept, _, _ = unsealed(rows_file(report.folder, "fgsm_Linf_0.15").read_bytes())
    part = part.iloc[: len(kept["label"])]
    assert part["sample"].to_list() == kept["index"].tolist()
    assert part.adversarial_prediction.to_list() == kept["prediction"].tolist()
    assert part.distance.to_list() == kept["norm"].tolist()
    assert part.sha256.to_list() == [digest.hex() for digest in kept["sha256"]]
    assert part.adversarial_score_energy.to_list() == kept["score_energy"].tolist()
    others = frame[frame.attack == "pgd_l2"]
    assert others.adversarial_score_energy.isna().all()
    assert others.clean_score_energy.notna().all()


def test_one_image_counts_in_each_ball_that_it_lies_in(frame: pd.DataFrame) -> None:
    near, far = (frame[(frame.attack == "deepfool") & (frame.eps == e)] for e in ("0.3", "0.6"))
    assert near.sha256.to_list() == far.sha256.to_list()
    for part, radius in ((near, 0.3), (far, 0.6)):
        inside = part.fooled & (part.distance <= radius + 1e-6)
        assert part.success.equals(inside.where(part.success.notna()))
    assert near.success.sum() < far.success.sum()


def test_wrong_samples_are_neither_attacked_nor_robust(frame: pd.DataFrame) -> None:
    wrong = frame[frame.label != frame.clean_prediction]
    assert len(wrong) == 0 or not wrong.robust.any()
    assert wrong.success.isna().all()
    assert wrong.distance.isna().all()


def test_what_failed_is_missing_and_not_robust(tmp_path: Path) -> None:
    """A run of an earlier version, in which DeepFool failed."""
    run = Path(shutil.copytree(OLDER, tmp_path / "older"))
    found = pd.read_parquet(robusteval.export(run))
    failed, done = (found[found.attack == name] for name in ("deepfool", "adaptive"))
    assert set(failed.status) == {"failed"}
    right = failed.label == failed.clean_prediction
    assert right.any()
    assert failed.robust[right].isna().all()
    assert failed.success.isna().all()
    assert done.robust.notna().all()


def test_a_run_without_attacks_has_a_row_a_sample(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text('name = "none"\n[detection]\ndetectors = ["energy"]\n')
    asked = options(tmp_path, samples=6)
    found = api.evaluate("pcl_digits", tmp_path / "none.toml", options=asked).samples
    assert len(found) == 6
    assert found.attack.isna().all()
    assert found.clean_score_energy.notna().all()


# Forms


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_what_is_written_is_the_frame(form: str, report: api.Report, frame: pd.DataFrame) -> None:
    path = robusteval.export(report.folder, form)  # type: ignore[arg-type]
    assert path == Path(f"{report.folder.name}.{form}")
    if form == "parquet":
        found = pd.read_parquet(path)
        told = json.loads(pq.read_schema(path).metadata[b"robusteval"])
    else:
        told = json.loads(path.read_text("utf-8"))
        found = pd.DataFrame(told.pop("rows"))
    pd.testing.assert_frame_equal(found.astype(frame.dtypes), frame, rtol=1e-15)
    assert list(told["columns"]) == list(frame.columns)
    assert (told["schema"], told["samples"], told["dataset"]) == (
        *("robusteval.samples/1", SAMPLES),
        "digits",
    )
    again = robusteval.export(report.folder, form, "again")  # type: ignore[arg-type]
    assert again.read_bytes() == path.read_bytes()


def test_columns_are_told_once(frame: pd.DataFrame) -> None:
    told = cli("export", "--columns")
    assert told.exit_code == 0
    lines = {line.split()[0]: line for line in told.stdout.splitlines()}
    assert list(lines) == [column.name for column in columns()]
    assert set(columns(["max_logit", "energy"])) >= set(columns([]))
    assert [c.name for c in columns(["max_logit", "energy"])] == list(frame.columns)
    of_samples = [c for c in COLUMNS if {*c.fill} != {"pursuit"}]
    for column in of_samples:  # all evidence of them is in it, in its own words
        assert any(column.about in line for line in lines.values())
    assert all(column.about for column in columns())


# No names of people, machines and places


def needles(folder: Path) -> list[str]:
    names = [SECRET, str(folder), str(Path.home()), socket.gethostname(), platform.node()]
    names += [getpass.getuser(), os.path.realpath(os.curdir), str(Path(robusteval.__file__).parent)]
    record = json.loads((folder / "run.json").read_text("utf-8"))
    return [*names, record["provenance"]["hardware"], *record["provenance"]["versions"].values()]


def texts(value: Any) -> list[str]:
    """Every text in plain data, names too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for text in texts(pair)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


def test_no_place_and_no_person_is_in_it(report: api.Report) -> None:
    run = json.dumps(json.loads((report.folder / "run.json").read_text("utf-8")))
    assert run.count(SECRET) >= 2  # the record knows the entry's and the outliers' paths
    told = Path(robusteval.export(report.folder, "json")).read_text("utf-8")
    path = robusteval.export(report.folder, "parquet")
    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    metadata.pop("pandas")  # names the kinds of columns, and pandas' version
    file = pq.ParquetFile(path).metadata
    seen = [*texts(metadata), *texts(table.to_pylist()), file.created_by, str(file), told]
    seen += [str(field.metadata) for field in table.schema]
    assert any(report.content["evidence"]["digest"] in text for text in seen)
    for needle in needles(report.folder):
        assert not any(re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", text) for text in seen)
    every = table.schema.metadata[b"pandas"].decode()
    assert not any(part in every for part in (SECRET, "/", "\\", socket.gethostname()))
    assert SECRET.encode() not in path.read_bytes()


# Nothing is lost, and nothing raises


def test_nothing_is_overwritten_unsaid(report: api.Report, tmp_path: Path) -> None:
    run, target = str(report.folder), tmp_path / "mine.json"
    target.write_text("mine")
    refused(cli("export", run, "--as", "json", "--to", str(target)), "mine.json", "--overwrite")
    with pytest.raises(OutputError, match="is there already"):
        api.export(run, "parquet", target)
    assert target.read_text() == "mine"
    result = cli("export", run, "--as", "json", "--to", str(target), "--overwrite")
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert json.loads(target.read_text("utf-8"))["rows"]
    (tmp_path / "folder").mkdir()
    result = cli("export", run, "--to", str(tmp_path / "folder"))
    assert result.stdout == f"{tmp_path}/folder/{report.folder.name}.parquet\n"
    leftover = [p.name for p in tmp_path.iterdir() if p.name not in ("mine.json", "folder")]
    assert leftover == []


def test_json_is_printed(report: api.Report) -> None:
    result = cli("export", str(report.folder), "--as", "json", "--to", "-")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["rows"]) == SAMPLES * 6
    refused(cli("export", str(report.folder), "--to", "-"), "only JSON is printed")


def test_what_can_not_be_exported_is_told(report: api.Report, tmp_path: Path) -> None:
    run = str(report.folder)
    refused(cli("export", run, "--as", "csv"), "'csv'", "archive, json, parquet")
    refused(cli("export"), "run")
    refused(cli("export", str(tmp_path)), "is not a run")
    refused(cli("export", run, "--to", str(tmp_path / "no" / "x")), "can't be written", "--to")
    with pytest.raises(UnknownNameError):
        api.export(run, "xml")  # type: ignore[arg-type]
    with pytest.raises(EvidenceError, match="run 3: give a path"):
        api.export(3)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="give its name or its path"):
        api.export(run, "json", 3)  # type: ignore[arg-type]
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    rows_file(copy).write_bytes(b"PAR1")
    refused(cli("export", str(copy)), "is corrupt")
    with pytest.raises(EvidenceError, match="is corrupt"):
        _ = api.Report({}, copy).samples
