"""Robustness as a test: the plug-in for pytest, in sessions of their own.

Most evaluate one module whose robust accuracy is plain: it compares one pixel with 0.5, so that an
image is robust where that pixel is farther from it than ε.
"""

import importlib
import inspect
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import robusteval
from robusteval import api, pytest_plugin
from robusteval.numerics import wilson
from robusteval.pytest_marks import KEYWORDS, Asked, problems, samples_to_tell, suspicions
from robusteval.run.options import OptionKeywords
from robusteval.vision import torchvision
from tests.helpers.attacks import AddAttack
from tests.helpers.processes import HEAVY
from tests.helpers.runs import FEW
from tests.helpers.stores import counting, objects_at

pytest_plugins = ["pytester"]

PLUGIN = "robusteval.pytest_plugin"
ROOT = Path(robusteval.__file__).resolve().parents[1]
PROJECT = Path(__file__).resolve().parents[2]
Session = Callable[..., pytest.RunResult]

NETS = """
import numpy as np
import torch
from torch import nn


class Threshold(nn.Module):
    def __init__(self, at=0.5):
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, images):
        first = images.flatten(1)[:, :1]
        return torch.cat([self.at - first, first - self.at], 1)


def samples():
    images = np.full((20, 1, 2, 2), 0.5, np.float32)
    images[:, 0, 0, 0] = (np.arange(20) + 0.5) / 20  # 0.025, 0.075, … on either side of 0.5
    return images, np.arange(20) // 10
"""
# 16 of 20 are farther from 0.5 than 0.12; the interval by hand: (0.8 + 1.96²/40 ± …) / (1 + …).
FOUND = "80.0 % [58.4, 91.9] (16/20)"
BEGIN = """
import pytest
from nets import Threshold, samples

ON = {"images": samples, "suite": "few.toml", "only": "fgsm", "eps": 0.12}
"""
WORDS = 'model="ce_digits", suite="few.toml", only="fgsm", samples=20, eps=0.05'


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """What a session loads it takes away at its end, and libraries in C are loaded only once."""
    torchvision()
    for name in HEAVY:
        importlib.import_module(name)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions load the plug-in that they name, once, whatever is installed here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of these tests keep their runs, so that each is made once."""
    return tmp_path_factory.mktemp("kept")


def inner(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*arguments, plugins=[pytest_plugin])


@pytest.fixture
def session(pytester: pytest.Pytester, kept: Path) -> Session:
    """Runs the tests of one file, and of a conftest."""

    def run(
        tests: str, *arguments: str, conftest: str = "", out: object = kept
    ) -> pytest.RunResult:
        pytester.makepyfile(nets=NETS, test_it=BEGIN + tests, conftest=conftest)
        (pytester.path / "few.toml").write_text(FEW, "utf-8")
        return inner(pytester, "-p", "no:cacheprovider", f"--robusteval-out={out}", *arguments)

    return run


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The reports that ``evaluate`` returned."""
    found: list[Any] = []
    evaluate = api.evaluate

    def counted(*given: Any, **keywords: Any) -> Any:
        found.append(evaluate(*given, **keywords))
        return found[-1]

    monkeypatch.setattr(api, "evaluate", counted)
    return found


def text_of(result: pytest.RunResult) -> str:
    return re.sub(r"\s+", " ", result.stdout.str())


# What is found, beside what is asked


LEAST = """
def least(at_least):
    return pytest.param(marks=pytest.mark.robusteval(model=Threshold, at_least=at_least, **ON))

@pytest.mark.parametrize((), [least(0.5), least(0.7), least(0.85), least(0.95), least(None)])
def test_robust():
    pass
"""


def test_it_fails_below_and_says_where_samples_are_too_few(
    session: Session, evaluations: list[Any]
) -> None:
    result = session(LEAST)
    result.assert_outcomes(passed=3, failed=2, warnings=1)
    (report,) = evaluations  # once for all five
    text, has = text_of(result), f"Threshold has a robust accuracy of {FOUND} under L∞ 0.12"
    assert f"{has}, less than 95 % report: {report.page} " in text
    few = "but the interval holds both answers: 20 samples are too few to tell, about"
    assert f"{has}, less than 85 %, {few} 196 would do report: {report.page} " in text
    assert f"TooFewSamplesWarning: robusteval: {has}, at least 70 %, {few} 81 would do" in text
    assert report.page.is_file()
    assert "Traceback" not in text
    assert text.count("Failed: Threshold has a robust") == 2, "the short summary"
    assert text.count(f"Threshold under few: L∞ 0.12 {FOUND}: {report.page} ") == 1


