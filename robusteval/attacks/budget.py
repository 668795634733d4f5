"""What a batch may spend, and for how many of its samples that lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from robusteval.attacks.counting import BACKWARD
from robusteval.attacks.search import Search
from robusteval.attacks.tuning import Tuning


class Budget:
    """``passes`` for each survivor of a search, a backward one counted as two.

    Where few survive, they share the budget of the batch, up to tenfold: they are cheap.
    """

    def __init__(self, search: Search, passes: int, tuning: Tuning) -> None:
        self.search, self.passes, self.tuning = search, passes, tuning
        self._before = search.model.passes(len(search.images))

    def spent(self) -> Tensor:
        """Each sample's passes (B,)."""
        return self.search.model.passes(len(self.search.images)) - self._before

    def begin_anew(self) -> None:
        """As if nothing had been spent."""
        self._before = self._before + self.spent()

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """Within it nothing is taken from the budget."""
        before = self.spent()
        yield
        self._before = self._before + self.spent() - before

    def left(self, alive: Tensor) -> float:
        """The passes that may still be made, so that the survivors' mean stays within it."""
        batch = len(self.search.images)
        few = len(alive) < self.tuning.few * batch
        sharing = min(batch, self.tuning.shared * len(alive)) if few else len(alive)
        left = self.passes * sharing - float(self.spent()[alive.cpu()].sum())
        return left / self.search.draws

    def affords(self, passes: int, alive: Tensor) -> bool:
        """Whether it lasts for so many more."""
        return passes <= self.left(alive)

    def affordable(
        self, rows: Tensor, passes: int, alive: Tensor, reserve: int = 0, fewest: int = 1
    ) -> Tensor:
        """Of ``rows`` those nearest to breaking for whom it lasts, so many passes on each and a
        reserve; none where these are fewer than ``fewest`` and not all."""
        most = max(0, int((self.left(alive) - reserve) // passes))
        if most >= len(rows):
            return rows
        return self.search.nearest(rows, most if most >= fewest else 0)


def steps_cost(steps: int) -> int:
    """A sample's passes in so many steps."""
    return (1 + BACKWARD) * steps


def flips_cost(queries: int, together: int) -> int:
    """A sample's passes in random search, the verdicts on the best included."""
    return queries + queries // together
