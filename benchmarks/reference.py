"""The documents' tables of what there is: commands, models, trainings, data sets, attacks."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import typer

from robusteval.cli import app
from robusteval.data.known import DATASETS
from robusteval.detection.record import PYTORCH_OOD
from robusteval.detection.registry import DETECTORS
from robusteval.models.entry import Entry
from robusteval.models.registry import all_entries
from robusteval.plan.suite import read_suite, suite_names
from robusteval.report.samples import columns


def entries() -> list[Entry]:
    """Every entry of the registry that can be read, by name."""
    return [entry for entry in all_entries() if isinstance(entry, Entry)]


def models() -> Iterator[str]:
    """Every entry with its clean accuracy, the size and the licence of its weights."""
    yield "| model | method | training | data | clean, whole test split | weights | licence |"
    yield "|---|---|---|---|---:|---:|---|"
    for entry in entries():
        clean, size = "–", "untrained"
        if told := entry.trained:
            clean = f"{100 * told.clean_accuracy:.2f} % ({told.clean_correct}/{told.clean_total})"
            size = "not kept"
        if entry.weights:
            size = f"{entry.weights_path.stat().st_size / 1e6:.2f} MB"
        kind = entry.training.kind if entry.training else "elsewhere"
        licence = entry.license if entry.weights else "–"
        yield (
            f"| `{entry.name}` | {entry.method} | {kind} | {entry.dataset} | {clean} | {size} | "
            f"{licence} |"
        )


def trainings() -> Iterator[str]:
    """How each entry is trained, and how long it took."""
    yield "| command | epochs | time | on | clean |"
    yield "|---|---:|---:|---|---:|"
    for entry in entries():
        if entry.training is None:
            continue
        command = f"`robusteval train {entry.name}`"
        if (told := entry.trained) is None:
            yield f"| {command} | {entry.training.total_epochs} | – | – | – |"
            continue
        yield (
            f"| {command} | {told.epochs} | {told.seconds / 60:.1f} min | "
            f"{told.hardware}, {told.precision} | {100 * told.clean_accuracy:.2f} % |"
        )


def datasets() -> Iterator[str]:
    """Every data set with its usual ε, its outliers, its source and its licence."""
    yield "| data set | images | classes | usual ε | outliers | near | far | licence |"
    yield "|---|---|---:|---|---|---|---|---|"
    for name in DATASETS:
        info = DATASETS.get(name)
        shape = f"{info.shape.channels}×{info.shape.height}×{info.shape.width}"
        title = f"[{info.title}]({info.source})" if info.source else info.title
        eps = ", ".join(f"{norm} {radius}" for norm, radius in info.threats.items())
        sets = [
            ", ".join(f"`{one}`" for one in names) or "–"
            for names in (info.outliers, info.near, info.far)
        ]
        yield (
            f"| `{name}`: {title} | {shape} | {info.classes} | {eps} | {' | '.join(sets)} | "
            f"{info.license or '–'} |"
        )


def suites() -> Iterator[str]:
    """Each suite, and its attacks in their order."""
    for name in suite_names():
        suite = read_suite(name)
        yield f"**`{name}`**: {suite.description}"
        yield ""
        if not suite.attacks:
            continue
        yield "| attack | what it is | library | norms |"
        yield "|---|---|---|---|"
        for attack in suite.attacks:
            yield (
                f"| `{attack.name}` | {attack.title} | {attack.library} | "
                f"{', '.join(attack.norms)} |"
            )
        yield ""


def detectors() -> Iterator[str]:
    """Each detector: its method, what it reads and needs, and what an attacker can make of it."""
    yield "| name | method | source | reads | needs | gradient | own passes |"
    yield "|---|---|---|---|---|---|---:|"
    for record in DETECTORS.own():
        needs = {
            "prototypes": record.needs_prototypes,
            "linear layer": record.needs_linear_head,
            "training data": record.needs_training_data,
        }
        needed = ", ".join(name for name, asked in needs.items() if asked)
        source = record.source + (" (by pytorch-ood)" if record.package == PYTORCH_OOD else "")
        told = f"| `{record.name}` | {record.title} | {source} | {record.reads} | {needed}"
        yield f"{told} | {'yes' if record.gradient else 'no'} | {record.own_passes} |"


def settings() -> Iterator[str]:
    """The hyper-parameters that are chosen by tuning outliers."""
    yield "| name | without tuning outliers | else chosen from these as well |"
    yield "|---|---|---|"
    for record in DETECTORS.own():
        if len(record.settings) > 1:
            first, *others = (_told(setting) for setting in record.settings)
            yield f"| `{record.name}` | {first} | {'; '.join(others)} |"


def _told(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in setting.items())


def samples() -> Iterator[str]:
    """The columns of per-sample results."""
    yield "| column | kind | what it is |"
    yield "|---|---|---|"
    for column in columns():
        name = column.name.replace("<", "&lt;")
        yield f"| {name} | {column.kind_text} | {column.about} |"


def commands() -> Iterator[str]:
    """Each verb with its arguments and options, as ``--help`` tells them."""
    yield from chain.from_iterable(_verbs(typer.main.get_command(app), "robusteval"))


def _verbs(group: Any, before: str) -> Iterator[list[str]]:
    for name, command in group.commands.items():
        called = f"{before} {name}"
        if hasattr(command, "commands"):
            yield from _verbs(command, called)
        else:
            yield list(_verb(command, called))


def _verb(command: Any, called: str) -> Iterator[str]:
    arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    yield f"## `{called}`"
    yield ""
    yield command.help.strip()
    yield ""
    yield "```text"
    yield " ".join([called, *arguments, "[OPTIONS]"])
    yield "```"
    yield ""
    yield "| option | what it does | default |"
    yield "|---|---|---|"
    for parameter in command.params:
        help_text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
        yield f"| {_spelled(parameter)} | {help_text} | {_default(parameter)} |"
    yield ""


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in parameter.opts)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value in (None, False, []) or callable(value) else f"`{value}`"
