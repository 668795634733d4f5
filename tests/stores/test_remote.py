"""A run's files in a store: whole or absent, made once, locked, and asked for with patience."""

import copy
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from robusteval.errors import EvidenceError, OutputError
from robusteval.evidence import filesystems
from robusteval.evidence.copies import Copies
from robusteval.evidence.lease import Times, leased
from robusteval.evidence.remote import Remote
from robusteval.places import Url
from tests.helpers.stores import Counting, counting

BUSY = EvidenceError("another process has it")
URL = Url("counting://bucket/run")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counting]]:
    monkeypatch.setattr(filesystems, "PAUSES", (0.0, 0.0, 0.0))
    with counting() as store:
        yield store


@pytest.fixture
def run(store: type[Counting]) -> Remote:
    return Remote(URL)


def down(kind: str, path: str) -> None:
    raise ConnectionError("Connection refused")


def hindered(store: type[Counting], times: int, *kinds: str) -> None:
    """The next so many requests of these kinds find no answer."""
    left = times

    def hinder(kind: str, path: str) -> None:
        nonlocal left
        if left and (kind in kinds or not kinds):
            left -= 1
            down(kind, path)

    store.hinder = staticmethod(hinder)


# Files


def test_what_is_written_is_read(run: Remote) -> None:
    run.prepare("evidence", "no")
    assert run.names("evidence") == run.names("") == []
    assert run.size("run.json") == -1
    with pytest.raises(FileNotFoundError):
        run.read("run.json")
    run.write("run.json", b"one", "no")
    run.write("run.json", b"three", "no")
    run.write("evidence/b.parquet", b"", "no")
    run.write("evidence/a.parquet", b"", "no")
    assert (run.read("run.json"), run.size("run.json"), run.has("run.json")) == (b"three", 5, True)
    assert not run.has("evidence")
    assert run.names("evidence") == ["a.parquet", "b.parquet"]
    assert run.names("") == ["evidence", "run.json"]
    run.remove("evidence/a.parquet", "no")
    run.remove("evidence/a.parquet", "no")
    assert run.names("evidence") == ["b.parquet"]
    with pytest.raises(FileNotFoundError):
        run.read("evidence/a.parquet")
    assert run.where("run.json") == "counting://bucket/run/run.json"
    assert sorted(run.sizes()) == [0, 5]
    run.remove_all("no")
    run.remove_all("no")
    assert run.sizes() == []
    assert run.names("") == []


def test_one_creates_it(run: Remote) -> None:
    assert run.create("claims/1", b"mine", "no")
    assert not Remote(URL).create("claims/1", b"other", "no")
    assert run.read("claims/1") == b"mine"
    assert run.names("") == ["claims"]  # the probe is gone


def test_it_travels_as_its_url(run: Remote) -> None:
    run.write("run.json", b"one", "no")
    there = copy.copy(run.from_anywhere())
    assert there.read("run.json") == b"one"


def test_evidence_is_fetched_once_and_the_rest_as_it_is_now(
    run: Remote, store: type[Counting]
) -> None:
    run.write("evidence/a.parquet", b"one", "no")
    run.write("run.json", b"one", "no")
    other = Remote(URL)
    assert [other.read("evidence/a.parquet") for _ in range(3)] == [b"one"] * 3
    assert run.read("evidence/a.parquet") == b"one"
    assert store.asked["get"] == 1
    run.write("evidence/a.parquet", b"three", "no")
    run.write("run.json", b"three", "no")
    assert run.read("evidence/a.parquet") == b"three"
    assert other.read("run.json") == b"three"
    assert Remote(URL).read("evidence/a.parquet") == b"three"


def test_copies_have_a_limit() -> None:
    copies = Copies(most=6)
    for name, content in {"a": b"123", "b": b"4567", "c": b"89", "d": b"0", "e": b"1"}.items():
        copies.keep(name, content)
    assert [copies.read(n) for n in "abcde"] == [b"123", None, b"89", b"0", None]
    copies.keep("a", b"7")
    assert copies.read("a") is None  # an old one would be wrong
    copies.drop("c")
    assert copies.read("c") is None


# A store that doesn't promise what is needed


