"""One trained model read in another way: ``NAME@nearest_prototype`` or ``NAME@softmax``.

PCL trains a classifier beside its prototypes, reads by the nearest of these (eq. 7), and says that
the classifier does as well.  Both are of one entry, one set of weights.
"""

from typing import get_args

from pydantic import Field, ValidationError

from robusteval.errors import EntryError, shown
from robusteval.models.entry import Entry
from robusteval.models.head import Head, Reading
from robusteval.schema import told_problem

MARK = "@"


class ReadEntry(Entry):
    """A copy of an entry with another reading, without what was claimed and measured of its own.

    ``asked``: how to find it again.
    """

    asked: str = Field(exclude=True)

    @property
    def address(self) -> str:
        return self.asked


def split_reading(text: str) -> tuple[str, Reading | None]:
    """A model's name or path, and the reading that follows it; None where none does."""
    model, mark, last = text.rpartition(MARK)
    for reading in get_args(Reading):
        if mark and last == reading:
            return model, reading
    return text, None


def read_by(entry: Entry, reading: Reading, found_by: str) -> Entry:
    """The entry read so; itself where that is its own reading.

    ``found_by``: its name or path.  Raises EntryError where it can't be read so.
    """
    where = f"model {shown(found_by + MARK + reading)}"
    if entry.backbone is None or not entry.head.layers:
        raise EntryError(f"{where}: its entry has no [head] layers, whose prototypes could be read")
    if entry.head.reading == reading:
        return entry
    if reading == "softmax":
        raise EntryError(f"{where}: it has no classifier, only prototypes")
    fields = {name: getattr(entry, name) for name in Entry.model_fields}
    fields |= {
        "name": f"{entry.name}.{reading}",
        "head": Head(**{**entry.head.model_dump(), "reading": reading}),
        "claims": [],
        "trained": None,
        "description": f"{entry.description}  Read by its {reading.replace('_', ' ')}.".strip(),
    }
    try:
        return ReadEntry(**fields, asked=f"{found_by}{MARK}{reading}")
    except ValidationError as error:
        raise EntryError(f"{where}: {told_problem(error)}") from None
