"""Verification finds what was altered; comparison pairs what belongs together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from robusteval import api
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.models.adapter import wrap_module
from robusteval.numerics import mcnemar
from tests.test_api_cli import cli, refused
from tests.test_evidence import options


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    return api.evaluate("pcl_digits", "quick", options=options(out, samples=30)).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def rows_file(folder: Path, part: str = "fgsm") -> Path:
    return sorted((folder / "evidence").glob(f"attack-*{part}*.parquet"))[0]


def images_file(folder: Path, part: str = "fgsm") -> Path:
    return sorted((folder / "evidence").glob(f"attack-*{part}*.safetensors"))[0]


def change_rows(path: Path, **columns: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrites columns of a Parquet file, leaving what it says of itself."""
    table = pq.read_table(path)
    changed = {n: table[n].to_numpy() for n in table.column_names}
    for name, change in columns.items():
        changed[name] = change(changed[name].copy())
    pq.write_table(pa.table(changed).replace_schema_metadata(table.schema.metadata), path)


def change_images(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = load_file(path)
    arrays["images"] = change(arrays["images"].copy())
    save_file(arrays, path)


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def one_pixel(images: np.ndarray) -> np.ndarray:
    images[0, 0, 0, 0] ^= 1
    return images


def first_flipped(values: np.ndarray) -> np.ndarray:
    values[0] = not values[0]
    return values


def all_true(values: np.ndarray) -> np.ndarray:
    return np.ones_like(values)


def better_number(report: dict[str, Any]) -> None:
    report["worst_case"][0]["robust_accuracy"]["value"] = 0.9


def other_seed(record: dict[str, Any]) -> None:
    record["spec"]["seed"] = 7


def other_claim(record: dict[str, Any]) -> None:
    record["entry"]["description"] = "Robust."


def swap(folder: Path) -> None:
    first, second = sorted((folder / "evidence").glob("attack-*pgd10*.parquet"))[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def clean_labels(folder: Path) -> None:
    for path in (folder / "evidence").glob("clean-*.parquet"):
        change_rows(path, label=np.roll)  # type: ignore[arg-type]


def change_pictures(folder: Path) -> None:
    path = folder / "evidence" / "examples.safetensors"
    arrays = load_file(path)
    save_file({**arrays, "adversarial": arrays["clean"]}, path)


TAMPERING: dict[str, Callable[[Path], object]] = {
    "a pixel of a stored image": lambda f: change_images(images_file(f), one_pixel),
    "an image far outside the ball": lambda f: change_images(
        images_file(f), lambda i: np.full_like(i, 65535)
    ),
    "a stored image deleted": lambda f: images_file(f).unlink(),
    "a success more": lambda f: change_rows(rows_file(f), fooled=first_flipped),
    "a success less, and its row made to agree": lambda f: change_rows(
        rows_file(f),
        fooled=np.zeros_like,
        prediction=lambda p: pq.read_table(rows_file(f))["label"].to_numpy(),
        margin=lambda m: -np.abs(m),
        survives_8_bit=np.zeros_like,
    ),
    "a digest of another image": lambda f: change_rows(rows_file(f), sha256=lambda s: s[::-1]),
    "a smaller norm": lambda f: change_rows(rows_file(f), norm=lambda n: n / 2),
    "survival of 8 bits": lambda f: change_rows(rows_file(f), survives_8_bit=all_true),
    "labels": lambda f: change_rows(
        sorted((f / "evidence").glob("clean-*.parquet"))[0], label=lambda v: np.roll(v, 1)
    ),
    "clean predictions": lambda f: change_rows(
        sorted((f / "evidence").glob("clean-*.parquet"))[0],
        prediction=lambda p: (p + 1) % 10,
    ),
    "two chunks' files swapped": swap,
    "a truncated file": lambda f: rows_file(f).write_bytes(rows_file(f).read_bytes()[:-20]),
    "a job's file deleted": lambda f: rows_file(f).unlink(),
    "the spec": lambda f: change_json(f / "run.json", other_seed),
    "what the model is": lambda f: change_json(f / "run.json", other_claim),
    "a number of the report": lambda f: change_json(f / "report.json", better_number),
    "the page": lambda f: (f / "report.html").write_text(
        (f / "report.html").read_text().replace("worst case", "best case")
    ),
    "the leaderboard row": lambda f: (f / "row.csv").write_text(
        (f / "row.csv").read_text().replace("quick", "full")
    ),
    "a picture": change_pictures,
    "a file that belongs to no job": lambda f: shutil.copy(
        rows_file(f), f / "evidence" / "attack-99-mine-0000.parquet"
    ),
}


def test_an_honest_run_holds(finished: Path) -> None:
    checks = api.verify(finished, again=3)
    assert [c.name for c in checks if not c.held] == []
    assert len(checks) >= 13
    told = {c.name: c.told for c in checks}
    assert "the same to the bit" in told["jobs done again"]
    result = cli("verify", str(finished))
    assert result.exit_code == 0
    assert "DOES NOT" not in result.stdout
    assert json.loads(cli("verify", str(finished), "--json").stdout)[0]["held"] is True


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_found(kind: str, copied: Path) -> None:
    TAMPERING[kind](copied)
    result = cli("verify", str(copied))
    assert result.exit_code == 1, f"{kind}: {result.stdout}"
    assert "DOES NOT HOLD" in result.stdout
    assert result.stderr.startswith("robusteval: does not hold: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["a success more", "a smaller norm", "survival of 8 bits"])
def test_a_report_made_anew_does_not_hide_it(kind: str, copied: Path) -> None:
    """Altered evidence and a report to match: the model tells."""
    TAMPERING[kind](copied)
    api.rebuild_report(copied)
    assert not all(check.held for check in api.verify(copied))


def test_hidden_successes_are_found_by_doing_jobs_again(copied: Path) -> None:
    """A forger who drops successes, images and all, is consistent; the attack itself is not."""
    for path in (copied / "evidence").glob("attack-*"):
        if path.suffix == ".safetensors":
            path.unlink()
            continue
        table = pq.read_table(path)
        label = table["label"].to_numpy()
        change_rows(
            path,
            fooled=np.zeros_like,
            survives_8_bit=np.zeros_like,
            prediction=lambda p, label=label: label,
            margin=lambda m: -np.abs(m),
        )
    (copied / "evidence" / "examples.safetensors").unlink()
    api.rebuild_report(copied)
    plain = {c.name: c.held for c in api.verify(copied)}
    assert plain["rows agree with themselves"]
    again = {c.name: c.held for c in api.verify(copied, again=100)}
    assert not again["jobs done again"]


def test_a_report_by_another_version_is_compared_number_for_number(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages may be worded otherwise, its numbers may not."""
    (copied / "report.html").write_text("as an older version had it")
    monkeypatch.setattr(api, "__version__", "9.9")
    told = {c.name: c for c in api.verify(copied)}["report files"]
    assert told.held
    assert "9.9" in told.told
    change_json(copied / "report.json", better_number)
    told = {c.name: c for c in api.verify(copied)}["report files"]
    assert not told.held
    assert "worst_case" in told.told


def test_another_model_or_data_is_refused(copied: Path, tmp_path: Path) -> None:
    refused(cli("verify", str(copied), "--model", "ce_digits"), "not the model", "--model")
    refused(cli("verify", str(copied), "--model", "nonsense"), "unknown model")


def test_a_model_from_python_is_verified_from_python(tmp_path: Path, ce_digits: Any) -> None:
    adapter = wrap_module(ce_digits.module, classes=10)
    report = api.evaluate(
        adapter, "quick", dataset="digits", name="mine", options=options(tmp_path, samples=20)
    )
    assert all(c.held for c in api.verify(report.folder, model=adapter))
    with pytest.raises(RobustevalError, match="from Python"):
        api.verify(report.folder)


# Comparison


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (0, 6, 2 / 64), (3, 0, 0.25)]
)
def test_mcnemar_is_the_exact_binomial(b: int, c: int, p: float) -> None:
    """Twice the tail of a fair coin, summed by hand."""
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == pytest.approx(p)


def test_runs_are_compared_in_pairs(finished: Path, tmp_path: Path) -> None:
    other = api.evaluate("pcl_at_digits", "quick", options=options(tmp_path, samples=30)).folder
    found = api.compare([finished, other])
    (pair,) = found["pairs"]
    rows = {(r["attack"], r["threat"]["norm"] if r["threat"] else None): r for r in pair["rows"]}
    row = rows["PGD-10", "Linf"]
    assert row["second"]["value"] > row["first"]["value"] + 0.3
    assert row["p"] < 0.01
    assert row["difference"] == pytest.approx(row["second"]["value"] - row["first"]["value"])
    gained = len(row["only_second"]) - len(row["only_first"])
    assert gained == row["second"]["k"] - row["first"]["k"]
    assert rows["clean", None]["threat"] is None
    assert ("worst case", "L2") in rows
    result = cli("compare", str(finished), str(other))
    assert result.exit_code == 0
    assert "PGD-10" in result.stdout
    assert json.loads(cli("compare", str(finished), str(other), "--json").stdout) == found


def test_runs_on_other_samples_or_threats_are_refused(finished: Path, tmp_path: Path) -> None:
    fewer = api.evaluate("pcl_digits", "quick", options=options(tmp_path, samples=20)).folder
    refused(cli("compare", str(finished), str(fewer)), "30 samples", "20", "--samples")
    wider = options(tmp_path, samples=30, eps=("0.2",))
    other = api.evaluate("pcl_digits", "quick", options=wider).folder
    refused(cli("compare", str(finished), str(other)), "Linf 0.2", "--eps")
    refused(cli("compare", str(finished)), "two runs")
    with pytest.raises(EvidenceError, match="is no run"):
        api.compare([finished, tmp_path])
