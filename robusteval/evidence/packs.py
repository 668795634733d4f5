"""Rows of a cell's chunks in one file: fewer files, the same bytes.

    evidence/clean.0084.rows.zip                        of 84 chunks' clean predictions
    evidence/attack-03-fgsm_Linf_0.15.0084.rows.zip     of an attack's

A plain zip, nothing packed in it, of the jobs' own Parquet files under their own names: each is
read and checked as if it stood alone.  The name tells which jobs are in it, so that a listing says
what is done.  A file that does stand alone counts before one in a pack.
"""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence

from robusteval.evidence.files import Files
from robusteval.evidence.zips import DAMAGED, entry_of

_GROUP = r"(?P<group>clean|attack-[0-9]{2,}-[A-Za-z0-9._]+)"
_PACK = re.compile(_GROUP + r"\.(?P<count>[0-9]{4,7})\.rows\.zip")
_ROWS = re.compile(_GROUP + r"-(?P<chunk>[0-9]{4,7})\.parquet")


def group_of(rows: str) -> str | None:
    """The cell, or the clean predictions, that a job's file of rows is of; None for others."""
    found = _ROWS.fullmatch(rows)
    return found["group"] if found else None


def pack_name(group: str, count: int) -> str:
    """Of the pack of a group's first chunks, so many."""
    return f"{group}.{count:04d}.rows.zip"


def members_of(pack: str) -> list[str]:
    """Names of the files in a pack, by its name; none of what is no pack.

    >>> members_of("clean.0002.rows.zip")
    ['clean-0000.parquet', 'clean-0001.parquet']
    """
    found = _PACK.fullmatch(pack)
    if not found or pack != pack_name(found["group"], int(found["count"])):
        return []
    return [f"{found['group']}-{chunk:04d}.parquet" for chunk in range(int(found["count"]))]


def packed(members: Mapping[str, bytes]) -> bytes:
    """A pack's content, which follows from its members alone."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(members):
            archive.writestr(entry_of(name), members[name])
    return stream.getvalue()


def unpacked(content: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The members of a pack.  Raises ValueError unless it is what ``packed`` makes of such ones."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if [entry.filename for entry in entries] != sorted(names):
                raise ValueError("it holds other files than its name says")
            if sum(entry.file_size for entry in entries) > len(content):
                raise ValueError("it says that it holds more than it has")
            members = {entry.filename: archive.read(entry) for entry in entries}
    except DAMAGED as error:
        raise ValueError(f"it is no zip of ours ({str(error) or type(error).__name__})") from None
    if packed(members) != content:
        raise ValueError("it is not what was packed")
    return members


class Packs:
    """The packs of a folder of a run, looked for once: they come and go only while nobody works."""

    def __init__(self, files: Files, folder: str) -> None:
        self.files, self.folder = files, folder
        self._found: dict[str, str] | None = None  # the pack that each of its members is in
        self._opened: tuple[str, dict[str, bytes]] = "", {}  # the last one

    def of(self, rows: str) -> str | None:
        """The pack that a job's file of rows is in."""
        if self._found is None:
            self._found = {}
            for pack in self.files.names(self.folder):
                for member in members_of(pack):
                    self._found.setdefault(member, pack)
        return self._found.get(rows)

    def listed(self, names: Sequence[str]) -> list[str]:
        """A folder's listing with members in the place of packs, each once, in order."""
        found = {name for name in names if not members_of(name)}
        taken: set[str] = set()
        for name in names:
            if members := members_of(name):
                if taken.isdisjoint(members):
                    taken.update(members)
                else:  # a second pack of the same: nothing reads it, and ``verify`` is to tell
                    found.add(name)
        return sorted(found | taken)

    def read(self, rows: str) -> bytes:
        """A member.  Raises FileNotFoundError where no pack has it, OSError, and ValueError for a
        damaged pack."""
        if (pack := self.of(rows)) is None:
            raise FileNotFoundError(rows)
        if self._opened[0] != pack:
            content = self.files.read(f"{self.folder}/{pack}")
            self._opened = pack, unpacked(content, members_of(pack))
        return self._opened[1][rows]
