"""A run's spec: all that decides its outcome, as plain data, whose hash names the run."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter

from robusteval.data.choice import First, Listed, Samples
from robusteval.data.readers import Shape
from robusteval.hardware import MOST_THREADS
from robusteval.models.acceleration import static_batch
from robusteval.plan.budget import Budget
from robusteval.plan.suite import Suite
from robusteval.types import Norm, ThreatModel, parse_eps

Keep = Literal["first", "all"]
Name = Annotated[str, Field(pattern=r"^\w[\w.\-]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=10**8)]
_Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
_MOST_CHUNKS = 10**5


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's outcome, as plain data.

    ``threads``: of each worker, since sums split over threads differ in the last bit.  ``keep``:
    which adversarial images are stored, the ``first`` success of each sample and threat model in
    the suite's order or ``all``.  ``transfer_source``: name and digest of the model whose
    adversarials the diagnostics transfer, empty where there is none.  ``forms``: how the model
    computes for libraries and for our own gradients (see ``models.acceleration``).  ``sources``:
    digests of the models that the suite's transfer attacks name.  ``outlier_digests``: of the
    images that are taken of outlier sets and folders.  ``code``: digests of what computes each
    attack and detector; empty in runs from before attacks had versions.  ``training``: how many
    samples detectors are fitted to and their digest; empty where none is fitted.  ``tuning``: by
    which outliers their settings are chosen, how many and their digest; empty where the first
    setting is taken.  ``own_training``: whether a user gave the training data.  ``own_data``:
    whether a user gave the data, so that no name leads to them.  ``chosen``: which samples of them,
    class-balanced, the first ones, or those of these indices.  ``budget``: what was left out so
    that the run fits into a time.  ``surrogate``: of the model whose gradients ``adaptive`` follows
    how to find it, "" where Python gave it, and its digest.
    """

    # What ``from_json`` asks of a file.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )

    model: Name
    model_digest: Digest
    dataset: str
    data_digest: Digest
    suite: Suite
    threats: list[tuple[Norm, str]]
    samples: Count
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    batch_size: Count
    time_limit: Annotated[float, Field(gt=0)] | None = None
    outliers: tuple[str, ...] = ()
    outlier_folders: tuple[str, ...] = ()
    outlier_digests: dict[str, Digest] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$")] = "cpu"
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    keep: Keep = "first"
    transfer_source: tuple[()] | tuple[Name, Digest] = ()
    forms: tuple[str, str] = ("float32", "float32")
    sources: dict[str, Digest] = field(default_factory=dict)
    code: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]] = field(default_factory=dict)

    training: tuple[()] | tuple[Count, Digest] = ()
    tuning: tuple[()] | tuple[str, Count, Digest] = ()
    own_training: bool = False
    own_data: bool = False
    chosen: Literal["balanced", "first"] | _Indices = "balanced"
    budget: Budget | None = None
    surrogate: tuple[()] | tuple[str, Digest] = ()

    @property
    def asked(self) -> Samples:
        """Which samples of its data a run takes."""
        if isinstance(self.chosen, tuple):
            return Listed(self.chosen)
        return First(self.samples) if self.chosen == "first" else self.samples

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the spec."""
        canonical = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """``<model>-<suite>-<8 hex of the spec>``: the run's folder."""
        return f"{self.model}-{self.suite.name}-{self.digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON gives back unchanged.

        Of the suite what was set, so that a field that suites get later leaves old digests alone.
        """
        suite = self.suite.model_dump(exclude_unset=True)
        budget = asdict(self.budget) if self.budget else None
        whole = {**self.__dict__, "suite": suite, "budget": budget}
        plain: dict[str, Any] = json.loads(json.dumps(whole))
        unset = {"code": {}, "training": [], "tuning": [], "own_training": False}
        unset |= {"own_data": False, "chosen": "balanced", "budget": None, "surrogate": []}
        for younger, value in unset.items():
            if plain[younger] == value:  # so that the digests of older runs stay theirs
                del plain[younger]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The spec of its plain data.

        Raises ValueError (pydantic's) for a field that is missing, unknown or out of its range, and
        ThreatError for an ε that is none.
        """
        spec = TypeAdapter(cls).validate_json(json.dumps(plain))
        spec.threat_models()
        listed = spec.chosen if isinstance(spec.chosen, tuple) else ()
        if listed and (len(listed) != spec.samples or list(listed) != sorted({*listed})):
            raise ValueError("chosen: indices that aren't so many, or not in order")
        if spec.samples > spec.batch_size * _MOST_CHUNKS:
            raise ValueError(f"batch_size: {spec.batch_size} makes over {_MOST_CHUNKS} chunks")
        return spec

    def threat_models(self) -> list[ThreatModel]:
        """The threats, with their exact ε."""
        return [ThreatModel(norm, parse_eps(eps)) for norm, eps in self.threats]


_PIXELS_AT_ONCE = 120 * 3 * 32 * 32


def default_batch(shape: Shape, device: str = "cpu") -> int:
    """Images attacked together where the user does not say: 120 at 3×32×32, up to 500 smaller.

    On an accelerator no fewer than its models take at once.
    """
    pixels = shape.channels * shape.height * shape.width
    fewest = 16 if device == "cpu" else static_batch(device)
    return max(fewest, min(500, _PIXELS_AT_ONCE // pixels))
