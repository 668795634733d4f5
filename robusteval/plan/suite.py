"""A suite: one TOML file that says which attacks and detectors run.  Imports no torch."""

import logging
import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from robusteval.attacks.libraries import NAMES
from robusteval.catalogue import near_names
from robusteval.errors import PluginError, SuiteError, UnknownNameError, shown
from robusteval.folders import toml_files
from robusteval.plugins import OURS, plugins
from robusteval.reading import named, named_path, read_toml
from robusteval.schema import STRICT, Eps, checked, require_plain, short
from robusteval.types import GOALS, NORMS, Evading, Goal, Norm, ThreatModel, parse_eps

MOST_RESTARTS = 10_000
STATIC = "static_"  # begins the names of attacks that were asked for on another model
MADE_ELSEWHERE = "made on another model; this one was never asked"

_LOG = logging.getLogger("robusteval")


class _Table(BaseModel):
    model_config = STRICT


def _slug(source: str) -> str:
    """A model's name, or its entry's file, as a part of an attack's name."""
    return re.sub(r"[^a-z0-9_]+", "_", Path(source).stem.lower())


def _an_attack_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", value):
        raise ValueError("takes a-z, 0-9 and _")
    return short(value)


def _a_suite_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", value):
        raise ValueError("takes letters, digits, _, . and -, and begins with none of the last two")
    return short(value)


def _a_library(value: str) -> str:
    if value not in (known := [*NAMES, "robusteval"]):
        raise ValueError(f"names no library: {near_names(value, known)}")
    return value


class AttackSpec(_Table):
    """One attack, by its library's own names.

    ``times_eps`` gives parameters as multiples of ε; ``restarts`` are the harness's, on samples
    not yet broken.  ε itself comes from the threat model.  ``source``: another model's entry.  The
    attack then runs on that one, and its images are counted on the attacked model, which is never
    asked before.
    """

    name: Annotated[str, AfterValidator(_an_attack_name)]
    title: str
    library: Annotated[str, AfterValidator(_a_library)]
    attack: str
    norms: list[Norm] = Field(min_length=1)
    restarts: int = Field(default=1, ge=1, le=MOST_RESTARTS)
    parameters: dict[str, int | float | bool | str] = {}
    times_eps: dict[str, Eps] = {}
    note: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _transfer_has_a_source(self) -> "AttackSpec":
        if self.attack == "transfer" and not self.parameters.get("source"):
            raise ValueError('transfer needs a model: parameters = { source = "a name" }')
        if self.attack == "transfer" and self.source:
            raise ValueError("transfer asks the attacked model at each step: leave source out")
        return self

    def made_on(self, source: str) -> "AttackSpec":
        """The same attack, run on another model and only counted on the attacked one."""
        name = _slug(source)
        content = self.model_dump() | {"name": f"{STATIC}{self.name}_{name}", "source": source}
        content |= {"title": f"{self.title} of {Path(source).stem}", "note": MADE_ELSEWHERE}
        return checked(AttackSpec, content, f"{self.name} from {source}", SuiteError)

    @model_validator(mode="after")
    def _autoattack_is_standard(self) -> "AttackSpec":
        changed = self.attack != "standard" or self.parameters or self.times_eps
        if self.library == "autoattack" and changed:
            raise ValueError('autoattack runs unmodified: attack = "standard", no parameters')
        return self

    @property
    def follows_surrogates(self) -> bool:
        """Whether a user's surrogate leads it, after the attacked model's own gradients."""
        return (self.library, self.attack) == ("robusteval", "adaptive")

    @property
    def transfers(self) -> bool:
        """Whether its images come from another model."""
        return bool(self.source) or self.attack == "transfer"

    def parameters_for(self, threat: ThreatModel) -> dict[str, Any]:
        """The attack's parameters at a threat's ε."""
        scaled = {k: float(parse_eps(v) * threat.eps) for k, v in self.times_eps.items()}
        return {**self.parameters, **scaled}


# Outliers that no test set holds: a fifth of Tiny ImageNet's classes.
TUNING = "tiny_imagenet_tuning"


