"""What a run was cut to, so that it fits into a time.  Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from robusteval.durations import duration_text

_Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,200}$")]
CutPart = Literal["diagnostics", "detection"]


@dataclass(frozen=True)
class Budget:
    """What a run was cut to, so that it fits into a time.

    ``seconds``: that time; ``planned``: what the run was expected to take at most; ``asked``:
    digest of the spec that was asked for, and ``samples`` how many; ``attacks`` of the suite that
    were left out, and other ``parts`` of it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )

    seconds: Annotated[float, Field(gt=0)]
    planned: Annotated[float, Field(ge=0)]
    asked: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    samples: Annotated[int, Field(ge=1, le=10**8)]
    attacks: tuple[_Name, ...] = ()
    parts: tuple[CutPart, ...] = ()

    @property
    def left_out(self) -> list[str]:
        """Attacks and parts of the suite."""
        return [*self.attacks, *self.parts]

    def told(self, samples: int) -> list[str]:
        """What was left out of a run of so many samples, a line for each kind."""
        whole, told = duration_text(self.seconds), []
        if self.left_out:
            told.append(f"left out for the budget of {whole}: {', '.join(self.left_out)}")
        if samples < self.samples:
            told.append(f"{samples} of {self.samples} samples fit into the budget of {whole}")
        return told
