"""A run's results sample by sample: as a frame, as Parquet, as JSON.

One row for each sample, attack and threat model.  What a run says of the machine, of people and of
folders is not in it.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robusteval import inert
from robusteval.evidence.columns import COLUMNS, SCORE, Column
from robusteval.evidence.files import Files
from robusteval.evidence.record import open_store
from robusteval.evidence.results import RunResult, load_result
from robusteval.evidence.store import Store
from robusteval.plan.plan import JobKind
from robusteval.types import ThreatModel

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "robusteval.samples/1"
DETECTOR = "<detector>"  # stands for each of a run's
_CLEAN, _COUNTED = "clean_", "adversarial_"
# Names that would be another's: pandas', a clean column's, a threat's.
_RENAMED = {"index": "sample", "prediction": f"{_COUNTED}prediction", "norm": "distance"}
_NULLABLE = {"int64": "Int64", "bool": "boolean"}  # the others hold NaN or None
Values = NDArray[Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class SampleColumn:
    """One column of per-sample results: its name, what it holds, its kind in pandas.

    ``source``: the column of evidence that it comes from, "" where it is made here.
    """

    name: str
    about: str
    kind: str
    source: str = ""

    @property
    def kind_text(self) -> str:
        """Its kind for people."""
        return {"object": "text"}.get(self.kind, self.kind.lower())


def _having(kind: JobKind) -> list[Column]:
    """The evidence's columns of such jobs, but for what tells which sample a row is of."""
    return [c for c in COLUMNS if kind in c.fill and not c.of_none]


def _clean(column: Column) -> SampleColumn:
    about = f"of the clean image: {column.about}"
    return SampleColumn(f"{_CLEAN}{column.name}", about, column.dtype, column.name)


def _attacked(column: Column) -> SampleColumn:
    name, about = _RENAMED.get(column.name, column.name), column.about
    if name.startswith(_COUNTED):
        about = f"of the counted image: {about}"
    kind = _NULLABLE.get(column.dtype, column.dtype)
    return SampleColumn(name, about, kind, column.name)


OF_SAMPLE = [
    SampleColumn(_RENAMED.get(c.name, c.name), c.about, c.dtype, c.name)
    for c in COLUMNS
    if c.of_none
]
OF_CLEAN = [_clean(column) for column in _having("clean")]
OF_CELL = [
    SampleColumn("attack", "its name in the suite", "object"),
    SampleColumn("norm", "of the threat model: Linf or L2", "object"),
    SampleColumn("eps", "of the threat model, as text: exact", "object"),
    SampleColumn("radius", "the same as a number; pixels are in [0, 1]", "float64"),
    SampleColumn("status", "of the attack on all samples: done, failed or not_finished", "object"),
    SampleColumn(
        "robust",
        "clean prediction right, and not broken by this attack within this threat model; their "
        "mean is its robust accuracy; none where the attack didn't reach the sample",
        "boolean",
    ),
    SampleColumn(
        "success",
        "the attack broke the sample within this threat model; their mean is its success rate; "
        "none where it was not attacked, since the clean prediction is wrong, or not reached",
        "boolean",
    ),
]
OF_ATTACK = [_attacked(column) for column in _having("attack")]


def scores_of(detectors: Sequence[str]) -> list[SampleColumn]:
    """Each detector's scores, of clean and of counted images."""
    higher = "higher is more in-distribution"
    return [
        SampleColumn(f"{which}{SCORE}{name}", f"of the {image} image: {higher}", "float64", name)
        for name in detectors
        for which, image in ((_CLEAN, "clean"), (_COUNTED, "counted"))
    ]


def columns(detectors: Sequence[str] = (DETECTOR,)) -> list[SampleColumn]:
    """Every column of a run with these detectors, in order."""
    return [*OF_SAMPLE, *OF_CLEAN, *OF_CELL, *OF_ATTACK, *scores_of(detectors)]


@dataclass(frozen=True)
class Samples:
    """A run sample by sample: what the rows are of, as plain data, and the rows."""

    about: Row
    frame: "pd.DataFrame"


