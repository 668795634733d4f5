"""Evidence on disk: what is stored, what a kill leaves, and what changes no outcome."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from benchmarks.overhead import plain_suite
from benchmarks.resume import without_times
from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.results import AttackResult
from robusteval.attacks.steps import norms, project
from robusteval.data.datasets import Dataset
from robusteval.errors import EvidenceError, OutputError, RobustevalError
from robusteval.evidence.files import Local
from robusteval.evidence.images import LEVELS, decode, digests, encode, encode_within
from robusteval.evidence.record import open_store, read_record
from robusteval.evidence.results import load_result, to_be_kept
from robusteval.evidence.store import Store
from robusteval.models.acceleration import PLAIN, Forms
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.plan.context import Context
from robusteval.plan.plan import Cell, Job
from robusteval.plan.suite import Diagnostics, Suite, read_suite
from robusteval.run import attacking as chunks
from robusteval.run.attacking import Chunk, settle
from robusteval.run.executors.base import Watch
from robusteval.run.executors.here import Here
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked
from robusteval.types import Norm, ThreatModel, parse_eps
from tests.helpers.attacks import AddAttack
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.known import linear, margins, threat_of
from tests.helpers.processes import forked
from tests.helpers.runs import attack_spec, hasty_suite, options, run_suite, suite_of, unprobed

LINF = ThreatModel("Linf", parse_eps("0.15"))


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The attacks of ``quick``, with one detector and diagnostics of few samples."""
    path = tmp_path_factory.mktemp("suite") / "quick.toml"
    path.write_text(hasty_suite())
    return str(path)


@pytest.fixture(scope="module")
def finished(hasty: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four chunks."""
    out = tmp_path_factory.mktemp("finished")
    return api.evaluate("pcl_digits", hasty, options=options(out)).folder


# Images


def test_storing_rounds_towards_the_clean_image() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = (torch.rand((40, 3, 8, 8), generator=generator) * 255).round() / 255
    moved = (clean + 0.03 * (2 * torch.rand(clean.shape, generator=generator) - 1)).clamp(0, 1)
    moved[0] = clean[0]
    stored = encode(moved, clean, "inward")
    counted = decode(stored)
    assert stored.dtype == np.uint16
    assert torch.equal(counted[0], clean[0])  # k/255 is 257k/65535: to the bit
    inward = (counted.double() - clean.double()).abs() <= (moved.double() - clean.double()).abs()
    assert (inward | ((counted - moved).abs() < 1e-7)).all()
    assert (counted.double() - moved.double()).abs().max() < 1 / LEVELS + 1e-9
    nearest = decode(encode(moved, clean, "nearest"))
    assert (nearest.double() - moved.double()).abs().max() <= 0.5 / LEVELS + 1e-7
    assert np.array_equal(encode(decode(stored), clean, "nearest"), stored)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_stored_image_stays_in_the_ball(norm: str) -> None:
    """On pixels that 65535 does not divide, too."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, 17, (50, 1, 8, 8), generator=generator) / 16
    noise = torch.randn(clean.shape, generator=generator)
    eps = 0.15 if norm == "Linf" else 0.6
    length = noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = eps * noise.sign() if norm == "Linf" else eps * noise / length
    moved = (clean + step).clamp(0, 1)
    change = (decode(encode(moved, clean, "inward")).double() - clean.double()).flatten(1)
    size = change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)
    assert size.max() <= eps + 1e-6


@pytest.mark.parametrize("dither", [None, 0])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_rounding_within_the_ball_takes_next_to_nothing(norm: Norm, dither: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, 17, (50, 3, 32, 32), generator=generator) / 16
    threat = threat_of(norm, 0.031 if norm == "Linf" else 0.5)
    moved = clean + threat.radius * torch.randn(clean.shape, generator=generator)
    moved = project(moved, clean, threat)
    counted = decode(encode_within(moved, clean, threat, dither)).double()
    assert counted.min() >= 0
    assert counted.max() <= 1
    length = norms(counted - clean.double(), norm)
    assert length.max() <= threat.radius + 1e-6
    assert (counted - moved.double()).abs().max() < 1.1 / LEVELS
    if norm == "L2":
        inward = decode(encode(moved, clean, "inward")).double()
        lost = norms(moved - clean, norm) - length
        assert lost.max() < 2e-5
        assert lost.max() < 0.05 * (norms(moved - clean, norm) - norms(inward - clean, norm)).min()


