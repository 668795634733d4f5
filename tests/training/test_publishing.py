"""What training leaves beside an entry: others' weights as they were, and always a model."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from robusteval.errors import OutputError, RobustevalError, TrainingError
from robusteval.models.entry import read_entry
from robusteval.models.loading import build_network, load_model, read_weights, stored_form
from robusteval.models.registry import find_entry
from robusteval.storage import locked
from robusteval.training import publishing
from robusteval.training.checkpoint import read_checkpoint, write_checkpoint
from robusteval.training.train import train
from tests.helpers.commands import cli, refused
from tests.helpers.entries import TRAINING, with_weights, write_entry

SHORT = TRAINING.format(recipe="ce", epochs=1, warmup=0)


class Killed(BaseException):
    """Nothing may catch it."""


def trainable(folder: Path, name: str = "tiny") -> Path:
    """An entry with weights, and with a table by which others would be trained."""
    path = with_weights(folder, name)
    path.write_text(path.read_text() + SHORT)
    return path


def renamed(path: Path, name: str) -> Path:
    """A copy under a new name, as a user makes it: it still names the original's weights."""
    copy = path.with_name(f"{name}.toml")
    old = f'name = "{read_entry(path).name}"'
    copy.write_text(path.read_text().replace(old, f'name = "{name}"'))
    return copy


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_copy_under_a_new_name_gets_weights_of_its_own(tmp_path: Path) -> None:
    original = trainable(tmp_path)
    before = digest_of(tmp_path / "tiny.safetensors")
    copy = renamed(original, "mine")
    result = cli("train", str(copy), "--work-dir", str(tmp_path / "w"))
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(f"weights in {tmp_path / 'mine.safetensors'}")
    assert digest_of(tmp_path / "tiny.safetensors") == before
    load_model(read_entry(original))
    trained = read_entry(copy)
    assert trained.weights is not None
    assert trained.weights.file == "mine.safetensors"
    assert trained.weights.sha256 == digest_of(tmp_path / "mine.safetensors") != before
    load_model(trained)


def test_what_was_measured_on_other_weights_is_claimed_no_more(tmp_path: Path) -> None:
    path, trained = with_weights(tmp_path), find_entry("pcl_digits").trained
    assert trained is not None
    paper = '[[claims]]\nattack = "bim"\naccuracy = 40\n'
    own = '[[claims]]\nattack = "fgsm"\naccuracy = 50\nby = "protocol"\n'
    path.write_text(f"{path.read_text()}{own}{paper}{own}")
    first = read_entry(path)
    assert len(first.claims) == 3
    publishing.publish(first, stored_form(build_network(first)), trained)
    assert [claim.attack for claim in read_entry(path).claims] == ["bim"]
    path.write_text(path.read_text().replace('attack = "bim"', 'attack = "bim"\nby = "protocol"'))
    second = read_entry(path)
    same = {name: value.half() for name, value in read_weights(second).items()}
    publishing.publish(second, same, trained)
    assert len(read_entry(path).claims) == 1  # the same weights
    publishing.publish(second, stored_form(build_network(second)), trained)
    assert read_entry(path).claims == []


def test_an_entry_whose_weights_were_not_kept_gets_them_before_trained(tmp_path: Path) -> None:
    path, trained = with_weights(tmp_path), find_entry("pcl_digits").trained
    assert trained is not None
    first = read_entry(path)
    weights = stored_form(build_network(first))
    publishing.publish(first, weights, trained)
    before, _, after = path.read_text().partition("[weights]")
    path.write_text(before + after[after.index("[trained]") :])
    (tmp_path / "tiny.safetensors").unlink()
    publishing.publish(read_entry(path), weights, trained)
    written = path.read_text()
    assert 0 < written.index("[weights]") < written.index("[trained]")
    assert read_entry(path).weights is not None


def test_a_zoo_models_copy_leaves_the_zoo_alone(tmp_path: Path) -> None:
    """As docs/entry.md advises, in the folder of the original."""
    entry = find_entry("ce_digits")
    for suffix in (".toml", ".safetensors"):
        shutil.copy(entry.path.with_suffix(suffix), tmp_path)
    original = tmp_path / "ce_digits.toml"
    document = tomlkit.parse(original.read_text())
    document["name"] = "mine"
    document["training"]["epochs"] = 1  # type: ignore[index]
    (tmp_path / "mine.toml").write_text(tomlkit.dumps(document))
    before = original.read_bytes()
    train(read_entry(tmp_path / "mine.toml"), work_dir=tmp_path / "w")
    load_model(read_entry(original))
    load_model(read_entry(tmp_path / "mine.toml"))
    assert original.read_bytes() == before


