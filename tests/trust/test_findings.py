"""Findings on a run's own evidence: is clean accuracy a likely one, do images show anything?"""

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval import api
from robusteval.data.datasets import Dataset
from robusteval.evidence.judge import predict
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import all_entries, built_in_folder, find_entry
from robusteval.numerics import drawn_alike
from robusteval.run.progress import Silent
from robusteval.trust.findings import plausible_accuracy, verification
from tests.helpers.attacks import AddAttack
from tests.helpers.commands import cli
from tests.helpers.models import file_of, linear_model
from tests.helpers.runs import run_suite, unprobed

ASKED = ("normalisation", "order", "range of its images")


def verdict(right: int, samples: int, classes: int = 10, trained: Any = None) -> str:
    labels = np.arange(samples) % classes
    wrong = (labels + 1) % classes
    predictions = np.where(np.arange(samples) < right, labels, wrong)
    found = plausible_accuracy(labels, predictions, [str(k) for k in range(classes)], trained)
    assert all(word in found.advice for word in ASKED) or found.verdict == "ok"
    return found.verdict


@pytest.mark.parametrize(
    ("right", "samples", "classes", "expected"),
    [
        (94, 1000, 10, "suspicious"),  # 9.4 % of ten classes
        (30, 1000, 10, "suspicious"),  # below chance: classes in another order
        (0, 1000, 10, "suspicious"),
        (119, 1000, 10, "ok"),  # from 10.04 %
        (118, 1000, 10, "suspicious"),  # from 9.95 %
        (500, 1000, 2, "suspicious"),
        (3, 100, 2, "suspicious"),  # two classes exchanged
        (700, 1000, 2, "ok"),
        (10, 1000, 100, "suspicious"),
        (600, 1000, 100, "ok"),
        (5, 5, 10, "ok"),
    ],
)
def test_accuracy_at_chance(right: int, samples: int, classes: int, expected: str) -> None:
    assert verdict(right, samples, classes) == expected


@pytest.mark.parametrize(
    ("right", "samples", "trained", "expected"),
    [
        (9188, 10000, (9188, 10000), "ok"),
        (9178, 10000, (9188, 10000), "ok"),  # 0.1 %: numerics
        (9177, 10000, (9188, 10000), "suspicious"),  # all samples: nothing is left to chance
        (9199, 10000, (9188, 10000), "suspicious"),
        (354, 360, (355, 360), "ok"),
        (353, 360, (355, 360), "suspicious"),
        (38, 40, (9937, 10000), "ok"),  # the intervals are disjoint, but one in forty runs is so
        (29, 40, (9188, 10000), "ok"),  # one more, for numerics: p = 0.002
        (28, 40, (9188, 10000), "suspicious"),  # one more: p = 0.0005
        (790, 1000, (9188, 10000), "suspicious"),
        (1000, 1000, (9188, 10000), "suspicious"),  # too good, too
        (95, 100, (36, 40), "ok"),  # more samples than the entry tells of
        (50, 100, (36, 40), "suspicious"),
        (95, 100, (0, 0), "ok"),  # counts that say nothing
        (95, 100, (7, 5), "ok"),
    ],
)
def test_accuracy_beside_the_trained_one(
    right: int, samples: int, trained: tuple[int, int], expected: str
) -> None:
    assert verdict(right, samples, trained=trained) == expected


def test_one_class_for_all_is_chance_whatever_its_share() -> None:
    """Nine in ten are right where nine in ten are of that class."""
    labels = np.array([1] * 90 + [0] * 10)
    found = plausible_accuracy(labels, np.ones(100, int), ["cat", "dog"])
    assert found.verdict == "suspicious"
    assert (
        found.measured == "90.0 % [82.6, 94.5] of 100 samples are right, and all are taken for dog"
    )
    assert plausible_accuracy(labels[:90], np.ones(90, int), ["cat", "dog"]).verdict == "ok"


