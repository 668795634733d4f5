"""The choice of form is made once for a model on a machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robusteval import api
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store
from robusteval.models.acceleration import PLAIN, Acceleration
from robusteval.plan.spec import RunSpec
from robusteval.run import known_forms as module
from robusteval.run.known_forms import known_forms
from tests.helpers.runs import plain_suite_in

FOUND = (Acceleration(), Acceleration(bfloat16=True))


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    suite = plain_suite_in(tmp_path)
    options = api.Options(samples=2, only=("fgsm",), out=tmp_path / "runs")
    report = api.evaluate("mpat_at_digits", suite, options=options)
    return open_store(Local(report.folder))[1]  # type: ignore[arg-type]


def asked(spec: RunSpec, passes: float = 1000, images: int = 128) -> list[Any]:
    """What was found, and whether it had to be tried."""
    tried: list[bool] = []

    def choose() -> module.Forms:
        tried.append(True)
        return FOUND

    return [known_forms(spec, images, passes, choose), bool(tried)]


def test_it_is_tried_once_for_a_model_a_machine_and_its_work(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(spec) == [FOUND, True]
    assert asked(spec) == [FOUND, False]
    assert asked(spec, passes=1010) == [FOUND, False]
    for other in (
        lambda: asked(spec, passes=1e6),  # compiling may pay
        lambda: asked(spec, images=64),
        lambda: asked(replace(spec, threads=spec.threads + 1)),
        lambda: asked(replace(spec, model_digest="0" * len(spec.model_digest))),
    ):
        assert other() == [FOUND, True]
        assert other() == [FOUND, False]
    monkeypatch.setattr(module, "hardware_name", lambda _: "another")
    assert asked(spec) == [FOUND, True]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '["float32"]', '["float32", "eval(1)"]', '["a", "b", "c"]', "1"]
)
def test_what_is_no_choice_is_tried_again(spec: RunSpec, text: str, tmp_path: Path) -> None:
    asked(spec)
    for place in (tmp_path / "cache").rglob("forms/*.json"):
        place.write_text(text)
    assert asked(spec) == [FOUND, True]
    assert asked(spec) == [FOUND, False]


def test_without_a_cache_it_is_tried_each_time(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cache_dir", lambda: None)
    assert [asked(spec), asked(spec)] == [[FOUND, True]] * 2


def test_a_new_run_takes_the_known_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = iter([FOUND, (PLAIN, PLAIN)])
    monkeypatch.setattr("robusteval.run.prepare.choose_forms", lambda *_: next(told))
    monkeypatch.setattr("robusteval.run.prepare.are_worth_it", lambda _: True)  # digits are small
    suite = plain_suite_in(tmp_path)
    kept = []
    for seed in (0, 1):
        options = api.Options(samples=4, only=("fgsm",), out=tmp_path / "runs", seed=seed)
        report = api.evaluate("mpat_at_digits", suite, options=options)
        kept.append(open_store(Local(report.folder))[1].forms)  # type: ignore[arg-type]
    assert kept == [tuple(map(str, FOUND))] * 2
