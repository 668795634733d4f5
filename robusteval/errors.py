"""The exceptions that a user can meet.

RobustevalError            exit code 2, one clear line: what, where, what to do
├── UnknownNameError       a name no catalogue holds; lists near names
├── EntryError             a model entry that can't be read or doesn't fit its schema
├── PaperError             a paper's tables that can't be read or don't fit their schema
├── SuiteError             a suite that can't be read or doesn't fit its schema
├── ThreatError            a norm or an ε that makes no sense
├── DataError              a data set that is missing, broken or out of range
├── WeightsError           a weights file that is missing, altered or doesn't fit its entry
├── CodeNotAllowedError    an entry that names code, without --allow-code
├── OutputError            a place that can't be written
├── EvidenceError          a run's evidence that is missing, corrupt, newer, or in use
│   └── BusyError          … because another process is at work on the run
├── AttackError            an attack that can't run on this model, or returned nonsense
│   └── ScoreError         a detector's score that is NaN or infinite
├── TrainingError          training that can't start or went wrong
└── PluginError            an installed plug-in that can't be used, or whose name is taken
"""


class RobustevalError(Exception):
    """What was wrong, where, and what to do, in one line."""

    exit_code = 2

    def __str__(self) -> str:
        """One line that any terminal and file can hold, whatever a path or a value held."""
        return _printable(" ".join(super().__str__().splitlines()))


class UnknownNameError(RobustevalError):
    """A name no catalogue holds."""


class EntryError(RobustevalError):
    """A model entry that can't be read or doesn't fit its schema."""


class SuiteError(RobustevalError):
    """A suite that can't be read or doesn't fit its schema."""


class PaperError(RobustevalError):
    """A paper's tables that can't be read or don't fit their schema."""


class ThreatError(RobustevalError, ValueError):
    """A norm or an ε that makes no sense; a ValueError, too, so that schemas can raise it."""


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


class BusyError(EvidenceError):
    """A run that another process is at work on."""


class AttackError(RobustevalError):
    """An attack that can't run on this model, or that returned nonsense."""


class ScoreError(AttackError):
    """A detector's score that is NaN or infinite."""


class TrainingError(RobustevalError):
    """Training that can't start, or that went wrong."""


class PluginError(RobustevalError):
    """An installed plug-in that can't be used, or whose name something else has."""


# What messages are made of


def kind_of(value: object) -> str:
    """What something is, with its article: "a tuple"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def shown(value: object, most: int = 60) -> str:
    """A value as a message shows it, in one short line."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - such as an integer of more than 4,300 digits
        text = f"a {type(value).__name__} that can't be printed"
    return _printable(cut(text, most))


def reason(error: BaseException, most: int = 200) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    try:
        lines = str(error).splitlines()
    except Exception:  # noqa: BLE001 - foreign code may raise in __str__ as well
        lines = []
    said = next((line.strip() for line in lines if line.strip()), type(error).__name__)
    return _printable(cut(said, most))


def cut(text: str, most: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _printable(text: str) -> str:
    """Undecodable bytes, which Python keeps as lone surrogates, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
