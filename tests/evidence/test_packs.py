"""Packed rows: fewer files, the same evidence, whatever is done with them."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from robusteval import api, sharing
from robusteval.errors import EvidenceError
from robusteval.evidence import record as records
from robusteval.evidence import store as stores
from robusteval.evidence.claims import Claims
from robusteval.evidence.files import Local
from robusteval.evidence.packs import group_of, members_of, pack_name, packed, unpacked
from robusteval.evidence.record import open_store, read_record
from robusteval.evidence.results import load_result
from robusteval.run import packing
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.runs import hasty_suite, options

FILES = ("report.json", "report.html", "report.md", "row.csv", "detection.csv")


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four chunks."""
    folder = tmp_path_factory.mktemp("loose")
    (folder / "quick.toml").write_text(hasty_suite())
    return api.evaluate("ce_digits", folder / "quick.toml", options=options(folder / "r")).folder


@pytest.fixture
def run(loose: Path, tmp_path: Path) -> Path:
    return shutil.copytree(loose, tmp_path / loose.name)


@pytest.fixture
def small(run: Path) -> Path:
    """The same, packed."""
    packing.pack(Local(run))
    return run


# A pack


def test_a_pack_is_its_members() -> None:
    names = members_of("attack-03-fgsm_Linf_0.15.0003.rows.zip")
    assert names == [f"attack-03-fgsm_Linf_0.15-000{chunk}.parquet" for chunk in range(3)]
    assert {group_of(name) for name in names} == {"attack-03-fgsm_Linf_0.15"}
    members = {name: name.encode() for name in names}
    assert unpacked(packed(members), names) == members
    assert packed(dict(reversed(members.items()))) == packed(members)


@pytest.mark.parametrize(
    "name",
    [
        *("clean.rows.zip", "clean.2.rows.zip", "clean.00002.rows.zip", "clean-0000.parquet"),
        *("fit-00-knn.0002.rows.zip", "outliers-00.0002.rows.zip", "../clean.0002.rows.zip"),
    ],
)
def test_what_is_no_pack_has_no_members(name: str) -> None:
    assert members_of(name) == []


def test_only_chunks_rows_are_packed() -> None:
    for name in ("fit-00-knn.parquet", "outliers-00.parquet", "diagnostics.parquet"):
        assert group_of(name) is None
    assert group_of("clean-12345.parquet") == "clean"


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_a_pack_that_is_another_is_refused() -> None:
    names = members_of("clean.0002.rows.zip")
    good = {name: bytes(1000) for name in names}
    content = packed(good)
    for other in (
        b"",
        content[:-1],
        content + b"x",
        b"x" + content,
        content[:100] + b"\1" + content[101:],
        zipped(good),  # of another date
        zipped(good, zipfile.ZIP_DEFLATED),
        packed({names[0]: b""}),
        packed({**good, "run.json": b""}),
    ):
        with pytest.raises(ValueError, match=r"^it "):
            unpacked(other, names)


# A packed run


def test_a_packed_run_is_the_same(run: Path, loose: Path) -> None:
    before, was = len(list((run / "evidence").iterdir())), load_result(Local(run))
    done = cli("pack", str(run))
    assert done.exit_code == 0, done.stderr
    found = [path.name for path in (run / "evidence").iterdir()]
    assert done.stdout == f"{before} files of evidence, now {len(found)}\n"
    cells = len(was.plan.cells)
    assert len(found) == before - 4 * (cells + 1) + cells + 1
    assert pack_name("clean", 4) in found
    assert load_result(Local(run)).evidence_digest == was.evidence_digest
    assert all(check.held for check in api.verify(run, again=2))
    for name in FILES:
        (run / name).unlink()
    assert cli("report", str(run)).exit_code == 0
    assert {n: (run / n).read_bytes() for n in FILES} == {
        n: (loose / n).read_bytes() for n in FILES
    }
    assert cli("pack", str(run)).stdout == f"{len(found)} files of evidence, nothing to change\n"


def test_a_packed_run_is_archived(small: Path, loose: Path, tmp_path: Path) -> None:
    archive = api.export(small, "archive", to=tmp_path / "packed.zip")
    assert load_result(api.files_of(archive)).evidence_digest == (
        load_result(Local(loose)).evidence_digest
    )
    assert all(check.held for check in api.verify(archive))
    refused(cli("pack", str(archive)), "is an archive, which stays as it is")


def test_packing_is_undone(small: Path, loose: Path) -> None:
    assert cli("pack", str(small), "--undo").exit_code == 0
    kept = {
        path.relative_to(small): path.read_bytes() for path in small.rglob("*") if path.is_file()
    }
    assert kept == {
        path.relative_to(loose): path.read_bytes() for path in loose.rglob("*") if path.is_file()
    }


def test_a_packed_run_goes_on(small: Path, loose: Path) -> None:
    """A finished one is read; one that lacks a job, or a pack, does that again."""
    suite = loose.parents[1] / "quick.toml"
    before = {path: path.stat().st_mtime_ns for path in (small / "evidence").iterdir()}
    report = api.evaluate("ce_digits", suite, options=options(small.parent))
    assert report.folder == small
    assert {p: p.stat().st_mtime_ns for p in (small / "evidence").iterdir()} == before
    next((small / "evidence").glob("attack-01-*.0004.rows.zip")).unlink()
    (small / "evidence" / "outliers-00.parquet").unlink()
    (small / "report.json").unlink()
    worked = sharing.work(small, shard="2/2")
    assert worked.done == worked.jobs
    assert sharing.finish(small).proven
    packing.unpack(Local(small))
    assert evidence_of(small) == evidence_of(loose)