class Attackers(_Table):
    """Attacks that know the detector (see ``attacks.evasion``): on which detectors, how many
    samples, with how many passes of each (a backward pass counts as two), in which norms, each at
    its first ε, and against how many sets of outliers.

    ``method``: how errors that are accepted are looked for; ``stratified``: by what share of ε an
    inlier may be moved before its rejection is no error, "" for none.
    """

    detectors: list[str] = []
    goals: list[Goal] = Field(default=[*GOALS], min_length=1)
    method: Evading = "turns"
    samples: int = Field(default=64, ge=1, le=10_000)
    passes: int = Field(default=200, ge=20, le=1_000_000)
    norms: list[Norm] = Field(default=["Linf"], min_length=1)
    outliers: int = Field(default=1, ge=0)
    stratified: Eps | Literal[""] = ""


class Detection(_Table):
    """Outlier and attack detection: which detectors, against what.

    ``sets`` names outlier sets and groups of them: ``near``, ``far``, ``noise``.  Without it the
    first ``natural`` outlier sets of the data set are taken whose data are there, and two noises.
    """

    detectors: list[str] = []
    natural: int = Field(default=2, ge=0, description="natural outlier sets, where data are there")
    sets: list[str] = Field(default=[], description="groups of outlier sets, or sets by name")
    attacks: list[str] = Field(default=[], description="attacks whose images are to be detected")
    tuning: str = Field(
        default=TUNING, description="outliers by which detectors' settings are chosen; empty: none"
    )
    attackers: Attackers = Attackers()

    @model_validator(mode="after")
    def _attacked_are_there(self) -> "Detection":
        if unknown := set(self.attackers.detectors) - set(self.detectors):
            raise ValueError(
                f"detection.attackers names {', '.join(sorted(unknown))}, no detector of the suite"
            )
        return self


class Diagnostics(_Table):
    """Is the gradient masked?  How many initially correct samples are probed; 0 for none."""

    samples: int = Field(default=0, ge=0, le=512)


class Suite(_Table):
    """Attacks and detectors, and threats where the data set's own aren't meant."""

    name: Annotated[str, AfterValidator(_a_suite_name)]
    description: str = ""
    revision: int = Field(default=1, ge=1)  # raised when its attacks change: rows name it
    threats: dict[Norm, list[Eps]] = {}
    attacks: list[AttackSpec] = []
    transferred: list[str] = Field(
        default=[], description="attacks made on static sources, where some are asked for; else all"
    )
    detection: Detection = Detection()
    diagnostics: Diagnostics = Diagnostics()

    _all_is_plain = model_validator(mode="before")(require_plain)

    @field_validator("threats")
    @classmethod
    def _eps_fit_their_norms(cls, value: dict[Norm, list[Eps]]) -> dict[Norm, list[Eps]]:
        for norm, radii in value.items():
            for eps in radii:
                ThreatModel(norm, parse_eps(eps))
        return value

    @field_validator("attacks")
    @classmethod
    def _names_differ(cls, value: list[AttackSpec]) -> list[AttackSpec]:
        names = [a.name for a in value]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"{', '.join(sorted(doubled))} stands twice")
        return value

    def spelt_out(self) -> "Suite":
        """The same with every default set, as a run's spec holds it: a default may change."""
        return Suite(**self.model_dump())

    def only(self, names: list[str]) -> "Suite":
        """The suite with some of its attacks.  Raises UnknownNameError with near names."""
        known = [a.name for a in self.attacks]
        for name in names:
            if name not in known:
                others = sorted(suites_with(name), key=lambda n: n != "full")  # it has most
                elsewhere = " or ".join([n for n in others if n != self.name][:3])
                hint = near_names(name, known)
                hint = f"it is in {elsewhere}; here, {hint}" if elsewhere else hint
                raise UnknownNameError(f"suite {self.name} has no attack {shown(name)}: {hint}")
        chosen = [a for a in self.attacks if a.name in names]
        detected = [n for n in self.detection.attacks if n in names]
        detection = self.detection.model_copy(update={"attacks": detected})
        transferred = [n for n in self.transferred if n in names]
        return self.model_copy(
            update={"attacks": chosen, "detection": detection, "transferred": transferred}
        )

    def with_sources(self, sources: list[str]) -> "Suite":
        """The suite with a transfer attack from each of these models, in all of its norms.

        Raises SuiteError where one stands twice.
        """
        added = [
            AttackSpec(
                name="transfer_" + _slug(source),
                title=f"Transfer from {Path(source).stem}",
                library="robusteval",
                attack="transfer",
                norms=self.norms,
                parameters={"source": source},
                note="its gradients, this model's word on success",
            )
            for source in dict.fromkeys(sources)
        ]
        return self._with(added, "its sources")

    def with_static(self, sources: list[str]) -> "Suite":
        """The suite with static transfers from each of these models: of ``transferred``, or of all
        of its attacks where it names none.

        Raises SuiteError where one stands twice.
        """
        own = [a for a in self.attacks if a.attack != "transfer" and not a.source]
        meant = [a for a in own if a.name in self.transferred] or own
        return self._with(
            [attack.made_on(source) for source in dict.fromkeys(sources) for attack in meant],
            "its static sources",
        )

    def _with(self, added: list[AttackSpec], what: str) -> "Suite":
        content = {**self.model_dump(), "attacks": [*self.attacks, *added]}
        return checked(Suite, content, f"suite {self.name} with {what}", SuiteError)

    @property
    def sources(self) -> list[str]:
        """The models that its transfer attacks and its static transfers name."""
        named = [a.source or a.parameters.get("source") for a in self.attacks if a.transfers]
        return [str(name) for name in dict.fromkeys(named) if name]

    @property
    def static_sources(self) -> list[str]:
        """Those of its static transfers."""
        return list(dict.fromkeys(a.source for a in self.attacks if a.source))

    @model_validator(mode="after")
    def _detected_attacks_are_there(self) -> "Suite":
        if unknown := set(self.detection.attacks) - {a.name for a in self.attacks}:
            raise ValueError(
                f"detection.attacks names {', '.join(sorted(unknown))}, not an attack here"
            )
        if unknown := set(self.transferred) - {a.name for a in self.attacks}:
            raise ValueError(f"transferred names {', '.join(sorted(unknown))}, not an attack here")
        return self

    @property
    def norms(self) -> list[Norm]:
        """The norms that its attacks use, those on detectors among them, in the usual order."""
        of_detectors = self.detection.attackers
        used = {norm for attack in self.attacks for norm in attack.norms}
        used |= set(of_detectors.norms) if of_detectors.detectors else set()
        return [norm for norm in NORMS if norm in used]


