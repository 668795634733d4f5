"""The same run with 1, 2 and 4 workers, and with its jobs in reverse: equal evidence?

    python -m benchmarks.workers [--model pcl_digits] [--suite full] [--samples all]

Prints seconds and the digest of the evidence; exits 1 if digests differ.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from robusteval import api
from robusteval.evidence.files import Local
from robusteval.evidence.results import load_result
from robusteval.evidence.store import Store
from robusteval.plan.plan import Job, check_names
from robusteval.run.executors.base import Watch
from robusteval.run.executors.here import Here
from robusteval.run.prepare import prepare
from robusteval.run.provenance import record_of
from robusteval.run.runner import Run, Settings
from robusteval.run.subject import Asked


class Reversed(Here):
    """Last job first."""

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        super().run(list(reversed(jobs)), watch)


def in_reverse(model: str, suite: str, options: api.Options) -> Path:
    """A run whose jobs are done last first."""
    prepared = prepare(Asked(model), suite, options)
    check_names(prepared.context.spec.suite, prepared.context.plan.threats)
    folder = options.out / prepared.spec.name
    folder.mkdir(parents=True)
    from robusteval.evidence.record import write_record

    record = record_of(prepared, options)
    write_record(Local(folder), record)
    store = Store(Local(folder), prepared.spec.digest)
    Run(prepared.context, store, record, Settings()).execute(Reversed(prepared.context, store))
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pcl_digits")
    parser.add_argument("--suite", default="full")
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=90)
    arguments = parser.parse_args()
    work, digests = Path(tempfile.mkdtemp()), set()
    for name, workers in (("1 worker", 1), ("2 workers", 2), ("4 workers", 4), ("reversed", 0)):
        options = api.Options(
            samples=arguments.samples,
            batch_size=arguments.batch_size,
            threads=1,
            workers=max(workers, 1),
            out=work / name,
        )
        started = time.perf_counter()
        if workers:
            folder = api.evaluate(arguments.model, arguments.suite, options=options).folder
        else:
            folder = in_reverse(arguments.model, arguments.suite, options)
        seconds = time.perf_counter() - started
        result = load_result(Local(folder))
        images = sum(p.stat().st_size for p in folder.glob("evidence/attack*.safetensors"))
        digests.add((result.evidence_digest, images))
        print(f"{name:10s} {seconds:6.1f} s  evidence {result.evidence_digest[:16]}")
    print(f"equal evidence: {len(digests) == 1}")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
