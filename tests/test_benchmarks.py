"""Small versions of the benchmarks: that they measure what they say."""

from pathlib import Path

import pytest
import torch

from benchmarks import retrain, training_speed
from robusteval.data.datasets import load_dataset
from robusteval.models.entry import Trained, built_in_folder, find_entry


def test_both_loops_of_training_speed_learn_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    entry = find_entry("ce_at_digits")
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    settings = training_speed.settings_of(entry, epochs=3, seed=0)
    assert (settings.recipe, settings.adversarial) == ("ce", None)
    ((plain, ours),) = training_speed.compare(entry, train, test, epochs=3, seeds=1)
    assert min(plain.accuracy, ours.accuracy) > 0.7
    assert plain.seconds > 0
    assert "times faster" in capsys.readouterr().out


def test_training_anew_ends_at_the_same_accuracy(tmp_path: Path) -> None:
    """A short training, twice: the same seed gives the same model, whatever is in the folder."""
    text = (built_in_folder() / "ce_at_digits.toml").read_text()
    text = text.replace("epochs = 30", "epochs = 3", 1).replace("ce_at_digits", "short")
    text = text[: text.index("[training.adversarial]")]
    (tmp_path / "short.toml").write_text(text)
    found = []
    for name in ("first", "second"):
        torch.manual_seed(len(found))
        (tmp_path / name).mkdir()
        found.append(retrain.train_anew(str(tmp_path / "short.toml"), tmp_path / name, None)[0])
    assert found[0].clean_correct == found[1].clean_correct
    assert found[0].clean_accuracy > 0.8
    assert (tmp_path / "short.toml").read_text() == text


def test_accuracies_agree_where_their_intervals_overlap() -> None:
    stated = find_entry("ce_digits").trained
    assert stated is not None

    def with_correct(correct: int) -> Trained:
        return stated.model_copy(update={"clean_correct": correct})

    assert retrain.agrees(stated, with_correct(stated.clean_correct - 5))
    assert not retrain.agrees(stated, with_correct(stated.clean_correct - 40))