@pytest.mark.parametrize(("k", "n", "whole_k", "whole_n"), [(3, 5, 9, 12), (0, 4, 2, 9)])
def test_draws_against_all_ways_to_draw(k: int, n: int, whole_k: int, whole_n: int) -> None:
    def share(counts: range) -> float:
        ways = sum(math.comb(whole_k, c) * math.comb(whole_n - whole_k, n - c) for c in counts)
        return ways / math.comb(whole_n, n)

    expected = min(1, 2 * min(share(range(k + 1)), share(range(k, n + 1))))
    assert drawn_alike(k, n, whole_k, whole_n) == pytest.approx(expected)


def test_draws_of_everything_are_equal() -> None:
    assert drawn_alike(7, 10, 7, 10) == 1
    assert drawn_alike(6, 10, 7, 10) == drawn_alike(8, 10, 7, 10) == 0


def test_no_model_of_the_zoo_is_asked_about(digits: Dataset) -> None:
    """On class-balanced subsets of every tenth size, and on the whole split."""
    sizes = [*range(10, 360, 10), 360]
    indices = [digits.balanced_subset(size).indices.numpy() for size in sizes]
    looked = 0
    for name in sorted(p.stem for p in built_in_folder().glob("*/*_digits.toml")):
        entry = find_entry(name)
        assert entry.trained is not None
        figure = entry.trained.clean_correct, entry.trained.clean_total
        predicted = predict(load_model(entry), digits.images(), 360).argmax(1).numpy()
        for chosen in indices:
            labels = digits.labels.numpy()[chosen]
            found = plausible_accuracy(labels, predicted[chosen], digits.class_names, figure)
            assert found.verdict == "ok", (name, len(chosen), found.measured)
            looked += 1
    assert looked > 30 * len(sizes)
    assert len([*all_entries()]) > 50


class Told(Silent):
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def doubt(self, told: str) -> None:
        self.events.append(told)


def test_doubt_is_told_before_the_first_attack(
    pcl_digits: Adapter, add_attack: AddAttack, tmp_path: Path
) -> None:
    """Classes in another order; told once more where the run goes on."""
    progress = Told()

    class Shifted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return pcl_digits(images).roll(1, dims=1)

    def mine(model: Any, images: Tensor, labels: Tensor, threat: Any, *, seed: int) -> Tensor:
        progress.events.append("attack")
        if len(progress.events) == 2:
            raise KeyboardInterrupt
        return images

    add_attack("mine", mine)
    suite = tmp_path / "s.toml"
    suite.write_text(
        'name = "s"\n[[attacks]]\nname = "mine"\ntitle = "Mine"\nlibrary = "robusteval"\n'
        'attack = "mine"\nnorms = ["Linf"]\n'
    )
    options = api.Options(out=tmp_path, threads=1, progress=progress, batch_size=360)

    def run() -> api.Report:
        return api.evaluate(Adapter(Shifted(), 10), str(suite), "digits", "shifted", options)

    with pytest.raises(KeyboardInterrupt):
        run()
    report = run()
    told = [event for event in progress.events if event != "attack"]
    assert progress.events == [told[0], "attack", told[0], "attack"]
    assert told[0].startswith("shifted: clean accuracy: suspicious: ")
    (finding,) = [f for f in report.content["findings"] if f["check"] == "clean accuracy"]
    assert finding["verdict"] == "suspicious"
    assert finding["measured"] in told[0]
    assert "where guessing among 10 classes gives 10.0 %" in finding["measured"]
    run()  # finished: its report says it
    assert len(progress.events) == 4