def suite_names() -> list[str]:
    """The suites that come with the project."""
    return [path.stem for path in toml_files(_own_folder(), "suite folder", SuiteError)]


def _own_folder() -> Path:
    return Path(str(files("robusteval") / "suites"))


def suite_paths() -> dict[str, Path]:
    """Every suite's name and file: the project's own, and packages'."""
    return {name: path for name, (path, _) in suite_sources().items()}


def suite_sources() -> dict[str, tuple[Path, str]]:
    """Every suite's name, its file and the package that it comes from.

    A package's can't stand in for one of the project's: what is published names those.  What is
    wrong with a package is logged.
    """
    found: dict[str, tuple[Path, str]] = {}
    for package, folder in [(OURS, _own_folder()), *_of_packages()]:
        for path in toml_files(folder, "suite folder", SuiteError):
            first, whose = found.setdefault(path.stem, (path, package))
            if first != path:
                told = "%s of %s is not used: %s of %s has its name and comes first"
                _LOG.warning(told, path, package, first, whose)
    return dict(sorted(found.items()))


def _of_packages() -> Iterator[tuple[str, Path]]:
    for plugin in plugins("suites"):
        try:
            yield from ((plugin.package, folder) for folder in plugin.folders())
        except PluginError as problem:
            _LOG.warning("%s", problem)


def suites_with(attack: str) -> list[str]:
    """Of the project's suites those that have an attack of that name."""
    return [n for n in suite_names() if attack in {a.name for a in read_suite(n).attacks}]


def read_suite(name_or_path: "str | os.PathLike[str] | Suite") -> Suite:
    """A suite by name, or by the path of its TOML file; one that was read already as it is.

    Raises UnknownNameError or SuiteError with the file, the field and the mend.
    """
    if isinstance(name_or_path, Suite):
        return name_or_path
    name = named(name_or_path, "suite", SuiteError)
    if name.lower().endswith(".toml") or os.sep in name:
        path = named_path(name, "suite file", SuiteError)
        if path.suffix.lower() != ".toml":
            raise SuiteError(f"suite {path} is not a TOML file: name one that ends in .toml")
        return _read(path)
    known = suite_paths()
    if name not in known:
        raise UnknownNameError(f"unknown suite {shown(name)}: {near_names(name, known)}")
    return _read(known[name])


def _read(path: Path) -> Suite:
    content = read_toml(path, "suite file", SuiteError)
    return checked(Suite, content, f"suite {path}", SuiteError)
