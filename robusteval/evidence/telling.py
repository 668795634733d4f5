"""What an attack's chunks tell, as one: added up, and put into words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from robusteval.attacks.results import Stage, Warned, said


@dataclass(frozen=True)
class Raised:
    """A warning of an attack's chunks: the least and the largest number that they give, and how
    many of them warn so."""

    warned: Warned
    most: float | None
    chunks: int
    of: int

    def __str__(self) -> str:
        told = said(self.warned, self.most)
        return told if self.chunks == self.of else f"{told} (in {self.chunks} of {self.of} chunks)"


def merged_stages(chunks: Sequence[Sequence[Stage]]) -> list[Stage]:
    """Each stage once, its counts added up, in the order in which they come."""
    found: dict[str, Stage] = {}
    for stage in (stage for stages in chunks for stage in stages):
        before = found.get(stage.name, Stage(stage.name, 0, 0))
        found[stage.name] = Stage(stage.name, before.broke + stage.broke, before.of + stage.of)
    return list(found.values())


def merged_warnings(chunks: Sequence[Sequence[Warned]]) -> list[Raised]:
    """Warnings that differ in their numbers alone are one, which gives the numbers' range; what
    fresh passes of a random model get right is added up."""
    alike: dict[Warned, list[tuple[int, float | None]]] = {}
    for index, chunk in enumerate(_with_luck_of_all(chunks)):
        for warned in chunk:
            key = replace(warned, number=None if warned.number is None else 0.0)
            alike.setdefault(key, []).append((index, warned.number))
    merged = []
    for key, places in alike.items():
        numbers = [number for _, number in places if number is not None]
        least, most = (min(numbers), max(numbers)) if numbers else (None, None)
        count = len({index for index, _ in places})
        merged.append(Raised(replace(key, number=least), most, count, len(chunks)))
    return sorted(merged, key=str)


def _with_luck_of_all(chunks: Sequence[Sequence[Warned]]) -> Iterator[list[Warned]]:
    """With what the fresh passes of all chunks get right in the place of each chunk's own.

    Passes are independent: the n-th of each chunk together are one pass on all samples.  An
    attack's later calls on a chunk see survivors alone, so the first is added to first ones.
    """
    told = [[w for w in chunk if w.right] for chunk in chunks]
    sums = [_sum(calls) for calls in zip_longest(*told)]
    for chunk, own in zip(chunks, told, strict=True):
        yield [w for w in chunk if not w.right] + sums[: len(own)]


def _sum(luck: Sequence[Warned | None]) -> Warned:
    """Of those that are there; of as many passes as each has, where a file holds fewer."""
    there = [one for one in luck if one is not None]
    right = tuple(map(sum, zip(*(one.right for one in there), strict=False)))
    return replace(there[0], right=right, of=sum(one.of for one in there))


def merged_notes(chunks: Sequence[Sequence[str]]) -> list[str]:
    """Each note once."""
    return list(dict.fromkeys(note for notes in chunks for note in notes))


def stage_text(stage: Stage) -> str:
    """Such as "square broke 3 of 10"."""
    return f"{stage.name} broke {stage.broke} of {stage.of}"
