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
import tomlkit
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from robusteval import api
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evidence.pieces import unsealed
from robusteval.models.adapter import wrap_module
from robusteval.numerics import mcnemar
from robusteval.plan.context import Context
from robusteval.plan.suite import read_suite
from robusteval.trust.described import _same
from tests.helpers.commands import cli, refused
from tests.helpers.forging import change_rows, change_told, forge, images_file, rows_file
from tests.helpers.runs import options, plain_suite_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    return api.evaluate("pcl_digits", "quick", options=options(out, samples=24)).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def change_images(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = load_file(path)
    arrays["images"] = change(arrays["images"].copy())
    save_file(arrays, path, {"job": path.stem})


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


def made_right(folder: Path) -> None:
    """Wrong clean predictions made right, as if they were near-ties, and attacks that they hold."""
    for path in sorted((folder / "evidence").glob("clean-*.parquet")):
        table = pq.read_table(path)
        label, prediction = (table[c].to_numpy() for c in ("label", "prediction"))
        change_rows(path, prediction=lambda p, y=label: y, gap=np.zeros_like)
        if (wrong := np.flatnonzero(label != prediction)).size:
            _attacked_in_vain(folder, path.stem.removeprefix("clean-"), table, wrong)


def _attacked_in_vain(folder: Path, chunk: str, clean: pa.Table, wrong: np.ndarray) -> None:
    for path in (folder / "evidence").glob(f"attack-*-{chunk}.parquet"):
        table = pq.read_table(path)
        columns = {n: table[n].to_numpy().copy() for n in table.column_names}
        for row in wrong:
            index = clean["index"][int(row)].as_py()
            place = int(np.searchsorted(columns["index"], index))
            for name, values in columns.items():
                columns[name] = np.insert(values, place, values[0], axis=0)
            columns["index"][place] = index
            columns["label"][place] = columns["prediction"][place] = clean["label"][
                int(row)
            ].as_py()
            columns["fooled"][place] = columns["survives_8_bit"][place] = False
            columns["margin"][place] = -1.0
        forge(path, columns)


def other_scores(folder: Path) -> None:
    for path in (folder / "evidence").glob("outliers-*.parquet"):
        change_rows(path, score_max_logit=lambda s: s - 1000)


def each_clean(folder: Path, **columns: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (folder / "evidence").glob("clean-*.parquet"):
        change_rows(path, **columns)


def more_images(held: dict[str, Any]) -> None:
    held.update(images=held["images"] + 10, held=held["held"] + 10)


def more_ties(held: dict[str, Any]) -> None:
    held.update(held=0, near_ties=held["held"] + held["near_ties"])


def another_wrong_class(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    label = unsealed(path.read_bytes())[0]["label"]

    def change(prediction: np.ndarray) -> np.ndarray:
        other = (prediction + 1) % 10
        other = np.where(other == label, (other + 1) % 10, other)
        return np.where(prediction == label, prediction, other)

    return change


def other_version(record: dict[str, Any]) -> None:
    record["provenance"]["versions"]["attacks"] = "00000000"


def never_trained(record: dict[str, Any]) -> None:
    del record["entry"]["trained"]


def other_steps(record: dict[str, Any]) -> None:
    for about in record["attacks"].values():
        about["parameters"]["steps"] = 1000


# With evidence altered and a report to match: the check that tells, by the model and the data.
TOLD_BY = {
    "a success more": "rows agree with themselves",
    "a smaller norm": "ε and [0, 1], in float64",
    "survival of 8 bits": "rows agree with themselves",
    "a digest of another image": "SHA-256 of the counted images",
    "a pixel of a stored image": "SHA-256 of the counted images",
    "an image far outside the ball": "ε and [0, 1], in float64",
    "a stored image deleted": "each proof is there",
    "a picture": "pictures of the report",
    "a file that belongs to no job": "evidence can be read",
    "what the model is": "the model's entry",
}
FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    **{kind: (TAMPERING[kind], check) for kind, check in TOLD_BY.items()},
    "clean gaps that make near-ties of predictions": (
        lambda f: each_clean(f, gap=np.zeros_like),
        "clean predictions",
    ),
    "steadier clean predictions": (
        lambda f: each_clean(f, second_prediction=lambda p: (p + 1) % 10),
        "clean predictions",
    ),
    "detectors that do better": (other_scores, "detectors' scores"),
    "a table left out": (lambda f: change_json(f / "run.json", never_trained), "the model's entry"),
    "attacks said to be stronger": (
        lambda f: change_json(f / "run.json", other_steps),
        "what the report describes",
    ),
    "images said to hold": (
        lambda f: change_json(f / "evidence" / "verification.json", more_images),
        "float32, batch size 48",
    ),
    "images said to be near-ties": (
        lambda f: change_json(f / "evidence" / "verification.json", more_ties),
        "float32, batch size 48",
    ),
    "no word on whether images hold": (
        lambda f: (f / "evidence" / "verification.json").unlink(),
        "float32, batch size 48",
    ),
    "surer successes": (
        lambda f: change_rows(rows_file(f), margin=lambda m: np.where(m > 0, m + 1, m)),
        "classes and margins of stored images",
    ),
    "successes of another class": (
        lambda f: change_rows(rows_file(f), prediction=another_wrong_class(rows_file(f))),
        "classes and margins of stored images",
    ),
    "logits further apart": (
        lambda f: each_clean(f, spread=lambda s: 100 * s),
        "clean predictions",
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_report_made_anew_does_not_hide_it(kind: str, copied: Path) -> None:
    alter, check = FORGED[kind]
    alter(copied)
    api.rebuild_report(copied)
    told = {c.name: c.held for c in api.verify(copied)}
    assert told[check] is False
    assert told.get("report files", True)


def without_backward_passes(folder: Path) -> None:
    change_rows(rows_file(folder), backward_passes=lambda b: -b - 1)


def invented_detector(folder: Path) -> None:
    """That tells attacks from clean images always."""
    for path in (folder / "evidence").glob("*.parquet"):
        columns, _, _ = unsealed(path.read_bytes())
        if columns:
            score = 0.0 if path.name.startswith("clean") else -1.0
            rows = len(next(iter(columns.values())))
            forge(path, {**columns, "score_magic": np.full(rows, score)})


def in_record(*place: str, value: Any) -> Callable[[Path], None]:
    """Sets one leaf of run.json, known or not."""

    def change(folder: Path) -> None:
        def at_place(record: Any) -> None:
            for name in place[:-1]:
                record = record[name]
            record[place[-1]] = value

        change_json(folder / "run.json", at_place)

    return change


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "negative backward passes": (without_backward_passes, "backward_passes"),
    "an invented detector": (invented_detector, "score_magic"),
    "attacks of a newer version": (
        lambda f: change_json(f / "run.json", other_version),
        "provenance.versions",
    ),
    "more threads": (in_record("provenance", "threads", value=64), "provenance.threads"),
    "a better device": (in_record("provenance", "device", value="cuda"), "provenance.device"),
    "a certificate": (in_record("provenance", "certified", value="by NIST"), "certified"),
    "a version of nothing": (
        in_record("provenance", "versions", "certified", value="by-NIST"),
        "provenance.versions",
    ),
    "a page in the place of a machine": (
        in_record("provenance", "hardware", value="a\n# Verified"),
        "provenance.hardware",
    ),
    "more drift than there are samples": (
        lambda f: change_told(rows_file(f), lambda told: told.update(drifted=10**9)),
        "drifted",
    ),
    "more lost successes than there are restarts": (
        lambda f: change_told(rows_file(f), lambda told: told.update(lost=10**400)),
        "successes on",
    ),
    "a stage of more samples than the chunk has": (
        lambda f: change_told(
            rows_file(f), lambda told: told["stages"].append({"name": "x", "broke": 0, "of": 10**9})
        ),
        "a stage was given",
    ),
    "more draws of noise than are made": (
        lambda f: change_told(
            f / "evidence" / "diagnostics.parquet", lambda told: told["noise"].update(draws=10**6)
        ),
        "other samples",
    ),
    "a key beside the others": (in_record("verified", value=True), "verified"),
    "a line more on an attack": (
        lambda f: change_told(rows_file(f), lambda told: told.update(verified="by NIST")),
        "verified",
    ),
    "more diagnostics": (
        lambda f: change_told(
            f / "evidence" / "diagnostics.parquet", lambda told: told.update(magic=1)
        ),
        "magic",
    ),
    "diagnostics of no samples": (
        lambda f: change_told(
            f / "evidence" / "diagnostics.parquet", lambda told: told.update(samples=0)
        ),
        "samples",
    ),
    "diagnostics of more samples": (
        lambda f: change_told(
            f / "evidence" / "diagnostics.parquet",
            lambda told: told["noise"].update(broken=10**6),
        ),
        "other samples",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_run_writes_is_refused(kind: str, copied: Path) -> None:
    """By ``report`` as by ``verify``: no page ever shows it."""
    alter, place = REFUSED[kind]
    alter(copied)
    refused(cli("report", str(copied)), "corrupt", place)
    result = cli("verify", str(copied))
    assert result.exit_code in (1, 2)
    assert place in " ".join((result.stdout + result.stderr).split())


def test_a_flipped_bit_is_never_read_as_other_content(finished: Path) -> None:
    """Anywhere in a file: either it says what was written, or it is refused."""
    rng, told = np.random.default_rng(0), 0
    for path in (rows_file(finished), finished / "evidence" / "diagnostics.parquet"):
        content = path.read_bytes()
        columns, about, schema = unsealed(content)
        for place in rng.integers(8 * len(content), size=400):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << (place % 8)
            try:
                now, said, claimed = unsealed(bytes(flipped))
            except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
                told += 1
                continue
            assert (said, claimed) == (about, schema)
            assert now.keys() == columns.keys()
            assert all(np.array_equal(now[name], columns[name]) for name in columns)
    assert told > 400


def test_what_only_repeating_shows_is_said_to_be_the_runs_word(finished: Path) -> None:
    """Failures, passes and diagnostics where jobs aren't done again; the machine always."""
    named = {c.name: c for c in api.verify(finished)}
    assert {name for name, check in named.items() if not check.proven} == {
        "what was not done again",
        "commit, versions, hardware, date, seconds",
    }
    told = named["what was not done again"].told
    assert "failed to break" in told
    assert "the diagnostics" in told
    assert "--again 12" in told
    assert named["suite"].told == "the project's quick"
    every = {c.name: c.proven for c in api.verify(finished, again=100)}
    assert "what was not done again" not in every
    out = cli("verify", str(finished)).stdout
    assert "as the run says" in out


def test_a_finished_run_tells_its_evidence_and_mends_its_report(copied: Path) -> None:
    """Whatever became of report.json: an edited number, any damage, a folder in its place."""
    honest = (copied / "report.json").read_bytes()
    chosen = options(copied.parent, samples=24)
    edited = json.loads(honest)
    better_number(edited)
    damages = [json.dumps(edited).encode(), b"[]", honest[:999], b"[" * 10**5]
    for damage in damages:
        (copied / "report.json").write_bytes(damage)
        report = api.evaluate("pcl_digits", "quick", options=chosen)
        assert report.folder == copied
        assert report.content["worst_case"] == json.loads(honest)["worst_case"]
        assert (copied / "report.json").read_bytes() == honest


def test_damaged_conclusions_are_drawn_anew(copied: Path) -> None:
    """What is made from the rest of the evidence blocks nothing."""
    places = [copied / "evidence" / name for name in ("verification.json", "examples.safetensors")]
    honest = {path: path.read_bytes() for path in places}
    for path in places:
        for damage in (b"{}", honest[path][:50]):
            path.write_bytes(damage)
            api.evaluate("pcl_digits", "quick", options=options(copied.parent, samples=24))
            assert {p: p.read_bytes() for p in places} == honest


def test_logits_of_any_scale_give_the_same_ties(tmp_path: Path, ce_digits: Any) -> None:
    """At 1e-6 of the usual logits, absolute thresholds would call all successes near-ties."""

    class Scaled(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return ce_digits(images) * 2.0**-20

    chosen = options(tmp_path, samples=24, only=("fgsm",))
    small = api.evaluate(wrap_module(Scaled(), 10), "quick", "digits", "small", options=chosen)
    usual = api.evaluate("ce_digits", "quick", options=chosen)
    assert small.content["clean"] == usual.content["clean"]
    held = small.content["evidence"]["verification"]
    assert held["held"] > 0.9 * held["images"] > 0
    assert small.content["attacks"][0]["verified"]["near_ties"] < 3
    for path in (small.folder / "evidence").glob("clean-*.parquet"):
        change_rows(path, second_prediction=lambda p: (p + 1) % 10)
    findings = api.rebuild_report(small.folder).content["findings"]
    assert {f["check"]: f["verdict"] for f in findings}["steady predictions"] == "broken"


def test_a_forged_gap_excuses_no_clean_prediction(tmp_path: Path) -> None:
    chosen = options(tmp_path, samples=None, batch_size=360, only=("fgsm",))
    run = api.evaluate("pcl_digits", "quick", options=chosen).folder
    made_right(run)
    assert api.rebuild_report(run).content["clean"]["accuracy"]["value"] == 1
    told = {c.name: c.held for c in api.verify(run)}
    wrong = [name for name, held in told.items() if not held]
    assert wrong == ["clean predictions", "nearest prototypes"]  # those of another prediction


def test_an_interrupted_runs_leftovers_are_no_forgery(copied: Path) -> None:
    """What a kill half wrote belongs to no job; a folder without any evidence is told."""
    (copied / "evidence" / ".attack-00-x-0000.parquet.77.partial").write_bytes(b"half")
    assert all(check.held for check in api.verify(copied))
    shutil.rmtree(copied / "evidence")
    (check,) = api.verify(copied)
    assert not check.held
    assert "is missing" in check.told


def test_norms_are_compared_where_jobs_are_done_again(tmp_path: Path) -> None:
    """An attack that knows no ε counts by its norm: lengthened, it would break fewer."""
    chosen = options(tmp_path, samples=20, only=("deepfool",))
    run = api.evaluate("ce_digits", plain_suite_in(tmp_path), options=chosen).folder
    assert all(c.held for c in api.verify(run, again=5))
    for path in (run / "evidence").glob("attack-*deepfool*.parquet"):
        change_rows(path, norm=lambda n: np.where(n <= 0.6, n + 1, n))
        path.with_suffix(".safetensors").unlink(missing_ok=True)
    api.rebuild_report(run)
    told = {c.name: c.held for c in api.verify(run, again=5)}
    assert told["each proof is there"]
    assert not told["jobs done again"]


class Rounded(nn.Module):
    """The same tensors, and other outputs."""

    def __init__(self, inner: nn.Module, levels: int) -> None:
        super().__init__()
        self.inner, self.levels = inner, levels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner((self.levels * images).round() / self.levels)


def test_another_model_with_the_same_tensors_is_told(tmp_path: Path, ce_digits: Any) -> None:
    def evaluate(levels: int) -> api.Report:
        adapter = wrap_module(Rounded(ce_digits.module, levels), classes=10)
        chosen = options(tmp_path, samples=20, only=("fgsm",))
        return api.evaluate(adapter, "quick", dataset="digits", name="mine", options=chosen)

    assert evaluate(16).content["attacks"] == evaluate(16).content["attacks"]
    with pytest.raises(EvidenceError, match="computes otherwise"):
        evaluate(2)


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


SQUARE = {"name": "square", "broke": 9, "of": 9}
MASKED = {"kind": "searched", "number": None, "stages": [], "text": "", "right": [], "of": 0}


def test_what_jobs_told_is_compared_where_they_are_done_again(copied: Path) -> None:
    """It decides findings: warnings, what Square broke alone, what storing undid."""
    change_told(rows_file(copied), lambda told: told.update(lost=told["lost"] + 3))
    change_told(rows_file(copied, "pgd10"), lambda told: told["stages"].append(SQUARE))
    change_told(rows_file(copied, "pgd_l2"), lambda told: told["warned"].append(MASKED))
    api.rebuild_report(copied)
    told = {c.name: c for c in api.verify(copied, again=100)}["jobs done again"]
    assert not told.held
    others = told.told.partition("other notes or warnings in ")[2].split(", ")
    assert [job.split("-")[2].split("_L")[0] for job in sorted(others)] == [
        "fgsm",
        "pgd10",
        "pgd_l2",
    ]


def test_other_diagnostics_are_found_by_measuring_again(copied: Path) -> None:
    """Verdicts that differ, and numbers that differ within the same verdict."""

    def told_of(part: str, **values: Any) -> api.Check:
        path = copied / "evidence" / "diagnostics.parquet"
        change_told(path, lambda told: told[part].update(values))
        return {c.name: c for c in api.verify(copied, again=1)}["diagnostics done again"]

    steadier = told_of("wobble", relative=0.01)
    assert (steadier.held, steadier.told) == (False, "other numbers of wobble")
    shakier = told_of("wobble", relative=0.9)
    assert not shakier.held
    assert shakier.told.startswith("other verdicts on ")


def test_diagnostics_are_measured_again_without_their_source(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that they transfer from was trained anew: that is no forgery, and hides none."""

    def gone(_: Context) -> None:
        raise EvidenceError("ce_digits has changed since this run began")

    monkeypatch.setattr(Context, "transfer_source", gone)
    told = {c.name: c for c in api.verify(copied, again=1)}["diagnostics done again"]
    assert told.held
    assert told.told.endswith("; no transfer: ce_digits has changed since this run began")
    path = copied / "evidence" / "diagnostics.parquet"
    change_told(path, lambda told: told["wobble"].update(relative=0.001))
    assert not {c.name: c for c in api.verify(copied, again=1)}["diagnostics done again"].held


def test_pages_of_another_version_are_compared_too(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever claims one could print anything; an honest page is written anew first."""
    (copied / "report.html").write_text("<script>99.9 %</script>")
    monkeypatch.setattr(api, "__version__", "9.9")
    told = {c.name: c for c in api.verify(copied)}["report files"]
    assert not told.held
    assert "this is 9.9" in told.told
    assert "robusteval report" in told.told
    api.rebuild_report(copied)
    assert {c.name: c.held for c in api.verify(copied)}["report files"]


def test_what_is_described_is_compared_as_json() -> None:
    """Where true is not 1, as it is in Python."""
    assert _same("entry", {"blocks": [1, 1]}, {"blocks": [1, 1]}, "fine").held
    assert not _same("entry", {"blocks": [1, True]}, {"blocks": [1, 1]}, "fine").held


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


def test_only_like_is_compared_with_like(finished: Path, tmp_path: Path) -> None:
    """The same name with other parameters is another attack, and the worst case another one."""
    suite = read_suite("quick")
    longer = [
        a.model_copy(update={"parameters": {**a.parameters, "steps": 3}})
        if a.name == "pgd10"
        else a
        for a in suite.attacks
    ]
    path = tmp_path / "longer.toml"
    path.write_text(tomlkit.dumps(suite.model_copy(update={"attacks": longer}).model_dump()))
    other = api.evaluate("pcl_digits", str(path), options=options(tmp_path, samples=24)).folder
    (pair,) = api.compare([finished, other])["pairs"]
    assert pair["not_alike"] == ["pgd10/Linf 0.15", "worst case/Linf 0.15"]
    assert "FGSM" in {row["attack"] for row in pair["rows"]}
    assert "not compared" in cli("compare", str(finished), str(other)).stdout


@pytest.mark.parametrize(
    ("b", "c", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (0, 6, 2 / 64), (3, 0, 0.25)]
)
def test_mcnemar_is_the_exact_binomial(b: int, c: int, p: float) -> None:
    """Twice the tail of a fair coin, summed by hand."""
    assert mcnemar(b, c) == pytest.approx(p)
    assert mcnemar(c, b) == pytest.approx(p)


def test_runs_are_compared_in_pairs(finished: Path, tmp_path: Path) -> None:
    other = api.evaluate("pcl_at_digits", "quick", options=options(tmp_path, samples=24)).folder
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
    refused(cli("compare", str(finished), str(fewer)), "24 samples", "20", "--samples")
    wider = options(tmp_path, samples=24, eps=("0.2",))
    other = api.evaluate("pcl_digits", "quick", options=wider).folder
    refused(cli("compare", str(finished), str(other)), "Linf 0.2", "--eps")
    refused(cli("compare", str(finished)), "two runs")
    with pytest.raises(EvidenceError, match="is not a run"):
        api.compare([finished, tmp_path])