def test_too_few_samples_can_be_a_failure(session: Session) -> None:
    result = session(LEAST, "-W", f"error::{PLUGIN}.TooFewSamplesWarning")
    result.assert_outcomes(passed=2, failed=3)


@pytest.mark.parametrize(("k", "n", "at_least"), [(16, 20, 0.7), (16, 20, 0.95), (1, 4, 0.3)])
def test_so_many_samples_would_tell(k: int, n: int, at_least: float) -> None:
    def tells(times: int) -> bool:
        rate = wilson(k * times, n * times)
        assert rate is not None
        return not rate.low < at_least <= rate.high

    enough = samples_to_tell(k / n, at_least)
    times = next(times for times in range(1, 10_000) if tells(times))
    assert enough is not None
    assert n * (times - 1) < enough <= n * times
    assert samples_to_tell(at_least, at_least) is None
    assert samples_to_tell(1.0, 1.0) is None


def test_the_norm_chooses_what_counts(session: Session, evaluations: list[Any]) -> None:
    """In L2 an image is robust where the pixel is farther than 0.3 away: 8 of 20 are."""
    result = session("""
BOTH = {**ON, "model": Threshold, "only": None, "eps": ["Linf:0.12", "L2:0.3"]}

@pytest.mark.robusteval(norm="Linf", at_least=0.75, **BOTH)
def test_linf(robusteval_report):
    assert list(robusteval_report.worst_case.norm) == ["Linf", "L2"]

@pytest.mark.robusteval(norm="L2", at_least=0.75, **BOTH)
def test_l2(): pass

@pytest.mark.robusteval(at_least=0.75, **BOTH)
def test_both(): pass

@pytest.mark.robusteval(**{**BOTH, "eps": 0.3, "norm": "L2"}, at_least=0.75)
def test_one(): pass
""")
    result.assert_outcomes(passed=1, failed=3, warnings=1)
    assert text_of(result).count("(8/20) under L2 0.3, less than 75 % report: ") == 3
    assert len(evaluations) == 2
    assert evaluations[1].content["worst_case"][1]["threat"]["eps"] == "0.3"


def test_what_has_no_number_fails(session: Session, add_attack: AddAttack, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("out of luck")

    add_attack("broken", broken)
    suite = tmp_path / "own.toml"
    suite.write_text(FEW + "[[attacks]]\n" + OWN_ATTACK, "utf-8")
    result = session(f"""
@pytest.mark.robusteval(
    **{{**ON, "suite": {str(suite)!r}, "only": ["fgsm", "broken"]}}, model=Threshold, at_least=0.5
)
def test_robust(): pass

@pytest.mark.robusteval(**ON, norm="Linf", model=Threshold)
def test_what_is_complete(robusteval_report):
    assert robusteval_report.complete and robusteval_report.proven
""")
    result.assert_outcomes(passed=1, failed=1)
    text = text_of(result)
    assert f"robust accuracy of at most {FOUND} under L∞ 0.12: how robust it is" in text
    assert (
        "the run is incomplete: Broken, L∞ 0.12 has no number (RuntimeError: out of luck)" in text
    )


NOISE = """
name = "noise"
[[attacks]]
name = "gaussian_noise"
title = "Noise"
library = "robusteval"
attack = "gaussian_noise"
norms = ["Linf"]
"""
OWN_ATTACK = """
name = "broken"
title = "Broken"
library = "robusteval"
attack = "broken"
norms = ["Linf"]
"""


def test_findings_are_heard() -> None:
    """Numbers that can't be trusted fail a test, others warn it; of another norm neither warns."""

    def finding(verdict: str, norm: str | None) -> dict[str, Any]:
        threat = norm and {"norm": norm, "eps": "0.1"}
        return {"check": "masking", "measured": "0.9", "verdict": verdict, "threat": threat}

    kinds = [("ok", None), ("suspicious", "Linf"), ("suspicious", "L2"), ("suspicious", None)]
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "k": 50, "n": 100}
    case = {"threat": {"norm": "L2", "eps": "0.1"}, "at_most": rate, "complete": True}
    content = {
        "findings": [finding(*kind) for kind in kinds],
        "worst_case": [case],
        "model": {"name": "mine"},
        "missing": [],
    }
    report: Any = SimpleNamespace(content=content, complete=True, proven=True)
    asked = Asked({}, ("L2",), 0.3)
    assert list(problems(asked, report)) == []
    over = "masking{}: 0.9: robustness may be overestimated"
    assert list(suspicions(asked, report)) == [over.format(", L2 0.1"), over.format("")]
    content["findings"].append(finding("broken", None))
    assert list(problems(asked, report)) == ["numbers can't be trusted: masking: 0.9"]
    (nothing,) = problems(
        Asked({}, ("Linf",), None),
        SimpleNamespace(**{**vars(report), "content": {**content, "findings": []}}),
    )  # type: ignore[arg-type]
    assert nothing == "no attack of this suite ran in Linf"
    report.proven = False
    assert "the run is not proven" in next(problems(asked, report))


