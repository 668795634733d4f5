"""What the diagnostics' measurements look like as plain data: their names, types and ranges."""

import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from robusteval.types import Norm

# How much this version measures; who reads evidence asks for no less.
STEPS = 20  # of gradient ascent
NOISE_DRAWS = 50
SQUARE_QUERIES = 200

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["cross-entropy", "logit margin", "DLR", "prototype margin", "CE + PC"]


def losses_of(classes: int, has_prototypes: bool) -> list[Loss]:
    """Those whose gradients are looked at on such a model; DLR needs three classes."""
    always: list[Loss] = ["cross-entropy", "logit margin"]
    of_three: list[Loss] = ["DLR"] if classes >= 3 else []
    of_prototypes: list[Loss] = ["prototype margin", "CE + PC"] if has_prototypes else []
    return [*always, *of_three, *of_prototypes]


class _Table(TypedDict):
    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # read by pydantic, no key
        extra="forbid", strict=True, allow_inf_nan=False
    )


class _Threat(_Table):
    norm: Norm
    eps: str
    radius: float


class _Gradient(_Table):
    unavailable: bool
    zero: _Count
    non_finite: _Count


class _Logits(_Table):
    probabilities: _Count
    log_probabilities: _Count
    saturated: _Count
    median_gap: _Positive
    squashed: NotRequired[Literal["", "softmax", "sigmoid", "tanh", "ends"]]  # not of older runs


class _Passes(_Table):
    between_passes: _Positive
    with_batch_size: _Positive


class _Attack(_Table):
    steps: _Count
    single_step: _Count
    many: _Count
    twice: _Count
    silent: _Count
    unfinished: _Count


class _Wobble(_Table):
    relative: _Share


class _Growth(_Table):
    broken: Annotated[list[tuple[_Positive, _Count]], Field(min_length=2)]
    whole_range: _Count


class _Transfer(_Table):
    broken: _Count
    alone: _Count


class _Noise(_Transfer):
    draws: _Count


class _Square(_Transfer):
    queries: _Count


class Nothing(_Table):
    """Where no sample was right, so that none was probed."""

    samples: Literal[0]


class Measured(_Table):
    """Of so many initially correct samples; counts are of them."""

    samples: Annotated[int, Field(ge=1)]
    threat: _Threat
    gradients: dict[Loss, _Gradient]
    logits: _Logits
    passes: _Passes
    attack: _Attack
    wobble: _Wobble
    growth: _Growth
    noise: _Noise
    square: _Square
    transfer: _Transfer | None


# What single probes tell until the diagnostics put them together; ``broken``: for each sample.


class _Part(_Table):
    samples: Annotated[int, Field(ge=1)]


class _Looks(_Part):
    gradients: dict[Loss, _Gradient]
    logits: _Logits
    passes: _Passes
    wobble: _Wobble


class _Ascents(_Part):
    attack: _Attack
    broken: list[bool]


class _Grown(_Part):
    growth: _Growth


class _Broken(_Part):
    broken: list[bool]


_PARTS: dict[str, TypeAdapter[Any]] = {
    "looks": TypeAdapter(_Looks),
    "ascents": TypeAdapter(_Ascents),
    "growth": TypeAdapter(_Grown),
    **{name: TypeAdapter(_Broken) for name in ("noise", "square", "transfer")},
}
_NOTHING, _MEASURED = TypeAdapter(Nothing), TypeAdapter(Measured)


def require_form(told: dict[str, Any]) -> None:
    """Raises pydantic's ValidationError for what are no measurements."""
    form: TypeAdapter[Any] = _NOTHING if len(told) == 1 else _MEASURED
    form.validate_json(json.dumps(told))


def require_part(probe: str, told: dict[str, Any]) -> None:
    """Raises ValueError (pydantic's too) for what is not what such a probe tells."""
    form = _NOTHING if len(told) == 1 else _PARTS[probe]
    form.validate_json(json.dumps(told))
    if "broken" in told and len(told["broken"]) != told["samples"]:
        raise ValueError(f"it tells of {len(told['broken'])} of {told['samples']} samples")


def counts(measured: Any) -> list[int]:
    """Every count of samples in measurements: none can be above their number."""
    told = [g[k] for g in measured["gradients"].values() for k in ("zero", "non_finite")]
    told += [measured["logits"][k] for k in ("probabilities", "log_probabilities", "saturated")]
    told += [count for name, count in measured["attack"].items() if name != "steps"]
    told += [count for _, count in measured["growth"]["broken"]]
    told.append(measured["growth"]["whole_range"])
    for part in ("noise", "square", "transfer"):
        if measured[part] is not None:
            told += [measured[part]["broken"], measured[part]["alone"]]
    return told
