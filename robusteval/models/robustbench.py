"""RobustBench's architectures with weights of one's own: ``robustbench:Carmon2019Unlabeled``.

A name may say data set and threat before it, ``robustbench:cifar100/L2/…``; RobustBench's own
defaults are cifar10 and Linf.  Weights lie where RobustBench keeps them, in ``DATASET/THREAT/``
below a folder; nothing is downloaded.  Imports no torch.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from robusteval.catalogue import near_names
from robusteval.errors import EntryError, RobustevalError, UnknownNameError, WeightsError, shown
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import CHECKPOINT, BackboneTable, Input, Weights
from robusteval.reading import named_path, read_file
from robusteval.robustbench import robustbench, robustbench_version

PREFIX = "robustbench:"
FOLDER = "ROBUSTEVAL_ROBUSTBENCH"  # the variable that names another one than RobustBench's own
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
THREATS = ("Linf", "L2", "corruptions")
ENDS = (".safetensors", CHECKPOINT)  # in this order
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,46}")  # names of entries are short, too
_MOST_WEIGHTS = 2**33  # bytes


@dataclass(frozen=True)
class Asked:
    """One of RobustBench's models."""

    dataset: str
    threat: str
    name: str

    @property
    def place(self) -> str:
        """Such as ``cifar10/Linf/Carmon2019Unlabeled``."""
        return f"{self.dataset}/{self.threat}/{self.name}"


class RobustBenchEntry(Entry):
    """An entry that no file describes: its weights are all that is on disk."""

    asked: Asked = Field(exclude=True)
    weights_file: Path = Field(exclude=True)

    @property
    def address(self) -> str:
        return f"{PREFIX}{self.asked.place}"

    @property
    def weights_path(self) -> Path:
        return self.weights_file


def parse(text: str) -> Asked:
    """``robustbench:[DATASET/][THREAT/]NAME``.  Raises EntryError for what is none."""
    *place, name = text.removeprefix(PREFIX).split("/")
    dataset = place.pop(0) if place and place[0] not in THREATS else "cifar10"
    threat = place.pop(0) if place else "Linf"
    if place or not _NAME.fullmatch(name):
        raise EntryError(f"model {shown(text)}: write {PREFIX}NAME or {PREFIX}DATASET/THREAT/NAME")
    # What is neither may have been meant as a threat, too.
    for value, known in ((dataset, [*CLASSES, *THREATS]), (threat, [*THREATS])):
        if value not in known:
            hint = near_names(value, known)
            raise EntryError(f"model {shown(text)}: unknown {shown(value)}: {hint}")
    return Asked(dataset, threat, name)


def robustbench_entry(text: str) -> RobustBenchEntry:
    """The entry of such a name.

    Raises EntryError for what is no such name, or where RobustBench isn't installed;
    UnknownNameError for a name that it hasn't; WeightsError where there are no weights.
    """
    asked = parse(text)
    try:
        made_with = robustbench_version()
    except RobustevalError as error:
        raise EntryError(f"model {shown(text)}: {error}") from None
    path = _weights(asked)
    known = asked.dataset != "imagenet"
    return RobustBenchEntry(
        name=_plain(asked),
        method="RobustBench",
        description=f"{asked.name} of RobustBench {made_with}: {asked.dataset}, {asked.threat}.",
        dataset=asked.dataset if known else "",
        classes=CLASSES[asked.dataset],
        input=Input(mean=[0.0], std=[1.0]),  # its models normalise by themselves
        backbone=BackboneTable(name=f"{PREFIX}{asked.place}"),
        weights=Weights(file=path.name, sha256=_digest(path)),
        path=Path(f"{PREFIX}{asked.place}"),
        asked=asked,
        weights_file=path,
    )


def names_of(asked: Asked) -> dict[str, dict[str, object]]:
    """What RobustBench knows of the models of a data set and a threat, by name."""
    robustbench()
    from robustbench.model_zoo import enums, model_dicts

    threats = model_dicts[enums.BenchmarkDataset(asked.dataset)]
    found: dict[str, dict[str, object]] = threats.get(enums.ThreatModel(asked.threat), {})
    return found


def require_known(asked: Asked) -> None:
    """Raises UnknownNameError, with near names."""
    if asked.name not in (names := names_of(asked)):
        where = f"{asked.dataset}/{asked.threat}"
        hint = near_names(asked.name, names)
        raise UnknownNameError(f"RobustBench has no model {shown(asked.name)} in {where}: {hint}")


def _plain(asked: Asked) -> str:
    """The name in reports and of folders, which an entry's schema takes."""
    return re.sub(r"[^a-z0-9_.\-]", "_", f"robustbench_{asked.place}".lower())


def _weights(asked: Asked) -> Path:
    """The model's file; absolute, for workers and for messages."""
    folder = named_path(os.environ.get(FOLDER) or "models", f"${FOLDER}", WeightsError)
    start = folder.absolute() / asked.dataset / asked.threat
    paths = [start / f"{asked.name}{end}" for end in ENDS]
    if found := next((path for path in paths if path.exists()), None):
        return found
    require_known(asked)
    if (start / f"{asked.name}.pt_m0.pt").exists():
        raise WeightsError(
            f"{PREFIX}{asked.place} is an ensemble in several files: load it with RobustBench, and "
            f"save its whole state dict as {paths[0]} (docs/other_tools.md)"
        )
    raise WeightsError(
        f"{PREFIX}{asked.place} has no weights: put them at {paths[0]} or, as RobustBench keeps "
        f"them, {paths[1].name} (${FOLDER} names another folder than {folder}; nothing is "
        "downloaded)"
    )


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_file(path, _MOST_WEIGHTS)).hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read ({error.strerror})") from None