# Where models and images come from


def test_models_and_images_come_from_anywhere(session: Session, evaluations: list[Any]) -> None:
    result = session("""
from functools import partial
from torch.utils.data import TensorDataset
import torch

IMAGES, LABELS = samples()
REST = {key: value for key, value in ON.items() if key != "images"}

@pytest.fixture(scope="session")
def net():
    yield Threshold()

@pytest.fixture(name="pairs")
def data_set():
    return TensorDataset(*map(torch.from_numpy, samples()))

def case(**given):
    return pytest.param(marks=pytest.mark.robusteval(**{**ON, **given}))

@pytest.mark.parametrize((), [
    case(model=Threshold),
    case(model=Threshold()),
    case(model=lambda: Threshold()),
    case(model=partial(Threshold, at=0.5)),
    case(model=net),
    case(model=Threshold, images=IMAGES, labels=LABELS),
    case(model=Threshold, images=lambda: IMAGES, labels=lambda: LABELS),
    case(model=Threshold, images=(IMAGES, LABELS)),
    case(model=Threshold, images=data_set),
])
def test_it(robusteval_report):
    worst = robusteval_report.content["worst_case"][0]["robust_accuracy"]
    assert (worst["k"], worst["n"]) == (16, 20)
""")
    result.assert_outcomes(passed=9)
    assert len(evaluations) == 9
    assert len({report.folder for report in evaluations}) == 1, "one run: same tensors, same images"


def test_fixtures_give_what_marks_do_not(session: Session) -> None:
    """And may have parameters, as others."""
    result = session(
        """
@pytest.mark.robusteval(suite="few.toml", only="fgsm", eps=0.12)
class TestIt:
    def test_each_of_both(self, robusteval_report, robusteval_model):
        assert robusteval_report.content["clean"]["accuracy"]["k"] == robusteval_model.right

    @pytest.mark.robusteval(model=Threshold, images=lambda: (samples()[0][:5], [0] * 5), name="own")
    def test_a_mark_comes_first(self, robusteval_report):
        assert robusteval_report.content["samples"] == 5
        assert robusteval_report.content["model"]["name"] == "own"
""",
        conftest="""
import pytest
from nets import Threshold, samples

@pytest.fixture(params=[(0.5, 20), (0.6, 18)])
def robusteval_model(request):
    model = Threshold(request.param[0])
    model.right = request.param[1]
    return model

@pytest.fixture
def robusteval_data():
    return samples()
""",
    )
    result.assert_outcomes(passed=4)


def test_a_module_that_is_trained_between_tests_is_another(session: Session) -> None:
    result = session("""
NET = Threshold()

@pytest.mark.robusteval(model=NET, **ON)
def test_before(robusteval_report):
    assert robusteval_report.content["clean"]["accuracy"]["k"] == 20
    NET.at.data.fill_(0.6)

@pytest.mark.robusteval(model=NET, **ON)
def test_after(robusteval_report):
    assert robusteval_report.content["clean"]["accuracy"]["k"] == 18
""")
    result.assert_outcomes(passed=2)