def test_a_success_that_is_nearly_a_tie_survives_storing() -> None:
    """In a ball a five-hundredth larger than needed, of which rounding inward takes more."""
    known, undone = linear("L2", 3), 0
    for row in range(20):
        image, label = known.images[row : row + 1], known.labels[row : row + 1]
        threat = threat_of("L2", 1.002 * float(known.smallest[row]))
        found = adaptive(known.model, image, label, threat, passes_per_sample=150)
        assert margins(known.model, found, label) > 0
        inward = decode(encode(found, image, "inward"))
        undone += int(margins(known.model, inward, label) <= 0)
        chunk = Chunk(torch.tensor([0]), image, label)
        _, judged, lost = settle(Adapter(known.model, 3), found, chunk, threat, bound=True)
        assert judged.fooled.all()
        assert lost == 0
    assert undone > 5


def test_a_minimal_success_survives_storing() -> None:
    """An attack without an ε ends a millionth beyond the boundary: rounding must not undo it."""
    weight = torch.randn((1, 64), generator=torch.Generator().manual_seed(2))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.cat([weight, -weight]))
        linear[1].bias.copy_(torch.tensor([-0.5, 0.5]) * weight.sum())
    model = wrap_module(linear, classes=2)
    images = 0.4 + 0.2 * torch.rand((60, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    labels = model(images).argmax(1)
    height = (images.flatten(1) - 0.5) @ weight[0]
    push = (height + 1e-6 * height.sign()) / weight[0].dot(weight[0])
    minimal = images - (push[:, None] * weight).view_as(images)
    assert (model(minimal).argmax(1) != labels).sum() > 50
    chunk = Chunk(torch.arange(60), images, labels)
    threat = ThreatModel("L2", parse_eps("0.6"))
    stored, judged, lost = settle(model, minimal, chunk, threat, bound=False)
    assert lost == 0
    assert judged.fooled.sum() > 50
    grown = (decode(stored) - minimal).flatten(1).norm(dim=1)
    assert grown.max() < 8 / LEVELS
    assert settle(model, minimal, chunk, threat, bound=True)[2] == 0


def test_a_later_restart_does_not_undo_what_storing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first breaks samples by so little that rounding inward undoes it; the second fails."""
    known, undone = linear("L2", 3), 0
    forms = Forms.of(Adapter(known.model, 3), PLAIN, PLAIN)
    spec = attack_spec(attack="adaptive", norms=("L2",), restarts=2)
    for row in range(20):
        image, label = known.images[row : row + 1], known.labels[row : row + 1]
        threat = threat_of("L2", 1.002 * float(known.smallest[row]))
        found = adaptive(known.model, image, label, threat, passes_per_sample=150)
        inward = decode(encode(found, image, "inward"))
        undone += int(margins(known.model, inward, label) <= 0)
        tries = iter([found, image])
        monkeypatch.setattr(chunks, "_attack", lambda *_, t=tries: AttackResult(next(t)))
        chunk = Chunk(torch.tensor([0]), image, label)
        result = chunks.run_job(forms, Cell(spec, (threat,), {}), chunk, lambda restart: restart)
        assert result.judged.fooled.all()
        assert result.lost == 0
    assert undone > 5


# What is stored


def test_rows_say_what_the_report_counts(finished: Path) -> None:
    result = load_result(Local(finished))
    assert [len(c) for c in result.plan.chunks] == [12, 12, 12, 4]
    content = json.loads((finished / "report.json").read_text())
    for part, attack in enumerate(content["attacks"]):
        broken = 0
        for chunk in range(4):
            job = result.plan.attack_job(part, chunk)
            table = pq.read_table(finished / "evidence" / f"{job.stem}.parquet").to_pydict()
            broken += sum(table["fooled"])
            assert all(len(value) == 32 for value in table["sha256"])
            assert set(table) >= {"index", "label", "prediction", "norm", "margin"}
            assert min(table["forward_passes"], default=1) >= 0
        assert broken == attack["success_rate"]["k"]


def test_a_reports_row_names_its_evidence(finished: Path) -> None:
    content, stems = json.loads((finished / "report.json").read_text()), set()
    for attack in content["attacks"]:
        assert [name.endswith(".parquet") for name in attack["evidence"]].count(True) == 4
        assert all((finished / "evidence" / name).is_file() for name in attack["evidence"])
        stems |= set(attack["evidence"])
    assert stems == {path.name for path in (finished / "evidence").glob("attack-*")}


def test_one_image_for_each_sample_and_threat(finished: Path) -> None:
    """The first in the suite's order that broke it: that proves the worst case, and no more."""
    store, spec, _ = open_store(Local(finished))
    result = load_result(Local(finished))
    for threat in result.plan.threats:
        seen: list[int] = []
        for part, outcome in enumerate(result.outcomes):
            for chunk in range(len(result.plan.chunks)):
                kept = store.read_images(result.plan.attack_job(part, chunk))
                if threat in outcome.cell.threats:
                    seen += kept.rows.tolist()
        robust, _ = result.robust(threat)
        broken = np.flatnonzero(result.clean_correct & ~robust)
        assert sorted(seen) == broken.tolist()
    assert spec.keep == "first"


def test_keep_all_keeps_every_success(hasty: str, tmp_path: Path, finished: Path) -> None:
    folder = api.evaluate("pcl_digits", hasty, options=options(tmp_path, keep="all")).folder
    store, _, _ = open_store(Local(folder))
    result = load_result(Local(folder))
    for part, outcome in enumerate(result.outcomes):
        rows = np.concatenate(
            [store.read_images(result.plan.attack_job(part, chunk)).rows for chunk in range(4)]
        )
        assert rows.tolist() == np.flatnonzero(outcome.fooled).tolist()
    assert all(check.held for check in api.verify(folder))
    assert folder.name != finished.name  # another spec, another run
    mine, other = (json.loads((f / "report.json").read_text()) for f in (folder, finished))
    assert mine["worst_case"] == other["worst_case"]


def test_an_attack_without_eps_keeps_what_lies_in_a_ball(
    pcl_digits: Adapter, digits: Dataset, tmp_path: Path
) -> None:
    suite = unprobed("full").only(["pgd_l2", "deepfool"])
    suite = suite.model_copy(update={"threats": {"L2": ["0.3", "0.6"]}})
    result = run_suite(pcl_digits, digits.balanced_subset(20), suite, folder=tmp_path)
    deepfool = len(result.outcomes) - 1
    kept = to_be_kept(result, deepfool)
    assert (result.outcomes[deepfool].norm[kept] <= 0.6 + 1e-6).all()
    small = ThreatModel("L2", parse_eps("0.3"))
    alone = result.outcomes[deepfool].success(small) & ~result.outcomes[0].success(small)
    assert (kept >= alone).all()


# The same evidence, whatever happens


def test_a_report_is_rebuilt_byte_for_byte(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("report.json", "report.html", "report.md", "row.csv", "detection.csv")
    before = {name: (finished / name).read_bytes() for name in names}
    for name in names:
        (finished / name).unlink()
    monkeypatch.setattr(nn.Module, "__init__", None)  # no model may be made, no data read
    monkeypatch.setattr(Dataset, "__init__", None)
    assert cli("report", str(finished)).exit_code == 0
    assert {name: (finished / name).read_bytes() for name in names} == before


def test_an_empty_run_is_removed_unless_another_process_is_at_work(tmp_path: Path) -> None:
    store = Store(Local(tmp_path / "run"), "0" * 64)
    with store.lock():
        store.remove_if_empty()
        assert store.folder.is_dir()
    store.remove_if_empty()
    assert not store.folder.exists()


class Stopped(Here):
    """Interrupted when so many jobs are done."""

    def __init__(self, context: Context, store: Store, after: int) -> None:
        super().__init__(context, store)
        self.after = after

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        for job in jobs:
            if self.after == 0:
                raise KeyboardInterrupt
            self.after -= 1
            super().run([job], watch)


def hastily_probed(name: str) -> Suite:
    """A suite whose diagnostics, which are evidence too, look at four samples."""
    return read_suite(name).model_copy(update={"diagnostics": Diagnostics(samples=4)})


@pytest.fixture(scope="module")
def whole_evidence(
    pcl_digits: Adapter, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of a run in order and in one go."""
    folder, data = tmp_path_factory.mktemp("whole"), digits.balanced_subset(30)
    run_suite(pcl_digits, data, hastily_probed("quick"), folder=folder, batch_size=12)
    return evidence_of(folder)


@pytest.mark.parametrize("every", [1, 7])
def test_an_interrupted_run_goes_on(
    every: int,
    pcl_digits: Adapter,
    digits: Dataset,
    whole_evidence: dict[str, Any],
    tmp_path: Path,
) -> None:
    data, suite = digits.balanced_subset(30), hastily_probed("quick")
    for _ in range(100):
        try:
            run_suite(
                pcl_digits,
                data,
                suite,
                folder=tmp_path,
                executor=lambda context, store: Stopped(context, store, every),
                batch_size=12,
            )
            break
        except KeyboardInterrupt:
            continue
    assert evidence_of(tmp_path) == whole_evidence


class Reversed(Here):
    """Last job first."""

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        super().run(list(reversed(jobs)), watch)


def test_order_changes_nothing(
    pcl_digits: Adapter, digits: Dataset, whole_evidence: dict[str, Any], tmp_path: Path
) -> None:
    data, suite = digits.balanced_subset(30), hastily_probed("quick")
    run_suite(pcl_digits, data, suite, folder=tmp_path, executor=Reversed, batch_size=12)
    assert evidence_of(tmp_path) == whole_evidence


@pytest.mark.slow
def test_workers_change_nothing(hasty: str, finished: Path, tmp_path: Path) -> None:
    """Two processes; the run goes on with the threads that it was begun with."""
    report = api.evaluate("pcl_digits", hasty, options=options(tmp_path, workers=2))
    assert evidence_of(report.folder) == evidence_of(finished)
    assert without_times(report.content) == without_times(
        json.loads((finished / "report.json").read_text())
    )
    assert not (report.folder / "workers.log").exists()


# Foreign models that die

DYING = """
import os, signal
from pathlib import Path
import torch
from robusteval.data.datasets import load_dataset

class Nearest(torch.nn.Module):
    '''Nearest class mean, as a linear layer; kills itself where it is told to.'''

    def __init__(self):
        super().__init__()
        data = load_dataset("digits", "train")
        flat = data.images().flatten(1)
        means = torch.stack([flat[data.labels == k].mean(0) for k in range(10)])
        self.register_buffer("means", means)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        flat = images.flatten(1)
        beside_grid = ((16 * flat).round() / 16 - flat).abs().max()
        if float(beside_grid) > float(os.environ.get("POISON", "1")):
            os._exit(9)
        return flat @ self.means.T - 0.5 * (self.means**2).sum(1)
"""


@pytest.fixture
def dying(tmp_path: Path) -> Path:
    (tmp_path / "dying_model.py").write_text(DYING)
    path = tmp_path / "dying.toml"
    path.write_text(
        'name = "dying"\nmethod = "mean"\ndataset = "digits"\n'
        'factory = "dying_model:Nearest"\n[input]\nmean = [0.0]\nstd = [1.0]\n'
    )
    return path


def run_dying(
    path: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    suite = path.with_name("plain.toml")
    suite.write_text(plain_suite("quick"))
    return forked(
        *("run", "--model", str(path), "--suite", str(suite), "--allow-code"),
        *("--samples", "24", "--batch-size", "12", "--threads", "1"),
        *arguments,
        **environment,
    )


def test_sigkill_at_any_moment_loses_at_most_a_chunk(dying: Path, tmp_path: Path) -> None:
    """Killed by its own model, in the middle of a pass, twice; then it ends as if never."""
    whole = run_dying(dying, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    done = 0
    for kill_at in ("9", "40"):
        killed = run_dying(dying, "--out", "killed", KILL_AT=kill_at)
        assert killed.returncode == -signal.SIGKILL
        (folder,) = (tmp_path / "killed").iterdir()
        assert not (folder / "report.json").exists()
        now = len(list((folder / "evidence").glob("*.parquet")))
        assert now > done
        done = now
    assert run_dying(dying, "--out", "killed").returncode == 0
    (first,), (second,) = (list((tmp_path / n).iterdir()) for n in ("whole", "killed"))
    assert evidence_of(first) == evidence_of(second)
    reports = [json.loads((f / "report.json").read_text()) for f in (first, second)]
    assert without_times(reports[0]) == without_times(reports[1])
    assert not list(second.rglob("*.partial"))


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_then_its_job_fails(dying: Path, tmp_path: Path) -> None:
    """Images far off the grid of sixteenths kill the process: such attacks have no number."""
    suite = tmp_path / "bright.toml"
    suite.write_text(
        'name = "bright"\n[threats]\nLinf = ["1/1000", "0.3"]\n'
        '[[attacks]]\nname = "noise"\ntitle = "Noise"\nlibrary = "robusteval"\n'
        'attack = "gaussian_noise"\nnorms = ["Linf"]\n'
    )
    told = ("--suite", str(suite), "--workers", "2", "--samples", "12")
    done = run_dying(dying, *told, POISON="0.01")
    assert done.returncode == 3, done.stderr
    assert "incomplete" in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    small, large = report["attacks"]
    assert small["status"] == "done"
    assert large["status"] == "failed"
    assert "its worker died with exit code 9, 3 times" in large["reason"]
    assert large["robust_accuracy"] is None
    assert [w["complete"] for w in report["worst_case"]] == [True, False]


def test_a_model_from_python_has_no_workers(pcl_digits: Adapter) -> None:
    with pytest.raises(RobustevalError, match="workers=1"):
        api.evaluate(
            pcl_digits, "quick", dataset="digits", options=api.Options(samples=10, workers=2)
        )


# Failures are tried again


def test_what_failed_is_tried_again(
    pcl_digits: Adapter, digits: Dataset, tmp_path: Path, add_attack: AddAttack
) -> None:
    broken = True

    def moody(model: Any, images: Any, labels: Any, threat: Any, *, seed: int) -> Any:
        if broken:
            raise ValueError("not today")
        return images

    add_attack("mine", moody)
    data, suite = digits.balanced_subset(20), suite_of(attack_spec())
    first = run_suite(pcl_digits, data, suite, folder=tmp_path)
    assert first.outcomes[0].status == "failed"
    assert list((tmp_path / "evidence").glob("*.failed.json"))
    broken = False
    assert run_suite(pcl_digits, data, suite, folder=tmp_path).complete
    assert not list((tmp_path / "evidence").glob("*.failed.json"))


# Bad evidence


def a_piece(folder: Path, kind: str = "attack") -> Path:
    return next(iter(sorted((folder / "evidence").glob(f"{kind}*.parquet"))))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "runs" / finished.name))


@pytest.mark.parametrize("verb", ["report", "run"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_corrupt_evidence_is_named_and_the_rest_kept(
    hasty: str, verb: str, damage: Callable[[bytes], bytes], copied: Path
) -> None:
    path = a_piece(copied)
    (copied / "report.json").unlink()
    path.write_bytes(damage(path.read_bytes()))
    others = {p for p in (copied / "evidence").iterdir() if p != path}
    if verb == "report":
        result = cli("report", str(copied))
    else:
        result = cli(
            *("run", "--model", "pcl_digits", "--suite", hasty, "--samples", "40"),
            *("--batch-size", "12", "--threads", "1", "--out", str(copied.parent)),
        )
    refused(result, "corrupt", path.name, "delete it")
    assert {p for p in (copied / "evidence").iterdir() if p != path} == others


def test_deleted_evidence_is_made_again(hasty: str, copied: Path, finished: Path) -> None:
    """What the message says one should do works."""
    a_piece(copied).unlink()
    (copied / "report.json").unlink()
    api.evaluate("pcl_digits", hasty, options=options(copied.parent))
    assert evidence_of(copied) == evidence_of(finished)


def test_images_that_are_gone_are_missed(hasty: str, copied: Path) -> None:
    next((copied / "evidence").glob("attack*.safetensors")).unlink()
    (copied / "report.json").unlink()
    with pytest.raises(EvidenceError, match=r"lacks images: delete .*\.parquet"):
        api.evaluate("pcl_digits", hasty, options=options(copied.parent))


def test_a_newer_schema_is_told(copied: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    record["schema"] = "robusteval.run/99"
    (copied / "run.json").write_text(json.dumps(record))
    for verb in ("report", "verify"):
        refused(cli(verb, str(copied)), "schema 99", "upgrade")
    table = pq.read_table(a_piece(copied))
    about = json.loads(table.schema.metadata[b"robusteval"]) | {"schema": 99}
    newer = table.replace_schema_metadata({b"robusteval": json.dumps(about)})
    pq.write_table(newer, a_piece(copied))
    (copied / "run.json").write_text(json.dumps({**record, "schema": "robusteval.run/2"}))
    refused(cli("report", str(copied)), "schema 99", "upgrade")


def test_an_older_schema_is_refused(copied: Path) -> None:
    """It had no checksums: who claims it would be spared all of them."""
    record = json.loads((copied / "run.json").read_text())
    record["schema"] = "robusteval.run/1"
    (copied / "run.json").write_text(json.dumps(record))
    refused(cli("verify", str(copied)), "schema 1", "no checksums", "another folder")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 3}', '{"schema": "robusteval.run/1"}'])
def test_a_record_that_is_none(text: str, copied: Path) -> None:
    (copied / "run.json").write_text(text)
    refused(cli("report", str(copied)), "run.json")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for verb in ("report", "verify"):
        refused(cli(verb, str(tmp_path)), "is not a run")
        refused(cli(verb, str(tmp_path / "nowhere")), "is not a run")


def test_a_full_disk_keeps_what_is_there(
    pcl_digits: Adapter, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for the sixth file: one clear line, five whole files, and the run goes on later."""
    real, writes = os.replace, 0

    def full(source: Any, target: Any) -> None:
        nonlocal writes
        writes += str(target).startswith(str(tmp_path))
        if writes > 5:
            raise OSError(28, "No space left on device")
        real(source, target)

    data, suite = digits.balanced_subset(30), unprobed("quick")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"No space left.*finished jobs are kept"):
        run_suite(pcl_digits, data, suite, folder=tmp_path, batch_size=12)
    names = sorted(p.name for p in (tmp_path / "evidence").iterdir())
    assert len(names) == 5
    assert not any(name.endswith(".partial") for name in names)
    monkeypatch.setattr(os, "replace", real)
    assert run_suite(pcl_digits, data, suite, folder=tmp_path, batch_size=12).complete


def test_two_processes_do_not_share_a_run(hasty: str, copied: Path) -> None:
    store, _, _ = open_store(Local(copied))
    (copied / "report.json").unlink()
    with store.lock(), pytest.raises(EvidenceError, match="another process"):
        api.evaluate("pcl_digits", hasty, options=options(copied.parent))
    assert copied.is_dir()


def test_a_run_that_finds_nothing_leaves_nothing(dying: Path, tmp_path: Path) -> None:
    """The model is refused on its first clean chunk: no folder stays."""
    broken = DYING.replace("return flat", "return (1 if len(flat) < 3 else float('nan')) * flat")
    (tmp_path / "dying_model.py").write_text(broken)
    done = run_dying(dying)
    assert done.returncode == 2
    assert "NaN" in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def test_threads_of_a_begun_run_are_kept(hasty: str, finished: Path, copied: Path) -> None:
    (copied / "report.json").unlink()
    again = api.evaluate(
        "pcl_digits", hasty, options=options(copied.parent, threads=None, workers=1)
    )
    assert again.folder == copied
    assert read_record(Local(copied))["spec"]["threads"] == 1
    asked = options(copied.parent, threads=2)
    assert prepare(Asked("pcl_digits"), hasty, asked).spec.name != copied.name


def test_digests_are_of_the_stored_bytes() -> None:
    import hashlib

    stored = encode(torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), "inward")
    assert digests(stored)[1] == hashlib.sha256(stored[1].tobytes()).digest()


@pytest.mark.slow
def test_memory_goes_with_the_chunk(shared_data: Path, tmp_path: Path) -> None:
    """Five times the images, the same chunk: the same peak, but for the images themselves."""
    suite = tmp_path / "two.toml"
    suite.write_text(plain_suite("quick"))  # detection and diagnostics see few images anyway

    def peak(samples: int) -> float:
        command = [
            *(sys.executable, "-m", "robusteval", "run", "--model", "pcl_mnist"),
            *("--suite", str(suite), "--only", "fgsm", "--samples", str(samples)),
            *("--batch-size", "25", "--threads", "1", "--data-dir", str(shared_data)),
        ]
        quiet = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
        process = os.posix_spawn(command[0], command, dict(os.environ), file_actions=[quiet])
        _, status, usage = os.wait4(process, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return float(usage.ru_maxrss)

    assert peak(250) <= 1.1 * peak(50)
