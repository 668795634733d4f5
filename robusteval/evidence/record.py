"""A run's record, ``run.json``: its spec, and what a report needs beside the evidence."""

import datetime
import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from robusteval.data.known import DATASETS
from robusteval.data.outliers import Group
from robusteval.detection.registry import find as find_detector
from robusteval.errors import (
    AttackError,
    EvidenceError,
    PluginError,
    RobustevalError,
    UnknownNameError,
    reason,
    shown,
)
from robusteval.evidence.columns import PROTOTYPES_SINCE, SCHEMA
from robusteval.evidence.files import Files
from robusteval.evidence.pieces import json_bytes
from robusteval.evidence.store import Store, require_readable
from robusteval.hardware import PACKAGES
from robusteval.models.acceleration import Acceleration
from robusteval.models.adapter import Parts
from robusteval.models.entry import Entry
from robusteval.plan.budget import Budget
from robusteval.plan.context import COMPARED, LONGEST_NOTE, LONGEST_PAIR, MOST_NOTES
from robusteval.plan.made_with import records_of
from robusteval.plan.plan import (
    Plan,
    asks_for_loss,
    make_plan,
    reads_features,
    reads_linear_head,
)
from robusteval.plan.spec import RunSpec
from robusteval.schema import told_problem

RECORD, RUN_SCHEMA = "run.json", "robusteval.run"
PACKED = "packed"  # in a packed run's record: the schema that it had before
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Side = Annotated[int, Field(ge=1, le=10**6)]
_Index = Annotated[int, Field(ge=0, le=10**9)]
_Name = Annotated[str, Field(max_length=200)]
_Note = Annotated[str, Field(min_length=1, max_length=LONGEST_NOTE)]
_Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+!_\-]{1,64}$")]


def _a_day(text: str) -> str:
    datetime.date.fromisoformat(text)
    return text


class _Prototypes(TypedDict):
    """How prototypes that were given beside a module agree with it: ``models.own.Agreement``."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]  # read by pydantic, no key
    same: Annotated[int, Field(ge=0)] | None
    of: Annotated[int, Field(ge=1, le=COMPARED)]
    distance: float


class _Layer(TypedDict):
    """Of a layer with prototypes: see ``PrototypeLayer``."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]  # read by pydantic, no key
    layer: _Name
    per_class: Annotated[int, Field(ge=1, le=10**6)]
    features: Annotated[int, Field(ge=1, le=10**9)] | None
    coinciding: list[tuple[_Index, _Index]] | None
    equal: _Index | None


class _Model(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    classes: Annotated[int, Field(ge=2, le=10**6)]
    layers: list[_Name]
    features: NotRequired[bool]  # where a detector reads them
    linear_head: NotRequired[bool]  # where a detector needs one
    own_loss: NotRequired[bool]  # whether it is known, where an attack ascends it
    notes: NotRequired[Annotated[list[_Note], Field(min_length=1, max_length=MOST_NOTES)]]
    prototypes: NotRequired[_Prototypes]
    prototype_layers: NotRequired[list[_Layer]]  # where there are some; older runs have none


class _Dataset(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    classes: list[str]
    shape: NotRequired[tuple[_Side, _Side, _Side]]  # channels, height, width; older runs have none
    samples: NotRequired[Annotated[int, Field(ge=1)]]  # of own data, before any were chosen


class _OutlierSet(TypedDict):
    """What is known of an outlier set: see ``data.outliers.OutlierSet``."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]  # read by pydantic, no key
    group: Group
    split: Literal["test", "made", "folder"]
    shared: list[Annotated[str, Field(max_length=LONGEST_PAIR)]] | None


class _Attack(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    library_version: _Version
    version: NotRequired[Annotated[int, Field(ge=1, le=10**6)]]  # older runs have none
    parameters: dict[_Name, Any]


class Provenance(TypedDict):
    """What the numbers were made with, as the run says: the model and the data can't tell."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    versions: dict[Annotated[str, Field(pattern=r"^[a-z0-9_\-]{1,64}$")], _Version]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{0,40}$")]
    dirty: bool | None
    hardware: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,200}$")]
    device: str
    threads: int
    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_a_day)]


