"""A small version of the ResNet-18 that is trained anew: width 2, 64 images of digits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import attacks, resnet18, stored, tables
from benchmarks.resnet18 import Asked, InParts, Made
from robusteval.models.loading import load_model


def small(folder: Path) -> Asked:
    return Asked(folder, 0.01, width=2, dataset="digits", images=64, part=16, validation=16)


def test_it_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet18, "_parts_within", lambda *_: 4)
    whole, made = resnet18.make(small(tmp_path / "whole"))
    assert (made.width, made.images, made.total) == (2, 4 * 16, 64)
    assert 0 <= made.clean <= 64
    assert made.parameters == sum(p.numel() for p in load_model(whole).parameters())
    epoch, seen = InParts._epoch, list[list[int]]()

    def killed(self: InParts, number: int) -> tuple[float, float]:
        if number == 2 and not seen[2:]:
            seen.append([])
            raise KeyboardInterrupt
        found = epoch(self, number)
        seen.append(self.training.labels.tolist())
        return found

    monkeypatch.setattr(InParts, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        resnet18.make(small(tmp_path / "killed"))
    resumed, again = resnet18.make(small(tmp_path / "killed"))
    assert len(seen) == 2 + 1 + 2  # two parts, the kill, and two parts
    assert again.weights == made.weights != ""
    monkeypatch.setattr(InParts, "_epoch", None)
    assert resnet18.make(small(tmp_path / "killed"))[1] == again  # nothing is trained twice
    assert torch.equal(*(next(iter(load_model(entry).parameters())) for entry in (whole, resumed)))


def test_parts_go_through_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of 16 make the 48 images that validation leaves, once each."""
    taken: list[torch.Tensor] = []

    def epoch(self: InParts, number: int) -> tuple[float, float]:
        taken.append(self.training.pixels)
        return 0.0, 0.0

    monkeypatch.setattr(resnet18.Trainer, "_epoch", epoch)
    asked = small(tmp_path)
    training, validation, _ = resnet18.data_of(asked)
    entry = resnet18.entry_of(asked, training)
    assert entry.training is not None
    network = resnet18.build_network(entry)
    recipe = resnet18.RECIPES.get("ce")(network, entry.training)
    trainer = InParts(network, recipe, training, validation, entry.training, part=asked.part)
    for number in range(3):
        trainer._epoch(number)
    seen = {tuple(one.flatten().tolist()) for one in torch.cat(taken)}
    assert seen == {tuple(one.flatten().tolist()) for one in training.pixels}
    assert [len(part) for part in taken] == [16, 16, 16]


def test_as_many_images_as_the_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half a second a pass of 48 images: 96 a second, and of each two passes and a quarter."""
    monkeypatch.setattr(resnet18, "seconds_per_step", lambda *_: 0.5)
    for minutes, parts in ((1.0, round(60 * 96 / 2.5 / 16)), (0.001, 1), (1000, 15 * 3)):
        asked = Asked(tmp_path / str(minutes), minutes, 2, "digits", 64, 16, 16)
        training, *_ = resnet18.data_of(asked)
        settings = resnet18.entry_of(asked, training).training
        assert settings is not None
        assert settings.epochs == min(parts, 45)


def result(attack: str, robust: int, passes: float, seconds: float) -> attacks.Result:
    return attacks.Result(
        *("fast", "0a", "Linf", "8/255", attack, 64, 40, robust, passes, 0.0, seconds, "two cores")
    )


def test_it_says_what_does_not_hold_and_what_was_made() -> None:
    made = Made("fast", "0a", 64, 11_200_000, 95_000, 79.6, "two cores", "bfloat16", 400, 1000, 0.3)
    fine = [result("adaptive", 20, 100, 1), result("autoattack", 19, 2600, 60)]

    def wrong(results: list[attacks.Result], minutes: float = 79.6) -> Iterator[str]:
        return resnet18.problems(Made(**{**vars(made), "minutes": minutes}), results)

    assert list(wrong(fine)) == []
    assert list(wrong(fine, 90.0)) == ["trained for 90 minutes"]
    assert list(wrong(fine[:1])) == ["nothing is compared without both adaptive and autoattack"]
    slow = [result("adaptive", 21, 200, 2), fine[1]]
    assert list(wrong(slow)) == [
        "adaptive leaves 21, AutoAttack 19",
        "1/13.0 of the passes, 1/30.0 of the seconds",
    ]
    told = list(resnet18.table([made], fine))
    assert told[0].startswith("`fast`: 11.2 M parameters, 95,000 images in 80 min on two cores")
    assert told[4].startswith("| `fast` | ")


def test_its_script_stores_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resnet18, "_parts_within", lambda *_: 2)
    given = {"folder": tmp_path, "width": 2, "dataset": "digits", "images": 64, "part": 16}
    given |= {"validation": 16, "samples": 64, "results": tmp_path / "results"}
    asked = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["resnet18", *asked, "--attacks", "adaptive"])
    assert resnet18.main() == 1  # without AutoAttack nothing is compared
    monkeypatch.setattr(attacks, "run", None)
    assert resnet18.main() == 1  # and nothing is measured twice
    (made,) = stored.read(tmp_path / "results" / "resnet18.csv", Made)
    (found,) = stored.read(tmp_path / "results" / "resnet18_attacks.csv", attacks.Result)
    assert (found.model, found.weights) == ("fast_digits_resnet18", made.weights)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert next(tables.full_width()).startswith("`fast_digits_resnet18`: ")
    assert "DOES NOT HOLD: nothing is compared" in capsys.readouterr().out
