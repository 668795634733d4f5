"""Suites, plans and runs of a few samples."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.blocks import DETECTED, FGSM
from benchmarks.overhead import plain_suite
from robusteval import api
from robusteval.data.datasets import Dataset
from robusteval.data.outliers import outlier_names
from robusteval.evidence.files import Local
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import Store
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.made_with import code_digests
from robusteval.plan.plan import check_names, make_plan
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import AttackSpec, Diagnostics, Suite, read_suite
from robusteval.plan.threats import threats_for
from robusteval.run.executors.base import Executor
from robusteval.run.options import Options
from robusteval.run.prepare import Prepared
from robusteval.run.provenance import record_of
from robusteval.run.runner import Run, Settings
from robusteval.trust.findings import doubted

# Two attacks, a library's and one of ours.
FEW = (
    """
name = "few"
"""
    + FGSM
    + """
[[attacks]]
name = "adaptive"
title = "Adaptive"
library = "robusteval"
attack = "adaptive"
norms = ["L2"]
parameters = { passes_per_sample = 20 }
"""
)


# The same with one detector and diagnostics: every kind of job but fits.
BRIEF = FEW.replace('"few"', '"brief"') + DETECTED


def suite_of(*attacks: AttackSpec, **tables: object) -> Suite:
    return Suite(name="s", attacks=list(attacks), **tables)  # type: ignore[arg-type]


def unprobed(name: str) -> Suite:
    """A suite without diagnostics, which take longest where samples are few."""
    return read_suite(name).model_copy(update={"diagnostics": Diagnostics()})


def plain_suite_in(folder: Path, name: str = "full") -> str:
    """The path of that suite's attacks, without detection and diagnostics."""
    path = folder / "plain.toml"
    path.write_text(plain_suite(name), "utf-8")
    return str(path)


def unfitted_suite_in(folder: Path, name: str = "full") -> str:
    """The path of that suite's attacks and sets, with detectors that need no fit, and no more."""
    rest = '[detection]\ndetectors = ["max_softmax", "nearest_prototype"]\n'
    path = folder / "unfitted.toml"
    path.write_text(plain_suite(name) + rest + 'sets = ["near", "far", "noise"]\n', "utf-8")
    return str(path)


def hasty_suite() -> str:
    """The attacks of ``quick``, with one detector and diagnostics of four samples, as TOML."""
    rest = '[detection]\ndetectors = ["max_logit"]\nnatural = 1\nattacks = ["pgd10"]\n'
    return plain_suite("quick") + rest + "[diagnostics]\nsamples = 4\n"


def attack_spec(
    name: str = "mine", norms: tuple[str, ...] = ("Linf",), **fields: object
) -> AttackSpec:
    base = {"title": name, "library": "robusteval", "attack": name, "norms": list(norms)}
    return AttackSpec(name=name, **{**base, **fields})  # type: ignore[arg-type]


def context_of(
    model: Adapter, data: Dataset, suite: Suite, eps: list[str] | None = None, **fields: object
) -> Context:
    spec = spec_of(data, suite, eps, **fields)
    check_names(suite, spec.threat_models())
    return Context(model, data, spec, make_plan(suite, spec, model.parts))


def spec_of(data: Dataset, suite: Suite, eps: list[str] | None = None, **fields: object) -> RunSpec:
    base: dict[str, object] = {
        "model": "m",
        "model_digest": "d",
        "dataset": data.info.name,
        "data_digest": data.digest,
        "suite": suite,
        "threats": [[t.norm, str(t.eps)] for t in threats_for(suite, data, eps or [])],
        "samples": len(data),
        "seed": 0,
        "code": code_digests(suite),
        "batch_size": 40,
        "threads": 1,  # workers of pytest-xdist share the cores
        "outliers": tuple(outlier_names(data, suite.detection.natural, None)),
    }
    return RunSpec(**{**base, **fields})  # type: ignore[arg-type]


def run_suite(
    model: Adapter,
    data: Dataset,
    suite: Suite,
    folder: Path | None = None,
    executor: Callable[[Context, Store], Executor] | None = None,
    **fields: object,
) -> RunResult:
    context = context_of(model, data, suite, **fields)  # type: ignore[arg-type]
    record = record_of(Prepared(context, None), Options())
    store = Store(Local(folder or Path(tempfile.mkdtemp())), context.spec.digest)
    run = Run(context, store, record, Settings(doubted=doubted))
    return run.execute(executor(context, store) if executor else None)


def options(out: object, **changed: Any) -> api.Options:
    base: dict[str, Any] = {"samples": 40, "batch_size": 12, "threads": 1, "out": out}
    return api.Options(**{**base, **changed})