def test_a_fixture_may_give_a_path_to_data(session: Session, pytester: pytest.Pytester) -> None:
    images = np.full((20, 1, 2, 2), 0.5, np.float32)
    images[:, 0, 0, 0] = (np.arange(20) + 0.5) / 20
    np.savez(pytester.path / "own.npz", images=images, labels=np.arange(20) // 10)
    result = session("""
@pytest.fixture
def robusteval_data():
    return "own.npz"

@pytest.mark.robusteval(model=Threshold, suite="few.toml", only="fgsm", eps=0.12, at_least=0.8)
def test_it(robusteval_report):
    assert robusteval_report.content["dataset"]["name"] == "own"
""")
    result.assert_outcomes(passed=1, warnings=1)


# Kept


def test_a_finished_run_is_read(session: Session, tmp_path: Path, evaluations: list[Any]) -> None:
    """In the next session, by name as well; and by ``evaluate`` itself."""
    tests = f"""
@pytest.mark.robusteval({WORDS})
def test_it(robusteval_report):
    print(robusteval_report.folder)

@pytest.mark.robusteval({WORDS})
def test_again():
    pass
"""
    session(tests, out=tmp_path).assert_outcomes(passed=2)
    (first,) = evaluations
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    session(tests, out=tmp_path).assert_outcomes(passed=2)
    _, second = evaluations
    assert second.content == first.content
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [first.folder]


def test_runs_are_kept_in_the_cache(session: Session, pytester: pytest.Pytester) -> None:
    tests = "@pytest.mark.robusteval(model=Threshold, **ON)\ndef test_it(): pass"
    session(tests)
    result = inner(pytester, "test_it.py")
    result.assert_outcomes(passed=1)
    (page,) = (pytester.path / ".pytest_cache" / "d" / "robusteval").glob("*/report.html")
    result.stdout.fnmatch_lines([f"*(16/20): {page}"])
    result = inner(pytester, "-p", "no:cacheprovider", "--basetemp=temp", "test_it.py")
    result.assert_outcomes(passed=1)
    assert list((pytester.path / "temp" / "robusteval").glob("*/report.html"))


def test_runs_are_kept_in_a_store(session: Session, evaluations: list[Any]) -> None:
    """A second session reads what the first one made."""
    tests = "@pytest.mark.robusteval(model=Threshold, **ON)\ndef test_it(): pass"
    with counting():
        made, read = (session(tests, out="counting://bucket/runs") for _ in range(2))
        first, second = evaluations
        assert first.folder == second.folder
        assert "report.html" in objects_at(first.folder)
    for result in (made, read):
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"*(16/20): {first.folder}/report.html"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["--robusteval-out=few.toml"],
            "few.toml can't be written (what is there is not a folder)",
        ),
        (["-o", "cache_dir=few.toml"], "pytest's cache can't be written"),
        (["--robusteval-out=s4://x"], "s4://x can't be used (Protocol not known: s4)"),
        (["--robusteval-out=s3://me:secret@x"], "--robusteval-out 's3://…@x': a URL may hold no"),
    ],
)
def test_a_folder_that_can_not_be_is_told(
    given: list[str], told: str, session: Session, pytester: pytest.Pytester
) -> None:
    session("@pytest.mark.robusteval(model=Threshold, **ON)\ndef test_it(): pass", "--co")
    result = inner(pytester, "-W", "ignore", *given, "test_it.py")
    result.assert_outcomes(errors=1)
    assert told in text_of(result)
    assert "--robusteval-out" in text_of(result)
    assert "Traceback" not in text_of(result)


