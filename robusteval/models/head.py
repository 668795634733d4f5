"""A prototype network's head, as its entry describes it.  Imports no torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from robusteval.errors import shown
from robusteval.schema import STRICT

Similarity = Literal["l2", "sql2", "l1", "linf", "dot", "cosine"]
Pooling = Literal["max", "mean", "logsumexp", "softmax"]
Reading = Literal["softmax", "nearest_prototype"]
OwnReading = Literal["module", "nearest_prototype"]  # where prototypes stand beside a module
LARGEST_SIZE = 4096  # of a layer, and of what is counted in a head
LARGEST = 1e6  # of what is computed with in float32, and its inverse the smallest


def _sizes(value: int | list[int]) -> int | list[int]:
    values = value if isinstance(value, list) else [value]
    if len(values) > LARGEST_SIZE or not all(1 <= one <= LARGEST_SIZE for one in values):
        raise ValueError(f"takes numbers from 1 to {LARGEST_SIZE}, not {shown(value)}")
    return value


class Head(BaseModel):
    """How features become logits.

    ``reading``: by the ``softmax`` classifier, or by the ``nearest_prototype`` of the last
    supervised layer.  ``layers``: those that carry prototypes, shallow to deep (the last one is
    read); ``branch_dims``: the output size of a layer's auxiliary branch, where it has one.
    ``prototypes_per_class``: one number, or one for each class.
    ``similarity``, ``pooling`` and ``temperature``: see ``robusteval.models.prototypes``.
    """

    model_config = STRICT

    reading: Reading = "softmax"
    layers: list[str] = []
    branch_dims: dict[str, Annotated[int, Field(ge=1, le=LARGEST_SIZE)]] = {}
    similarity: Similarity = "sql2"
    prototypes_per_class: Annotated[int | list[int], AfterValidator(_sizes)] = 1
    pooling: Pooling = "max"
    temperature: float = Field(default=1.0, ge=1 / LARGEST, le=LARGEST)

    @model_validator(mode="after")
    def _readable(self) -> "Head":
        if self.reading == "nearest_prototype" and not self.layers:
            raise ValueError("nearest_prototype needs the layers that carry prototypes")
        if unknown := set(self.branch_dims) - set(self.layers):
            raise ValueError(f"branch_dims names {', '.join(sorted(unknown))}, not in layers")
        if isinstance(self.prototypes_per_class, list) and self.pooling != "max":
            raise ValueError(
                'prototypes_per_class with a number for each class needs pooling = "max"'
            )
        return self

    @property
    def most_prototypes(self) -> int:
        """Of any class."""
        told = self.prototypes_per_class
        return max(told) if isinstance(told, list) else told

    def counts(self, classes: int) -> list[int]:
        """The number of prototypes of each class.  Raises ValueError for another number of them."""
        told = self.prototypes_per_class
        if not isinstance(told, list):
            return [told] * classes
        if len(told) != classes:
            raise ValueError(f"prototypes_per_class has {len(told)} numbers for {classes} classes")
        return told