def test_a_file_that_another_entry_names_is_refused_before_training(tmp_path: Path) -> None:
    """Of a copy whose name was forgotten, and of an original that a copy still names."""
    original = trainable(tmp_path)
    copy = tmp_path / "mine.toml"
    for text in (original.read_text(), original.read_text().replace('"tiny"', '"mine"', 1)):
        copy.write_text(text)
        before = digest_of(tmp_path / "tiny.safetensors")
        for path, other in ((original, copy), (copy, original)):
            if read_entry(path).name == "mine":
                continue
            told = ("would go to", f"{other} names tiny.safetensors", "another name")
            refused(cli("train", str(path), "--work-dir", str(tmp_path / "w")), *told)
        assert digest_of(tmp_path / "tiny.safetensors") == before
    assert not list((tmp_path / "w").rglob("checkpoint*"))


def test_other_entries_are_read_as_they_are(tmp_path: Path) -> None:
    """One that doesn't fit the schema names its weights all the same; others don't hold us up."""
    path = trainable(tmp_path)
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "broken.toml").write_text("[weights\n")
    (tmp_path / "none.toml").write_text("weights = 3")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    other = tmp_path / "other.toml"
    other.write_text('nonsense = 1\n[weights]\nfile = "TINY.safetensors"\n')
    with pytest.raises(TrainingError, match=r"other\.toml names TINY\.safetensors"):
        train(read_entry(path), work_dir=tmp_path / "w")
    other.unlink()
    assert train(read_entry(path), work_dir=tmp_path / "w").clean_total == 360


def test_a_file_that_no_entry_names_is_not_overwritten(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra=SHORT)
    weights = tmp_path / "tiny.safetensors"
    weights.write_text("precious")
    refused(cli("train", str(path), "--work-dir", str(tmp_path / "w")), "does not name it: move it")
    assert weights.read_text() == "precious"