def test_a_store_without_conditional_writes_is_told(
    store: type[Counting], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Counting.pipe_file
    monkeypatch.setattr(
        Counting, "pipe_file", lambda self, path, value, mode="": plain(self, path, value)
    )
    run = Remote(URL)
    assert run.create("claim", b"mine", "no")
    assert not run.create("claim", b"other", "no")
    assert run.read("claim") == b"mine"
    assert [r.message for r in caplog.records] == [
        f"{URL} has no conditional writes: let one process alone work there"
    ]
    assert run.names("") == ["claim"]


def test_where_nothing_can_be_written_is_told_at_once(run: Remote, store: type[Counting]) -> None:
    def refuse(kind: str, path: str) -> None:
        if kind == "put":
            raise PermissionError("Access Denied")

    store.hinder = staticmethod(refuse)
    with pytest.raises(OutputError, match=r"run can't be written \(Access Denied\): mend that"):
        run.prepare("", "mend that")
    assert store.asked["put"] == 1  # no second try would help


# A store that doesn't answer


def test_it_is_asked_again_and_told_once(
    run: Remote, store: type[Counting], caplog: pytest.LogCaptureFixture
) -> None:
    run.write("run.json", b"one", "no")
    hindered(store, 3)
    assert run.read("run.json") == b"one"
    (told,) = [record.message for record in caplog.records]
    assert told.startswith(f"{URL} does not answer (Connection refused): trying again for")


def test_in_the_end_it_is_told_and_then_asked_once(run: Remote, store: type[Counting]) -> None:
    store.hinder = staticmethod(down)
    with pytest.raises(
        OutputError, match=r"run.json can't be written \(Connection refused\): wait"
    ):
        run.write("run.json", b"one", "wait")
    assert store.asked["put"] == 4
    with pytest.raises(OSError, match="Connection refused") as found:
        run.read("run.json")
    assert (store.asked["get"], found.value.strerror) == (1, "Connection refused")
    for ask in (lambda: run.names("evidence"), lambda: run.has("run.json")):
        with pytest.raises(EvidenceError, match=r"can't be looked for .*finished jobs are kept"):
            ask()
    hindered(store, 2)
    with pytest.raises(OSError, match="Connection refused"):
        run.read("run.json")
    hindered(store, 0)
    assert not run.has("run.json")
    hindered(store, 3)
    assert not run.has("run.json")  # it is patient again


def test_a_lost_answer_is_no_other_process(run: Remote, store: type[Counting]) -> None:
    run.prepare("", "no")
    plain, lost = store.store, []

    def lose(kind: str, path: str) -> None:
        if kind == "put" and not lost:
            lost.append(path)
            plain_put(path, b"mine")
            raise ConnectionError("reset")

    def plain_put(path: str, content: bytes) -> None:
        store.hinder = staticmethod(lambda kind, path: None)
        run._fs.pipe_file(path, content)

    store.hinder = staticmethod(lose)
    assert run.create("claim", b"mine", "no")
    assert lost
    assert list(plain) == ["/bucket/run/claim"]


# The lock


class Others:
    """A clock that goes on with each look, and what others do while one waits."""

    def __init__(self, *acts: Any) -> None:
        self.now, self.acts = 0.0, list(acts)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.acts:
            self.acts.pop(0)()


def locked(run: Remote, others: Others, times: Times = Times(beat=1000.0)) -> Any:
    return leased(run, BUSY, times, others.clock, others.sleep)


def taken_by(run: Remote, number: int = 1) -> Callable[[], None]:
    """Another process has the lock; how it gives its next sign of life."""
    signs = iter(range(10**6))

    def sign() -> None:
        run.write("lock/worker-other.json", str(next(signs)).encode(), "no")

    sign()
    run.write(f"lock/run.{number}.json", b'{"who": "other"}', "no")
    return sign


def names_of(run: Remote) -> list[str]:
    return [name for name in run.names("lock") if name.startswith("run.")]


def idle() -> None:
    pass


def test_one_at_a_time(run: Remote) -> None:
    with locked(run, Others()):
        (name, worker) = run.names("lock")
        assert name == "run.1.json"
        beat = lambda: run.write(f"lock/{worker}", b"alive", "no")  # noqa: E731
        with pytest.raises(EvidenceError, match="has it"), locked(run, Others(beat)):
            pass
    assert run.names("lock") == []
    with run.lock(BUSY):
        pass


def test_a_silent_holder_is_gone_after_a_lease(run: Remote) -> None:
    taken_by(run, 3)
    others = Others()
    with locked(run, others):
        assert others.now == 60.0
        assert names_of(run) == ["run.3.json", "run.4.json"]
    assert run.names("lock") == []


def test_of_several_who_wait_one_takes_over(run: Remote) -> None:
    taken_by(run)

    def quicker() -> None:
        run.write("lock/worker-quicker.json", b"1", "no")
        run.write("lock/run.2.json", b'{"who": "quicker"}', "no")

    beat = lambda: run.write("lock/worker-quicker.json", b"2", "no")  # noqa: E731
    others = Others(*[idle] * 29, quicker, idle, beat)
    with pytest.raises(EvidenceError, match="has it"), locked(run, others):
        pass
    assert names_of(run) == ["run.1.json", "run.2.json"]


def test_several_who_wait_are_no_holders(run: Remote) -> None:
    """Their signs of life are not the killed one's."""
    taken_by(run)
    waits = lambda: run.write("lock/worker-waits.json", str(others.now).encode(), "no")  # noqa: E731
    others = Others(*[waits] * 30)
    with locked(run, others):
        assert others.now == 60.0


def test_a_lock_that_is_released_is_free(run: Remote) -> None:
    taken_by(run)

    def release() -> None:
        run.remove("lock/run.1.json", "no")
        run.remove("lock/worker-other.json", "no")

    others = Others(idle, release)
    with locked(run, others):
        assert others.now == 4.0


def test_a_holder_tells_that_it_lives(run: Remote) -> None:
    """From a thread: another one sees it, by a clock that stands for minutes."""
    with leased(run, BUSY, Times(beat=0.01)), pytest.raises(EvidenceError, match="has it"):
        leased(run, BUSY, Times(look=0.05)).__enter__()


def test_who_was_silent_for_too_long_is_told(run: Remote, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with leased(run, BUSY, Times(beat=0.01)):
        taken_by(run, 2)
        for _ in range(500):
            if caplog.records:
                break
            time.sleep(0.01)
    assert "another process took this run over" in caplog.records[0].message
    assert run.names("lock") == ["run.2.json", "worker-other.json"]
