"""Every column and every fact of a job's evidence, declared once.

From a declaration follows the rest: jobs write it (``filled``, ``facts_by``), ``pieces`` checks its
form, ``outcomes`` reads it (``CellOutcome.rows``, ``RunResult.clean``), and ``repeat`` compares it
where jobs are done again.  A new one raises ``SCHEMA``, and names that as the first that has it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from robusteval.attacks.results import Stage, Warned
from robusteval.detection.registry import find as find_detector
from robusteval.evidence.images import digests
from robusteval.evidence.judge import TOLERANCE
from robusteval.evidence.telling import merged_notes, merged_stages, merged_warnings
from robusteval.plan.plan import JobKind

# Of evidence: 5 tells of no counts beside warnings (see ``older``), 4 of no attacks on detectors, 3
# of no prototypes, 2 told in sentences (see ``older``), 1 had no checksums.
SCHEMA = 6
SCORE = "score_"  # and a detector's name: the column of its scores
PROTOTYPES_SINCE = 4  # the first schema that tells of prototypes
PURSUITS_SINCE = 5  # and of attacks on detectors
NEAREST = "nearest_"  # and a layer's place, from 0: the column of the prototypes nearest there
Values = NDArray[Any]
_AS_JSON = TypeAdapter(list[Warned])
Fill = Callable[[Any], Any]  # from a job's ``Predicted``, ``Attacked`` (``jobs``) or ``Pursued``


@dataclass(frozen=True)
class Alike:
    """By what a job's rows are compared with those of the same job done again."""

    same: Values  # (B,) bool: the counted image is the same to the bit
    sure: Values  # (B,) bool: and its margin is no near-tie
    slack: float  # by which margins of the same image may differ


Differs = Callable[[Values, Values, Alike], Any]  # then, now → (B,) bool


@dataclass(frozen=True)
class Column:
    """One value of each sample.

    ``fill``: the kinds of job that have it, and what fills it there.  ``blank``: in an attack's
    outcome, of samples that it did not reach; None for a column that stays in its chunks.
    ``again``: where a job done again contradicts it; None where that would show nothing.
    ``of_none``: whether an attack on a chunk without a correct sample has it.
    """

    name: str
    about: str
    dtype: str
    holds: Callable[[Values], Any]
    fill: Mapping[JobKind, Fill]
    blank: Any = None
    again: Differs | None = None
    of_none: bool = False
    names_class: bool = False
    since: int = 2


@dataclass(frozen=True)
class Fact:
    """What an attack tells of its chunk as a whole, the same at each repetition.

    ``form``: its type in JSON, with its range, as pydantic reads it.  ``merge``: of all chunks.
    ``roughly``: whether a job done again must tell some, too, even where it finds other images.
    """

    name: str
    about: str
    form: Any
    fill: Fill
    merge: Callable[[Sequence[Any]], Any]
    roughly: bool = False


# Which values there can be


def _any(values: Values) -> Any:
    return np.ones(len(values), bool)


def _from_0(values: Values) -> Any:
    return np.isfinite(values) & (values >= 0)


def _from_minus_1(values: Values) -> Any:
    return values >= -1


def _finite_or_none(values: Values) -> Any:
    """Where its fit failed a detector has no score of any sample."""
    return np.isfinite(values) | np.isnan(values).all()


def _sha256(values: Values) -> Any:
    return np.array([isinstance(v, bytes) and len(v) == 32 for v in values], bool)


# Where a job done again contradicts a row


def _ever(then: Values, now: Values, _: Alike) -> Any:
    return then != now


def _if_sure(then: Values, now: Values, alike: Alike) -> Any:
    return (then != now) & alike.sure


def _beyond_tolerance(then: Values, now: Values, alike: Alike) -> Any:
    return (np.abs(then - now) > TOLERANCE) & alike.same


def _beyond_slack(then: Values, now: Values, alike: Alike) -> Any:
    return (np.abs(then - now) > alike.slack) & alike.same


def _if_all_are_the_same(then: Values, now: Values, alike: Alike) -> Any:
    return ~np.isclose(then, now) & alike.same.all()


def _of_both(fill: Fill) -> dict[JobKind, Fill]:
    return {"clean": fill, "attack": fill}


def _of_all(fill: Fill) -> dict[JobKind, Fill]:
    return {**_of_both(fill), "pursuit": fill}


def _gap(made: Any) -> Any:
    largest = made.logits.topk(2, dim=1).values
    return (largest[:, 0] - largest[:, 1]).cpu().numpy()


