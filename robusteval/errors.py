"""The exceptions that a user can meet.

RobustevalError            exit code 2, one clear line: what, where, what to do
├── UnknownNameError       a name no catalogue holds; lists near names
├── EntryError             a model entry that can't be read or doesn't fit its schema
├── SuiteError             a suite that can't be read or doesn't fit its schema
├── ThreatError            a norm or an ε that makes no sense
├── DataError              a data set that is missing, broken or out of range
├── WeightsError           a weights file that is missing, altered or doesn't fit its entry
├── CodeNotAllowedError    an entry that names code, without --allow-code
├── OutputError            a place that can't be written
├── EvidenceError          a run's evidence that is missing, corrupt, newer, or in use
├── AttackError            an attack that can't run on this model, or returned nonsense
└── TrainingError          training that can't start or went wrong
"""


class RobustevalError(Exception):
    """What was wrong, where, and what to do, in one line."""

    exit_code = 2


class UnknownNameError(RobustevalError):
    """A name no catalogue holds."""


class EntryError(RobustevalError):
    """A model entry that can't be read or doesn't fit its schema."""


class SuiteError(RobustevalError):
    """A suite that can't be read or doesn't fit its schema."""


class ThreatError(RobustevalError):
    """A norm or an ε that makes no sense."""


class DataError(RobustevalError):
    """A data set that is missing, broken or out of range."""


class WeightsError(RobustevalError):
    """A weights file that is missing, altered or doesn't fit its entry."""


class CodeNotAllowedError(RobustevalError):
    """An entry that names code to run, without the user's permission."""


class OutputError(RobustevalError):
    """A place that can't be written."""


class EvidenceError(RobustevalError):
    """A run's evidence that is missing, corrupt, made by a newer schema, or in use."""


class AttackError(RobustevalError):
    """An attack that can't run on this model, or that returned nonsense."""


class TrainingError(RobustevalError):
    """Training that can't start, or that went wrong."""


# What messages are made of


def kind_of(value: object) -> str:
    """What something is, with its article: "a tuple"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or "no reason given").splitlines()[0]