class _Record(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    schema: str
    spec: dict[str, Any]
    entry: dict[str, Any] | None
    entry_reference: str
    data_reference: NotRequired[str]  # of own data: their path, "" where Python gave them
    training_reference: NotRequired[str]  # of own training data the same
    model: _Model
    dataset: _Dataset
    attacks: dict[str, _Attack]
    outliers: NotRequired[dict[str, _OutlierSet]]  # where there are some; older runs have none
    provenance: Provenance


_FORM = TypeAdapter(_Record)
_ALWAYS = {"python", "torch"}
_KNOWN = {"python", *PACKAGES}
# What a spec and a record of any content may raise where they are read.
_MALFORMED = (
    TypeError,
    LookupError,
    AttributeError,
    ValueError,
    OverflowError,
    RecursionError,
    RobustevalError,
)


def write_record(files: Files, record: dict[str, Any]) -> None:
    """``run.json``.  Raises OutputError where it can't be written."""
    content = {"schema": f"{RUN_SCHEMA}/{SCHEMA}", **record}
    files.write(RECORD, json_bytes(content), "choose another with --out")


def mark_packed(files: Files, packed: bool) -> None:
    """Lets versions that know no packs refuse the run, or read it again: a packed one has a schema
    of its own, which is one above any that they read, and beside it the one that it had."""
    advice = "mend the folder, then run the same command again"
    record = read_record(files)
    if packed:
        had = _schema_of(record["schema"])[1]
        record |= {"schema": f"{RUN_SCHEMA}/{SCHEMA + 1}", PACKED: had}
    files.write(RECORD, json_bytes(record), advice)


def read_record(files: Files) -> dict[str, Any]:
    """``run.json``; of a packed run as it was before.

    Raises EvidenceError for no run, a corrupt one, and one of another schema.
    """
    path = files.where(RECORD)
    try:
        record = json.loads(files.read(RECORD), parse_constant=_refuse_constant)
        if not isinstance(record, dict):
            raise ValueError("it holds no table")
        name, schema = _schema_of(record["schema"])
    except (FileNotFoundError, NotADirectoryError):
        raise EvidenceError(
            f"{files.where()} is not a run: name a folder that `robusteval run` made, or its "
            "archive"
        ) from None
    except (OSError, *_MALFORMED) as error:
        raise _corrupt(files, error) from None
    if name != RUN_SCHEMA:
        raise EvidenceError(f"{path} is a {name}, not a {RUN_SCHEMA}: name a run's folder")
    if (had := record.pop(PACKED, None)) is None:
        require_readable(schema, path)
        return dict(record)
    require_readable(schema - 1, path)
    if type(had) is not int or had >= schema:
        raise _corrupt(files, ValueError(f"{PACKED} is no earlier schema"))
    require_readable(had, path)
    return {**record, "schema": f"{RUN_SCHEMA}/{had}"}


def _schema_of(told: Any) -> tuple[str, int]:
    """Such as ``robusteval.run/3``, in its parts."""
    name, _, version = told.partition("/")
    if not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise ValueError(f"its schema {shown(told)} names no version")
    return name, int(version)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def open_store(files: Files) -> tuple[Store, RunSpec, dict[str, Any]]:
    """A run's store, spec and record.  Raises EvidenceError if they don't belong together."""
    record = read_record(files)
    try:
        _FORM.validate_json(json.dumps(record))
        spec = RunSpec.from_json(record["spec"])
    except _MALFORMED as error:
        raise _corrupt(files, error) from None
    _require_installed(files, spec)
    try:
        _require_together(spec, record)
    except _MALFORMED as error:
        raise _corrupt(files, error) from None
    schema = int(record["schema"].partition("/")[2])
    return Store(files, spec.digest, schema), spec, record


def _require_installed(files: Files, spec: RunSpec) -> None:
    """Raises EvidenceError for a run of a package's attacks or detectors that isn't here."""
    others = sorted(spec.versions.keys() - _KNOWN - {"attacks"})
    try:
        records_of(spec.suite)
        for name in spec.suite.detection.detectors:
            find_detector(name)
    except (UnknownNameError, PluginError, AttackError) as error:
        if others:
            raise EvidenceError(
                f"{files.where()} was made with {', '.join(others)}: install that ({error})"
            ) from None
        raise _corrupt(files, error) from None


def parts_of(record: dict[str, Any]) -> Parts:
    """What a run's model has beside logits, as the run's record says."""
    model = record["model"]
    parts = (model.get(part, False) for part in ("features", "linear_head", "own_loss"))
    return Parts(len(model["layers"]), *parts)


def _require_together(spec: RunSpec, record: dict[str, Any]) -> None:
    """Raises ValueError where parts of a record contradict each other."""
    suite = spec.suite
    plan = make_plan(suite, spec, parts_of(record))
    entry = Entry(**record["entry"]) if record["entry"] is not None else None
    provenance, classes = record["provenance"], record["model"]["classes"]
    versions = provenance["versions"]
    forms = [str(Acceleration.parse(text)) for text in spec.forms]
    contradictions = {
        "entry.name": entry is not None and entry.name != spec.model,
        "entry_reference": (entry is None) != (record["entry_reference"] == ""),
        "dataset.shape": bool(spec.code) and "shape" not in record["dataset"],
        "dataset.samples": ("samples" in record["dataset"]) != spec.own_data
        or record["dataset"].get("samples", spec.samples) < spec.samples,
        "spec.own_data": spec.own_data and spec.dataset in DATASETS,
        "data_reference": ("data_reference" in record) != spec.own_data,
        "training_reference": ("training_reference" in record) != spec.own_training,
        "dataset.classes": len(record["dataset"]["classes"]) != classes,
        "model.prototype_layers": not _fitting_prototypes(record),
        "model.features": ("features" in record["model"]) != reads_features(suite),
        "model.linear_head": ("linear_head" in record["model"]) != reads_linear_head(suite),
        "model.own_loss": ("own_loss" in record["model"]) != asks_for_loss(suite),
        "model.prototypes": _no_agreement(record["model"], spec),
        "attacks": list(record["attacks"]) != [cell.key for cell in plan.cells]
        or any(("version" in about) != bool(spec.code) for about in record["attacks"].values()),
        "spec.forms": forms != list(spec.forms),
        # Digests, or the one that older runs hold in their place: of all code together.
        "spec.code": bool(plan.cells) and bool(spec.code) == ("attacks" in spec.versions),
        "spec.sources": set(spec.sources) != set(suite.sources),
        "spec.outliers": len(set(plan.outliers)) < len(plan.outliers),
        "outliers": _other_sets(record, plan, spec),
        "spec.outlier_digests": not spec.outlier_digests.keys() <= set(plan.outliers),
        "spec.budget": spec.budget is not None and _contradicts(spec.budget, spec),
        "spec.training": bool(spec.training) != bool(plan.fits),
        "spec.tuning": _untunable(spec),
        "spec.own_training": spec.own_training and not spec.training,
        "provenance.device": provenance["device"] != spec.device,
        "provenance.threads": provenance["threads"] != spec.threads,
        "provenance.versions": not _ALWAYS <= versions.keys() <= _KNOWN | spec.versions.keys()
        or any(
            versions[name] != spec.versions[name] for name in versions.keys() & spec.versions.keys()
        ),
    }
    if wrong := [name for name, differs in contradictions.items() if differs]:
        raise ValueError(f"{wrong[0]} contradicts the rest of it")


def _untunable(spec: RunSpec) -> bool:
    """Whether settings are said to be chosen by other outliers than the suite's, or by tests."""
    name = spec.tuning[0] if spec.tuning else ""
    return bool(name) and (name != spec.suite.detection.tuning or name in spec.outliers)


def _other_sets(record: dict[str, Any], plan: Plan, spec: RunSpec) -> bool:
    """Whether outlier sets are told that can't be this run's.  Runs from before suites had ``sets``
    tell of none."""
    if "outliers" not in record:
        return "sets" in spec.suite.detection.model_fields_set and bool(plan.outliers)
    told = record["outliers"]
    folders = {name for name, one in told.items() if one["group"] == "folder"}
    return list(told) != plan.outliers or folders != set(spec.outlier_folders)


def _contradicts(budget: Budget, spec: RunSpec) -> bool:
    """Whether a run has what it says was left out for its budget, or was planned to take longer."""
    suite = spec.suite
    there = {attack.name for attack in suite.attacks}
    parts = {"diagnostics": suite.diagnostics.samples, "detection": suite.detection.detectors}
    return (
        not there.isdisjoint(budget.attacks)
        or any(parts[part] for part in budget.parts)
        or len({*budget.attacks}) + len({*budget.parts}) < len(budget.attacks + budget.parts)
        or budget.samples < spec.samples
        or budget.planned > budget.seconds + 0.1  # it is told with one digit
    )


def _fitting_prototypes(record: dict[str, Any]) -> bool:
    """Whether prototypes are told of layers that there are, and coincide with those before them."""
    model = record["model"]
    told = model.get("prototype_layers", [])
    names = [layer["layer"] for layer in told]
    due = bool(model["layers"]) and _schema_of(record["schema"])[1] >= PROTOTYPES_SINCE
    found = "prototype_layers" in model
    return (
        (found or not due)
        and found == bool(told)
        and names == [name for name in model["layers"] if name in names]
        and all(_ordered(layer, model["classes"] * layer["per_class"]) for layer in told)
    )


def _ordered(layer: dict[str, Any], count: int) -> bool:
    """Whether each coinciding prototype of ``count`` is named once, with the first of them."""
    pairs, unknown = layer["coinciding"], [layer[key] is None for key in ("features", "equal")]
    if pairs is None:
        return all(unknown)
    later = [i for i, _ in pairs]
    return (
        not any(unknown)
        and later == sorted(set(later))
        and all(first < i < count and first not in later for i, first in pairs)
        and layer["equal"] <= len(pairs)
    )


def _no_agreement(model: dict[str, Any], spec: RunSpec) -> bool:
    """Whether a comparison of prototypes with their module can't be this run's."""
    if (told := model.get("prototypes")) is None:
        return False
    too_many = told["same"] is not None and told["same"] > told["of"]
    return too_many or told["of"] != min(COMPARED, spec.samples) or not model["layers"]


def _corrupt(files: Files, error: Exception) -> EvidenceError:
    said = reason(error)
    if isinstance(error, ValidationError):
        said = told_problem(error)
    elif isinstance(error, OSError):
        return EvidenceError(f"{files.where(RECORD)} can't be read ({error.strerror}): mend that")
    return EvidenceError(
        f"{files.where(RECORD)} is corrupt ({said}): restore it, or run the same command again "
        "elsewhere"
    )