def test_a_begun_run_is_packed_where_cells_are_done(run: Path, loose: Path) -> None:
    lacking = next((run / "evidence").glob("attack-00-*-0002.parquet"))
    lacking.unlink()
    packing.pack(Local(run))
    left = {p.name for p in (run / "evidence").glob("*.parquet") if group_of(p.name)}
    assert len(left) == 3
    assert all(name.startswith("attack-00-") for name in left)
    assert sharing.finish(run).complete
    packing.pack(Local(run))
    assert not any(group_of(p.name) for p in (run / "evidence").glob("*.parquet"))
    assert all(check.held for check in api.verify(run))


@pytest.mark.parametrize("after", range(1, 12, 2))
def test_a_kill_while_packing_loses_nothing(
    after: int, run: Path, loose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many changes of files."""
    done = 0

    class Killed(Local):
        def write(self, name: str, content: bytes, advice: str) -> None:
            self._count()
            super().write(name, content, advice)

        def remove(self, name: str, advice: str) -> None:
            self._count()
            super().remove(name, advice)

        def _count(self) -> None:
            nonlocal done
            done += 1
            if done > after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(Killed(run))
    result = load_result(Local(run))
    assert result.complete
    assert result.evidence_digest == load_result(Local(loose)).evidence_digest
    packing.pack(Local(run))
    assert not any(group_of(p.name) for p in (run / "evidence").glob("*.parquet"))
    packing.unpack(Local(run))
    assert evidence_of(run) == evidence_of(loose)


# Who reads it


def test_versions_that_know_no_packs_refuse_it(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number alone, which is all that they look at."""
    content = json.loads((small / "run.json").read_text())
    had = content.pop("packed")
    (small / "run.json").write_text(json.dumps(content))
    with pytest.raises(EvidenceError, match="upgrade robusteval to read this run"):
        read_record(Local(small))
    content |= {"packed": had, "schema": f"robusteval.run/{had + 2}"}
    (small / "run.json").write_text(json.dumps(content))
    with pytest.raises(EvidenceError, match="upgrade robusteval to read this run"):
        read_record(Local(small))


@pytest.mark.parametrize("had", [1, 99, True, "3", -1, None])
def test_a_packed_runs_record_is_checked(had: object, small: Path) -> None:
    content = json.loads((small / "run.json").read_text()) | {"packed": had}
    (small / "run.json").write_text(json.dumps(content))
    with pytest.raises(EvidenceError):
        read_record(Local(small))


def test_newer_versions_read_it(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SCHEMA", records.SCHEMA + 3)
    monkeypatch.setattr(stores, "SCHEMA", stores.SCHEMA + 3)
    assert load_result(Local(small)).complete


def test_damage_of_a_pack_is_told(small: Path) -> None:
    pack = small / "evidence" / pack_name("clean", 4)
    content = pack.read_bytes()
    pack.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    refused(cli("report", str(small)), f"{pack} is corrupt (it ", "delete it and run the same")
    checks = api.verify(small)
    assert not checks[0].held
    assert str(pack) in checks[0].told


def test_a_pack_of_nothing_is_found(small: Path) -> None:
    """One of no job of this run, and a second one of the same jobs."""
    pack = small / "evidence" / pack_name("clean", 4)
    members = unpacked(pack.read_bytes(), members_of(pack.name))
    fewer = {name: members[name] for name in members_of(pack_name("clean", 2))}
    second = small / "evidence" / pack_name("clean", 5)
    second.write_bytes(b"")
    (small / "evidence" / pack_name("attack-77-mine", 1)).write_bytes(packed(fewer))
    (check,) = [check for check in api.verify(small) if not check.held]
    assert f"{second.name} belongs to no job of this run" in check.told
    assert "attack-77-mine-0000.parquet belongs to no job" in check.told


def test_damaged_rows_are_not_packed(run: Path) -> None:
    rows = next((run / "evidence").glob("attack-00-*-0002.parquet"))
    content = rows.read_bytes()
    rows.write_bytes(content[:-100])
    refused(cli("pack", str(run)), f"{rows} is corrupt")
    assert rows.exists()


def test_nothing_is_packed_while_somebody_works(run: Path) -> None:
    worker = Claims(Local(run), 60.0, 0.02).arrive()
    refused(cli("pack", str(run)), "is at work, by ", "stop that first")
    worker.leave()
    store, _, _ = open_store(Local(run))
    with store.lock():
        refused(cli("pack", str(run)), "another process is at work")
    refused(cli("pack", str(run.parent)), "is not a run")


def test_lost_images_of_packed_rows_are_mended(small: Path, loose: Path) -> None:
    """The line names the file that is there."""
    lost = next((small / "evidence").glob("attack-*-0001.safetensors"))
    lost.unlink()
    pack = pack_name(str(group_of(f"{lost.stem}.parquet")), 4)
    with pytest.raises(EvidenceError, match=f"delete {pack} and run the same command again"):
        sharing.finish(small)
    (small / "evidence" / pack).unlink()
    assert sharing.finish(small).proven
    packing.unpack(Local(small))
    assert evidence_of(small) == evidence_of(loose)