def test_nobody_who_watches_is_told_by_the_log(
    digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    always_three = linear_model(torch.zeros(10, 64), torch.eye(10)[3])
    run_suite(always_three, digits.balanced_subset(20), unprobed("quick").only(["fgsm"]))
    (line,) = [r for r in caplog.records if r.name == "robusteval"]
    assert line.levelno == logging.WARNING
    assert "all are taken for 3" in line.getMessage()


def test_honest_models_raise_no_doubt(
    pcl_digits: Adapter, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run_suite(pcl_digits, digits.balanced_subset(20), unprobed("quick").only(["fgsm"]))
    assert [r for r in caplog.records if r.name == "robusteval"] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mean = [0.305]\nstd = [0.376]", "mean = [77.8]\nstd = [95.9]", "guessing|taken for"),
        (
            "clean_correct = 355",
            "clean_correct = 340",
            r"98.6 % \[96.8, 99.4\] .*trained.* says 94.4 %",
        ),
    ],
)
def test_the_command_line_asks_first(old: str, new: str, said: str) -> None:
    """Normalised as images in [0, 255] would be; a figure of other weights."""
    text = file_of("pcl_digits.toml").read_text()
    assert old in text
    Path("pcl_digits.toml").write_text(text.replace(old, new))
    weights = file_of("pcl_digits.safetensors").read_bytes()
    Path("pcl_digits.safetensors").write_bytes(weights)
    Path("s.toml").write_text(
        'name = "s"\n[[attacks]]\nname = "fgsm"\ntitle = "FGSM"\nlibrary = "torchattacks"\n'
        'attack = "FGSM"\nnorms = ["Linf"]\n'
    )
    result = cli("run", "--model", "./pcl_digits.toml", "--suite", "s.toml")
    assert result.exit_code == 0
    clean, line, attack = result.stderr.splitlines()
    assert "1 of 2 jobs done: clean predictions: done" in clean
    assert line.startswith("robusteval: pcl_digits: clean accuracy: suspicious: ")
    assert re.search(said, line)
    assert all(word in line for word in ASKED)
    assert "2 of 2 jobs done: FGSM, L∞ 0.15: " in attack
    assert "clean accuracy: suspicious" in " ".join(result.stdout.split())


def test_an_entry_without_weights_is_named(tmp_path: Path) -> None:
    """Once, with what to do; what is printed last repeats its head alone, and so does the page."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))\n"
        "    net[1].weight.data.zero_()[0] = 9.0  # all are taken for 0\n"
        "    return net\n"
    )
    (tmp_path / "bare.toml").write_text(
        'name = "bare"\nmethod = "own"\ndataset = "digits"\nfactory = "net:make"\n'
        "[input]\nmean = [0.0]\nstd = [1.0]\n"
    )
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[[attacks]]\nname = "fgsm"\ntitle = "FGSM"\nlibrary = "torchattacks"\n'
        'attack = "FGSM"\nnorms = ["Linf"]\n'
    )
    asked = ("run", "--model", "bare.toml", "--allow-code", "--suite", "s.toml", "--samples", "10")
    result = cli(*asked)
    assert result.exit_code == 0, result.stderr
    assert "names no [weights]: unless its factory loads some" in result.stderr
    lines = result.stderr.splitlines()
    assert {line.partition(":")[0] for line in lines} == {"robusteval", "bare"}
    printed = " ".join(result.stdout.split())
    assert "clean accuracy: suspicious" in printed
    assert "[weights]" not in printed
    (page,) = tmp_path.glob("runs/*/report.md")
    assert page.read_text("utf-8").count("unless its factory loads some") == 1
    assert "[weights]" in " ".join(cli(*asked).stdout.split())  # nothing was told before


def of(held: int, near_ties: int, failed: int = 0) -> dict[str, int]:
    images = held + near_ties + failed
    counts = {"held": held, "near_ties": near_ties, "failed": failed}
    return {"images": images, **counts, "batch_size": 48}


@pytest.mark.parametrize(
    ("tally", "expected"),
    [
        (of(0, 118), "suspicious"),
        (of(0, 1), "suspicious"),
        (of(50, 51), "suspicious"),
        (of(50, 50), "ok"),
        (of(118, 0), "ok"),
        (of(0, 0), "ok"),
        (of(117, 0, 1), "broken"),
        (of(0, 117, 1), "broken"),
    ],
)
def test_near_ties_that_outnumber_what_holds(tally: dict[str, int], expected: str) -> None:
    found = verification(tally)
    assert found.verdict == expected
    assert f"{tally['held']} of {tally['images']} stored images hold" in found.measured
    assert ("float64" in found.advice) == (expected == "suspicious")