COLUMNS = (
    Column(
        "index",
        "index of the sample in its split",
        *("int64", _from_0),
        _of_all(lambda made: made.indices.numpy()),
        of_none=True,
    ),
    Column(
        "label",
        "the true class",
        *("int64", _from_0),
        _of_both(lambda made: made.labels.cpu().numpy()),
        of_none=True,
        names_class=True,
    ),
    Column(
        "prediction",
        "the predicted class",
        *("int64", _from_0),
        {
            "clean": lambda made: made.logits.argmax(1).cpu().numpy(),
            "attack": lambda made: made.result.judged.prediction.numpy(),
            "pursuit": lambda made: made.prediction.numpy(),
        },
        blank=np.int64(-1),
        again=_if_sure,
        names_class=True,
    ),
    Column(
        "gap",
        "between the two largest logits",
        *("float32", _from_0),
        {"clean": _gap},
    ),
    Column(
        "spread",
        "between the largest and the smallest logit",
        *("float32", _from_0),
        {"clean": lambda made: (made.logits.amax(1) - made.logits.amin(1)).cpu().numpy()},
    ),
    Column(
        "second_prediction",
        "the predicted class at another batch size",
        *("int64", _from_0),
        {"clean": lambda made: made.second.cpu().numpy()},
        names_class=True,
    ),
    Column(
        "fooled",
        "mispredicted after verification; in the ball where ε was known",
        *("bool", _any),
        {"attack": lambda made: made.result.judged.fooled.numpy()},
        blank=np.False_,
        again=_ever,
    ),
    Column(
        "norm",
        "of the perturbation, in the threat's norm; pixels are in [0, 1]",
        *("float64", _from_0),
        {
            "attack": lambda made: made.result.judged.norm.numpy(),
            "pursuit": lambda made: made.norm.numpy(),
        },
        blank=np.float64(np.nan),
        again=_beyond_tolerance,
    ),
    Column(
        "margin",
        "largest wrong logit of the counted image, less the label's",
        *("float32", np.isfinite),
        {"attack": lambda made: made.result.judged.margin.numpy()},
        blank=np.float64(np.nan),
        again=_beyond_slack,
    ),
    Column(
        "survives_8_bit",
        "still mispredicted after rounding to 8 bits",
        *("bool", _any),
        {"attack": lambda made: made.result.judged.survives_8_bit.numpy()},
        blank=np.False_,
        again=_if_sure,
    ),
    Column(
        "forward_passes",
        "that the attack spent on the sample",
        *("float64", _from_0),
        {
            "attack": lambda made: made.result.forward_passes.numpy(),
            "pursuit": lambda made: made.forward_passes.numpy(),
        },
        blank=np.float64(0),
        again=_if_all_are_the_same,
    ),
    Column(
        "backward_passes",
        "that the attack spent on the sample",
        *("float64", _from_0),
        {
            "attack": lambda made: made.result.backward_passes.numpy(),
            "pursuit": lambda made: made.backward_passes.numpy(),
        },
        blank=np.float64(0),
        again=_if_all_are_the_same,
    ),
    Column(
        "sha256",
        "of the counted image, as it would be stored",
        *("object", _sha256),
        {
            "attack": lambda made: np.array(digests(made.result.stored), dtype=object),
            "pursuit": lambda made: np.array(digests(made.stored), dtype=object),
        },
    ),
    Column(
        "clean_score",
        "the detector's, of the image before the attack",
        *("float64", np.isfinite),
        {"pursuit": lambda made: made.clean_scores.numpy()},
        since=PURSUITS_SINCE,
    ),
    Column(
        "score",
        "the detector's, of the counted image",
        *("float64", np.isfinite),
        {"pursuit": lambda made: made.scores.numpy()},
        since=PURSUITS_SINCE,
    ),
)
_Count = Annotated[int, Field(ge=0)]
FACTS = (
    Fact(
        "stages",
        "what each part of the attack broke",
        list[Stage],
        lambda made: [asdict(stage) for stage in made.result.stages],
        merged_stages,
    ),
    Fact(
        "warned",
        "what the attack warns of",
        list[Warned],
        lambda made: _AS_JSON.dump_python(made.result.warned, mode="json"),
        merged_warnings,
        roughly=True,
    ),
    Fact("notes", "free text, for people", list[str], lambda made: made.result.notes, merged_notes),
    Fact("lost", "successes that storing undid", _Count, lambda made: made.result.lost, sum),
    Fact(
        "drifted",
        "clean predictions that differed after the attack",
        _Count,
        lambda made: made.drifted,
        sum,
        roughly=True,
    ),
)


def columns_of(kind: JobKind, rows: int, schema: int = SCHEMA) -> list[Column]:
    """The columns that a job of that kind has in so many rows, by the version of that schema."""
    some = rows > 0 or kind != "attack"
    return [c for c in COLUMNS if kind in c.fill and c.since <= schema and (some or c.of_none)]


def score_column(detector: str) -> Column:
    """A detector's scores, which are filled where the detectors are at hand."""
    holds = _finite_or_none if find_detector(detector).needs_training_data else np.isfinite
    return Column(SCORE + detector, "higher is more in-distribution", "float64", holds, {})


def nearest_columns(layers: int) -> list[Column]:
    """One for each layer with prototypes, which are filled where the model is at hand."""
    return [
        Column(
            f"{NEAREST}{place}",
            "the nearest prototype, the first of those that coincide: class · M + its place in "
            "the class; −1 where that isn't known, or no success",
            *("int64", _from_minus_1),
            {},
            blank=np.int64(-1),
            again=_if_sure,
            since=PROTOTYPES_SINCE,
        )
        for place in range(layers)
    ]


def filled(kind: JobKind, made: Any) -> dict[str, Any]:
    """A job's columns by name; ``made``: its ``Predicted`` or ``Attacked`` (see ``jobs``)."""
    return {c.name: c.fill[kind](made) for c in columns_of(kind, len(made.indices))}


def facts_by(made: Any) -> dict[str, Any]:
    """What an attack tells of its whole chunk, as plain data."""
    return {fact.name: fact.fill(made) for fact in FACTS}


def merged_facts(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All chunks' facts as one; of no chunk, what one without a correct sample tells."""
    return {fact.name: fact.merge([told[fact.name] for told in chunks]) for fact in FACTS}
