"""Paths and URLs as they are given."""

import copy
import sys
from pathlib import Path

import pytest

from robusteval import api
from robusteval.errors import EvidenceError, OutputError
from robusteval.evidence.files import Local
from robusteval.evidence.located import files_at, runs_in
from robusteval.places import Url, named_place, parse_place, without_secrets
from tests.helpers.commands import cli, refused


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("runs", Path("runs")),
        (Path("runs"), Path("runs")),
        ("C:x", Path("C:x")),
        ("file:///tmp/runs", Path("/tmp/runs")),
        ("file:///", Path("/")),
        ("s3://bucket", "s3://bucket"),
        ("S3://Bucket/Runs/", "s3://Bucket/Runs"),
        ("memory:///a/b", "memory:///a/b"),
        (Url("gs://b/x"), "gs://b/x"),
    ],
)
def test_places_are_read(given: object, read: object) -> None:
    found = parse_place(given)
    assert found == read
    assert isinstance(found, Path) == isinstance(read, Path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "the path is empty"),
        (3, "give a path"),
        ("s3://", "names a bucket or host"),
        ("s3://b//x", "names a bucket or host"),
        ("s3://b/../x", "names a bucket or host"),
        ("s3://me:secret@host/x", "no user and no password"),
        ("s3://me@host/x", "no user and no password"),
        ("https://host/x?token=1", "leave [?], # and :: out"),
        ("zip://a.zip::s3://b", "leave [?], # and :: out"),
        ("s3://b/a\nb", "text that can be printed"),
        ("s3://b/\udcff", "text that can be printed"),
        (f"s3://b/{'x' * 1000}", "no store takes so long a name"),
        (Path("s3://b/x"), "a Path can't hold a URL"),
    ],
)
def test_other_places_are_told(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_place(given)


def test_a_url_goes_up_and_down() -> None:
    url = Url("s3://bucket/runs")
    assert (url / "one", (url / "one").name) == ("s3://bucket/runs/one", "one")
    assert ((url / "one").parent, url.parent.parent) == (url, "s3://bucket")
    assert isinstance(copy.copy(url / "one"), Url)


def test_no_password_is_told() -> None:
    with pytest.raises(EvidenceError) as told:
        named_place("s3://me:secret@host/x", "run", EvidenceError)
    assert "secret" not in str(told.value)
    assert without_secrets("from http://me:secret@host/x") == "from http://…@host/x"
    done = cli("run", "--model", "ce_digits", "--out", "s3://me:secret@host/x")
    refused(done, "no user and no password")
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense://x", "Protocol not known: nonsense"),
        ("abfs://x/y", "abfs:// can't be used here: Install adlfs"),
    ],
)
def test_what_cannot_be_opened_is_told_at_once(url: str, said: str) -> None:
    with pytest.raises(OutputError, match=said):
        files_at(parse_place(url))
    refused(cli("report", url), said)
    refused(cli("run", "--model", "ce_digits", "--out", url), said)


@pytest.mark.parametrize(("url", "name"), [("s3://b/x", "s3"), ("gs://b/x", "gcs")])
def test_without_the_extra_one_line(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    refused(cli("verify", url), f"pip install 'robusteval[{name}]'")
    refused(cli("run", "--model", "ce_digits", "--out", url), f"'robusteval[{name}]'")
    with pytest.raises(OutputError, match="which is not installed"):
        api.compare([url, url])


def test_runs_of_a_folder(tmp_path: Path) -> None:
    for name in ("m-quick-2", "m-quick-1", "other"):
        files = Local(tmp_path / name)
        files.prepare("", "no")
    assert runs_in(tmp_path, "m-quick-") == [tmp_path / "m-quick-1", tmp_path / "m-quick-2"]
    assert runs_in(tmp_path / "nowhere", "m-quick-") == []