def test_a_module_with_other_code_is_told(session: Session) -> None:
    """Same tensors, other answers: what was found of the one is not said of the other."""
    result = session(
        """
class Other(Threshold):
    def forward(self, images):
        return 2 * super().forward(images)

@pytest.mark.robusteval(name="mine", **ON)
def test_it(): pass

@pytest.fixture(params=[Threshold, Other])
def robusteval_model(request):
    return request.param()
""".replace("def test_it():", "def test_it(robusteval_model):")
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "that computes otherwise" in text_of(result)
    assert "--robusteval-out or --cache-clear" in text_of(result)


# Marks


WRONG = {
    "sample=20": "the mark robusteval has no 'sample': did you mean samples",
    "'ce_digits'": "the mark robusteval takes keywords alone, such as model=…",
    "out='x'": "out is for the whole session: give pytest --robusteval-out DIR",
    "at_least=35": "at_least = 35: give a share from 0 to 1, say 0.35",
    "at_least=True": "at_least = True: give a share from 0 to 1, say 0.35",
    "at_least=float('nan')": "at_least = nan: give a share",
    "norm='L1'": "norm = 'L1': did you mean L2?",
    "norm=2": "norm = 2: did you mean L2?",
    "eps=8": "ε 8 is larger than the whole pixel range [0, 1] in L∞: did you mean 8/255?",
    "eps='8/'": "ε '8/' is not a number: write a decimal or a fraction such as 8/255",
    "eps=[0.1, {}]": "ε {} is not a number",
    "eps='L3:1'": "norm 'L3' is unknown",
    "norm='L2', eps='Linf:0.1'": "norm = 'L2', but eps = 'Linf:0.1': give an ε in that norm",
    "images='photos'": "images = 'photos': give a path as data=…",
}


def test_a_mark_that_can_not_be_meant_fails_its_own_test_alone(session: Session) -> None:
    tests = [
        f"@pytest.mark.robusteval({given})\ndef test_{number:02}(): pass"
        for number, given in enumerate(WRONG)
    ]
    result = session("\n\n".join([*tests, "def test_other(): pass"]))
    result.assert_outcomes(passed=1, errors=len(WRONG))
    lines = [line for line in result.outlines if line.startswith("robusteval: ")]
    for line, told in zip(lines, WRONG.values(), strict=True):
        assert line.startswith(f"robusteval: {told}")
    heads = [line for line in result.outlines if "ERROR at setup of test_" in line]
    assert [re.findall(r"test_(\d+)", head) for head in heads] == [
        [f"{number:02}"] for number in range(len(WRONG))
    ]
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("model='ce_digit'", "unknown model 'ce_digit': did you mean ce_digits"),
        ("model=3", "model 3: give an entry's name, its path, or a torch module"),
        ("model=Threshold, suite='quik'", "did you mean quick?"),
        (
            "model=Threshold, samples='some', suite='few.toml'",
            "--samples 'some' is neither a number",
        ),
        ("suite='few.toml'", "names no model: give model=…, or define a fixture robusteval_model"),
    ],
)
def test_what_only_the_run_finds_wrong_is_one_line(mark: str, told: str, session: Session) -> None:
    result = session(f"@pytest.mark.robusteval({mark})\ndef test_it(): pass")
    result.assert_outcomes(errors=1)
    lines = [line for line in result.outlines if line.startswith("robusteval: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in result.stdout.str()


def test_the_fixture_needs_a_mark(session: Session) -> None:
    """Of several cases those alone that are marked have it."""
    result = session("""
def test_it(robusteval_report): pass

@pytest.mark.parametrize("case", [
    0, pytest.param(1, marks=pytest.mark.robusteval(model=Threshold, at_least=0.9, **ON))
])
def test_cases(case, request):
    assert "robusteval_report" not in request.node.funcargs
""")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "robusteval_report needs a mark: @pytest.mark.robusteval(model=…)" in text_of(result)


def test_marks_of_modules_and_classes_hold(session: Session) -> None:
    result = session("""
import unittest
pytestmark = pytest.mark.robusteval(model=Threshold, at_least=0.9, **ON)

def test_of_the_module(): pass

@pytest.mark.robusteval(at_least=0.5)
class TestOfTheClass:
    def test_class(self): pass

    @pytest.mark.robusteval(at_least=0.9)
    def test_own(self): pass

    @pytest.mark.xfail(reason="known")
    @pytest.mark.robusteval(at_least=0.9)
    def test_expected(self): pass

    @pytest.mark.skip
    @pytest.mark.robusteval(model="nowhere")
    def test_skipped(self): pass

class TestCase(unittest.TestCase):
    def test_unit(self): pass
""")
    result.assert_outcomes(passed=1, failed=3, xfailed=1, skipped=1)


def test_the_mark_is_registered(session: Session) -> None:
    tests = "@pytest.mark.robusteval(model=Threshold, at_least=0.5, **ON)\ndef test_it(): pass"
    session(tests, "--strict-markers", "-W", "error").assert_outcomes(passed=1)
    session(tests, "--markers").stdout.fnmatch_lines(["@pytest.mark.robusteval(model, suite, *"])
    session(tests, "--fixtures").stdout.fnmatch_lines(["robusteval_report*"])


def test_the_keywords_are_those_of_evaluate() -> None:
    own = set(inspect.signature(api.evaluate).parameters) - {"options", "keywords"}
    assert set(KEYWORDS) == (own | set(OptionKeywords.__annotations__)) - {"out", "progress"}


def test_what_was_found_is_in_junit_xml(session: Session, pytester: pytest.Pytester) -> None:
    tests = "@pytest.mark.robusteval(model=Threshold, **ON)\ndef test_it(): pass"
    session(tests, "--junitxml=junit.xml").assert_outcomes(passed=1)
    text = (pytester.path / "junit.xml").read_text("utf-8")
    assert f'name="robusteval L∞ 0.12" value="{FOUND}"' in text


# In processes of their own


def installed(folder: Path) -> str:
    """The plug-in's entry point, as pip leaves it behind."""
    info = folder / "elsewhere-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    points = [f"{name} = {value}" for name, value in project["entry-points"]["pytest11"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[pytest11]", *points]))
    return os.pathsep.join([str(folder), str(ROOT)])