def test_a_link_to_other_weights_gives_way(tmp_path: Path) -> None:
    path = trainable(tmp_path)
    (tmp_path / "tiny.safetensors").rename(tmp_path / "original.safetensors")
    (tmp_path / "tiny.safetensors").symlink_to("original.safetensors")
    before = digest_of(tmp_path / "original.safetensors")
    train(read_entry(path), work_dir=tmp_path / "w")
    assert digest_of(tmp_path / "original.safetensors") == before
    assert not (tmp_path / "tiny.safetensors").is_symlink()
    load_model(read_entry(path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a finished training's checkpoint: what is left is to publish."""
    folder = tmp_path_factory.mktemp("finished")
    train(read_entry(write_entry(folder, extra=SHORT)), work_dir=folder / "w")
    return folder / "w"


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets a number of files be replaced or removed, and kills at the next: before, or after."""

    def train_until(entry: Path, work: Path, allowed: int, after: bool) -> bool:
        left = allowed

        def stops(real: Any) -> Any:
            def act(*arguments: Any) -> None:
                nonlocal left
                left -= 1
                if left >= 0 or after:
                    real(*arguments)
                if left < 0:
                    raise Killed

            return act

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stops(os.replace))
            patch.setattr(publishing, "remove_file", stops(publishing.remove_file))
            try:
                train(read_entry(entry), work_dir=work)
            except Killed:
                return True
        return False

    return train_until


@pytest.mark.parametrize("kind", ["named", "renamed"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_wherever_it_is_a_training_leaves_a_model(
    kind: str, after: bool, tmp_path: Path, finished: Path, killed_at: Any
) -> None:
    """The old one or the new one; and the next training ends as if there had been no kill."""
    points = 0
    outcomes = set()
    while True:
        folder = tmp_path / str(points)
        shutil.copytree(finished, folder / "w")
        original = trainable(folder, "tiny" if kind == "named" else "original")
        path = original if kind == "named" else renamed(original, "tiny")
        kept = digest_of(folder / "original.safetensors") if kind == "renamed" else ""
        if not killed_at(path, folder / "w", points, after):
            break
        entry = read_entry(path)
        load_model(entry)
        outcomes.add(entry.trained is not None)
        train(entry, work_dir=folder / "w")
        entry = read_entry(path)
        assert entry.weights is not None
        assert entry.weights.file == "tiny.safetensors"
        load_model(entry)
        weights = {"tiny.safetensors"} | ({"original.safetensors"} if kept else set())
        assert {p.name for p in folder.glob("*.safetensors")} == weights
        assert not list(folder.rglob(".*.partial"))
        if kept:
            load_model(read_entry(original))
            assert digest_of(folder / "original.safetensors") == kept
        points += 1
    assert points == (5 if kind == "named" else 3)  # replaced files, and the one removed at the end
    assert outcomes == {False, True}


def test_a_first_training_killed_before_its_entry_is_written_goes_on(
    tmp_path: Path, finished: Path, killed_at: Any
) -> None:
    path = write_entry(tmp_path, extra=SHORT)
    assert killed_at(path, finished, 1, False)
    assert (tmp_path / "tiny.safetensors").exists()
    train(read_entry(path), work_dir=finished)
    load_model(read_entry(path))


def test_two_trainings_of_one_entry_do_not_mix(tmp_path: Path) -> None:
    """In one work folder, or in two."""
    path = write_entry(tmp_path, extra=SHORT)
    (tmp_path / "w" / "tiny").mkdir(parents=True)
    busy = TrainingError("busy")
    for lock, make in ((tmp_path / "w" / "tiny" / ".lock", True), (path, False)):
        with locked(lock, busy, make=make), pytest.raises(TrainingError, match="another process"):
            train(read_entry(path), work_dir=tmp_path / "w")
    told: list[str] = []

    def second(_: object) -> None:
        try:
            train(read_entry(path), work_dir=tmp_path / "v")
        except TrainingError as error:
            told.append(str(error))

    train(
        read_entry(path),
        work_dir=tmp_path / "w",
        on_epoch=lambda line: in_a_thread(lambda: second(line)),
    )
    assert told == ["another process trains tiny: wait for it, or stop it"]


def in_a_thread(act: Any) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


def test_what_killed_trainings_left_is_cleared(tmp_path: Path, finished: Path) -> None:
    path = write_entry(tmp_path, extra=SHORT)
    left = [tmp_path / ".tiny.toml.77.partial", finished / "tiny" / ".log.jsonl.77.partial"]
    for one in left:
        one.write_text("half")
    train(read_entry(path), work_dir=finished)
    assert not any(one.exists() for one in left)


def test_an_entry_with_a_byte_order_mark_is_filled_in(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra=SHORT)
    entry = read_entry(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    trained = find_entry("ce_digits").trained
    assert trained is not None
    publishing.publish(entry, stored_form(build_network(entry)), trained)
    assert read_entry(path).trained == trained
    load_model(read_entry(path))


def test_places_that_cannot_be_written_are_told_before_training(tmp_path: Path) -> None:
    path = write_entry(tmp_path, extra=SHORT)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for place in ("file", "file/w", "loop", "pipe", "x" * 300, "y/" * 3000):
        result = cli("train", str(path), "--work-dir", str(tmp_path / place))
        refused(result, "--work-dir")
    for name in ("checkpoint.safetensors", "log.jsonl"):
        (tmp_path / "w" / "tiny" / name).mkdir(parents=True)
        refused(
            cli("train", str(path), "--work-dir", str(tmp_path / "w")), "not a file", "--work-dir"
        )
        (tmp_path / "w" / "tiny" / name).rmdir()
    (tmp_path / "tiny.safetensors").mkdir()
    refused(cli("train", str(path), "--work-dir", str(tmp_path / "w")), "tiny.safetensors can't be")
    long = write_entry(tmp_path, "n" * 240, SHORT)
    long.write_text(long.read_text().replace("n" * 240, "n" * 250))
    refused(cli("train", str(long), "--work-dir", str(tmp_path / "w")), "choose 80 or fewer")


def test_a_full_disk_keeps_the_checkpoint_and_the_model(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trainable(tmp_path)
    before = digest_of(tmp_path / "tiny.safetensors")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"safetensors can't be written \(No space left"):
            train(read_entry(path), work_dir=finished)
    assert digest_of(tmp_path / "tiny.safetensors") == before
    load_model(read_entry(path))
    train(read_entry(path), work_dir=finished)
    assert read_entry(path).trained is not None


def test_a_checkpoint_altered_by_one_bit_is_broken(finished: Path, tmp_path: Path) -> None:
    content = (finished / "tiny" / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "c"
    for at in range(0, len(content), len(content) // 40):
        flipped = bytearray(content)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(TrainingError, match="delete it to start anew"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"speed": None},
        {"speed": {"fast": True}},
        {"history": [{"epoch": 1}]},
        {"history": 3},
        {"epoch": 7},
        {"epoch": "1"},
        {"best_epoch": -1},
        {"unknown": 1},
    ],
)
def test_a_checkpoint_with_another_state_is_broken(
    change: dict[str, object], finished: Path, tmp_path: Path
) -> None:
    source = finished / "tiny" / "checkpoint.safetensors"
    tensors, state = read_checkpoint(source)
    place = tmp_path / "w" / "tiny"
    write_checkpoint(place / "checkpoint.safetensors", tensors, {**state, **change})
    path = write_entry(tmp_path, extra=SHORT)
    with pytest.raises(RobustevalError, match=r"is broken .* delete it"):
        train(read_entry(path), work_dir=tmp_path / "w")
    tensors.pop(next(name for name in tensors if name.startswith("network.")))
    write_checkpoint(place / "checkpoint.safetensors", tensors, state)
    with pytest.raises(TrainingError, match=r"is broken .* delete it"):
        train(read_entry(path), work_dir=tmp_path / "w")


def test_another_entry_of_the_name_meets_the_first_ones_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    path = write_entry(tmp_path, extra=SHORT.replace("lr = 0.01", "lr = 0.02"))
    before = (finished / "tiny" / "checkpoint.safetensors").read_bytes()
    told = ("another entry of its name", "--work-dir")
    refused(cli("train", str(path), "--work-dir", str(finished)), *told)
    assert (finished / "tiny" / "checkpoint.safetensors").read_bytes() == before