def samples_of(run: Files) -> Samples:
    """A run's samples, a row for each of them under each attack and threat model.

    A run without attacks has a row for each sample, in which what is an attack's is missing.
    Raises EvidenceError for evidence that is missing or corrupt.
    """
    store, spec, _ = open_store(run)
    result = load_result(run)
    wanted = columns(result.plan.detectors)
    about = {
        "schema": SCHEMA,
        **{"model": spec.model, "suite": spec.suite.name, "dataset": spec.dataset},
        **{"samples": spec.samples, "seed": spec.seed, "run": spec.digest[:8]},
        "evidence_sha256": result.evidence_digest,
        "columns": {c.name: c.about for c in wanted},
    }
    return Samples(about, _frame(store, result, wanted))


def _frame(store: Store, result: RunResult, wanted: Sequence[SampleColumn]) -> "pd.DataFrame":
    import pandas as pd

    sample = _of_sample(result)
    parts = [
        sample | _of_cell(store, result, part, threat)
        for part, outcome in enumerate(result.outcomes)
        for threat in outcome.cell.threats
    ] or [sample]
    blank = np.full(len(result.labels), None, object)
    frames = [
        pd.DataFrame({c.name: pd.Series(part.get(c.name, blank), dtype=c.kind) for c in wanted})
        for part in parts
    ]
    return pd.concat(frames, ignore_index=True)


def _of_sample(result: RunResult) -> dict[str, Values]:
    told = {c.name: result.clean[c.source] for c in (*OF_SAMPLE, *OF_CLEAN)}
    scores = {n: v for n, v in result.clean.items() if n.startswith(SCORE)}
    return told | {f"{_CLEAN}{name}": values for name, values in scores.items()}


def _of_cell(store: Store, result: RunResult, part: int, threat: ThreatModel) -> dict[str, Any]:
    outcome = result.outcomes[part]
    attacked, count = outcome.attacked, len(outcome.attacked)
    broken = outcome.success(threat)
    about = threat.to_json() | {"attack": outcome.cell.spec.name, "status": outcome.status}
    reached = attacked | ~result.clean_correct
    return {
        **{name: np.full(count, value) for name, value in about.items()},
        "robust": _only(reached, result.clean_correct & ~broken),
        "success": _only(attacked, broken),
        **{c.name: _only(attacked, _values(store, result, part, c.source)) for c in OF_ATTACK},
        **{f"{_COUNTED}{SCORE}{n}": _spread(attacked, v) for n, v in outcome.scores.items()},
    }


def _only(rows: Values, values: Values) -> Values:
    """Values of some rows; none elsewhere."""
    return _spread(rows, values[rows])


def _spread(rows: Values, values: Values) -> Values:
    """So many values in the places of as many rows; none elsewhere."""
    found: Values = np.full(len(rows), None, object)
    found[rows] = values
    return found


def _values(store: Store, result: RunResult, part: int, name: str) -> Values:
    """An attack's column over all samples."""
    outcome = result.outcomes[part]
    if name in outcome.rows:
        return outcome.rows[name]
    return _spread(outcome.attacked, np.array([*_from_chunks(store, result, part, name)], object))


def _from_chunks(store: Store, result: RunResult, part: int, name: str) -> Iterator[str]:
    """A column that stays in its chunks: digests, which people read in hexadecimal."""
    for chunk in range(len(result.plan.chunks)):
        job = result.plan.attack_job(part, chunk)
        if store.has(job):
            yield from (value.hex() for value in store.read(job).columns.get(name, ()))


def as_parquet(samples: Samples) -> bytes:
    """The frame as Parquet; the key ``robusteval`` of its metadata says what it is, in JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"object": pa.string(), "boolean": pa.bool_(), "Int64": pa.int64()}
    fields = [
        (name, kinds.get(str(kind)) or pa.from_numpy_dtype(kind))
        for name, kind in samples.frame.dtypes.items()
    ]
    table = pa.Table.from_pandas(samples.frame, pa.schema(fields), preserve_index=False)
    about = {**table.schema.metadata, b"robusteval": json.dumps(samples.about).encode()}
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(about), stream, compression="zstd")
    return stream.getvalue()


def as_json(samples: Samples) -> str:
    """The same as JSON: what it is, and under ``rows`` a line for each row."""
    frame = samples.frame.astype(object)
    frame = frame.where(frame.notna(), None)
    rows = (json.dumps(row, allow_nan=False) for row in frame.to_dict("records"))
    head = json.dumps(samples.about, indent=1, ensure_ascii=False).removesuffix("\n}")
    return inert.json_text(f'{head},\n "rows": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")