def test_nothing_heavy_is_loaded_before_a_marked_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As installed, and named once more, with marked tests that are collected and not run."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTHONPATH", installed(pytester.path / "site"))
    pytester.makepyfile(
        conftest="""
import sys

def pytest_unconfigure(config):
    assert config.pluginmanager.hasplugin("robusteval.pytest_plugin")
    heavy = {"torch", "numpy", "pandas", "pydantic", "rich", "filelock", "robusteval.api"}
    print("loaded:", heavy & set(sys.modules))
""",
        test_it=f"""
import pytest

@pytest.mark.robusteval({WORDS}, norm="Linf", at_least=0.35)
def test_marked(robusteval_report): pass

def test_other(): pass
""",
    )
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-k", "other", "--strict-markers")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["loaded: set()"])
    without = pytester.runpytest_subprocess("-p", f"no:{PLUGIN}", "--co", "-W", "error")
    assert "Unknown pytest.mark.robusteval" in text_of(without)


@pytest.mark.slow
def test_workers_make_a_run_once(pytester: pytest.Pytester) -> None:
    """Both have asked for it before the one makes it; each test has its report."""
    (pytester.path / "noise.toml").write_text(NOISE, "utf-8")
    pytester.makepyfile(
        nets=NETS,
        conftest="""
import os, time
from pathlib import Path

import pytest

WORKER = os.environ.get("PYTEST_XDIST_WORKER")

def pytest_runtest_setup(item):
    Path(WORKER).touch()

@pytest.fixture(scope="session", autouse=True)
def slowly():
    from robusteval import api
    from robusteval.report import page

    drawn = ("accuracy_bars", "cost_curve", "distance_curve", "score_histograms")
    for name in (*drawn, "separation_curves", "rejection_curves", "confidence_histogram"):
        setattr(page, name, lambda *_: "<svg></svg>")
    execute = api.Run.execute

    def told(run, *given):
        end = time.monotonic() + 60
        while len([*Path().glob("gw?")]) < 2 and time.monotonic() < end:
            os.sched_yield()
        with open("made", "a") as file:
            print(WORKER, file=file)
        return execute(run, *given)

    api.Run.execute = told
""",
        test_it="""
import os
import pytest
import torch
from nets import Threshold, samples

@pytest.mark.parametrize("number", range(4))
@pytest.mark.robusteval(model=Threshold, images=samples, suite="noise.toml", eps=0.12)
def test_it(robusteval_report, number):
    with open(f"read-{os.environ['PYTEST_XDIST_WORKER']}", "a") as file:
        print(robusteval_report.folder, file=file)
""",
    )
    result = pytester.runpytest_subprocess(
        *("-p", PLUGIN, "-p", "xdist.plugin", "-n2", "--robusteval-out=own/runs")
    )
    result.assert_outcomes(passed=4)
    assert len((pytester.path / "made").read_text().splitlines()) == 1
    read = [path.read_text().split() for path in pytester.path.glob("read-gw?")]
    assert len(read) == 2
    (folder,) = {folder for folders in read for folder in folders}
    assert Path(folder).parent == pytester.path / "own" / "runs"
    assert f": {folder}/report.html" in text_of(result)


def test_workers_share_folder_and_cores(tmp_path: Path) -> None:
    """Without pytest's cache, too: each worker's temporary folder is in the session's."""
    own = SimpleNamespace(getbasetemp=lambda: tmp_path / "popen-gw1")
    config: Any = SimpleNamespace(getoption=lambda name: None, workerinput={"workercount": 2**20})
    request: Any = SimpleNamespace(config=config, getfixturevalue=lambda name: own)
    assert pytest_plugin._place(request) == tmp_path / "robusteval"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest_plugin._share_of_threads(config):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
