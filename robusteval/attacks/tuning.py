"""What ``adaptive`` is tuned by, in each norm (``benchmarks/ablation.py`` tries its parts)."""

from dataclasses import dataclass
from typing import NamedTuple

from robusteval.types import Norm


class Round(NamedTuple):
    """Over the wrong classes: which share of survivors, the nearest to breaking, takes how many
    steps to each, and how.

    ``inside``: whether these never leave the threat's own ball, where others do; ``clean``: whether
    they begin at clean images, and not at random; ``unsigned``: see ``search.Step``; ``aims``: of
    how many of the nearest classes, if not of all and of any.
    """

    share: float
    steps: int
    momentum: float = 0.0
    inside: bool = False
    clean: bool = False
    unsigned: bool = False
    aims: int | None = None


@dataclass(frozen=True)
class Tuning:
    """Steps, shares and limits of the stages; ``cascade`` says what each stage does."""

    # Steps of the first stage, on the margin, through the norm's balls.
    margin_steps: int
    # The first rounds over the wrong classes.
    rounds: tuple[Round, ...]
    # All further ones, by turns.
    last: tuple[Round, ...]
    # Balls of the ascents, in units of ε; the last is the threat's own.
    balls: tuple[float, ...]
    # Before them, where there are larger balls, so many that never leave the threat's own.
    inside_steps: int = 20
    # How far from the clean image random starts of L2 lie at most, in units of ε.
    far: float = 1.0
    # Momentum of the first stage.
    momentum: float = 0.0
    # Ascents in vain, for each pass of a sample's budget, after which none follow.
    patience: float = 1.25
    # The same towards the one wrong class of two: ascents differ by their starts only.
    patience_of_two: float = 0.6
    # Classes, or prototypes, that a sample is driven towards.
    most_aims: int = 9
    # Samples that are near: smaller batches take hardly less time.
    fewest: int = 32
    # Of survivors, those that are flipped and polished,
    fine_share: float = 0.1
    # and at least so many.
    fewest_fine: int = 8
    # The sizes of polish's steps, as a share of the usual ones; in L∞ by signs, then by none.
    fine_sizes: tuple[tuple[bool, float], ...] = ((False, 0.1),)
    # Its steps by each.
    fine_steps: int = 20
    # Random search's proposals in a round,
    flips: int = 40
    # at most so many rounds,
    flip_rounds: int = 24
    # and proposals of a sample that make one batch.
    flips_together: int = 4
    # The share of a round's proposals that must raise a margin for another round.
    raised: float = 0.01
    # The median share of their way to breaking that random search goes on from where gradients
    # ended, above which these count as masked, where they broke nothing.  The zoo's models have
    # 0.00 to 0.32, and pcl_at_mnist 0.45 of its nearest tenth; masked ones 0.5 to 1.
    closed: float = 0.4
    # The same where gradients broke some samples.
    closed_of_some: float = 0.7
    # Survivors of which a median says something: of a single one the share can be anything.
    fewest_closed: int = 2
    # Times that polish takes turns with random search,
    turns: int = 2
    # with so many proposals,
    turn_flips: int = 400
    # so many of a sample in one batch,
    turn_together: int = 8
    # for at most so many samples.
    turn_samples: int = 16
    # Gradient-free queries on a sample,
    queries: int = 40
    # and the samples that they are spent on.
    queried: int = 16
    # Of a batch: fewer survivors than that share the budget of all of it,
    few: float = 0.25
    # each up to so many times its own.
    shared: int = 10
    # Of samples without any gradient, the share above which it counts as masked.
    dead_share: float = 0.1
    # The share that only larger balls break, above which gradients inside ε count as masked.  On
    # validation images the zoo's models have up to 0.18, and 0.49 to 0.67 those of MNIST that were
    # trained adversarially (in L∞); of groups of 32, one has 0.34 where all have 0.18.
    outdone: float = 0.3
    # Cosine of gradients a tenth of ε apart, below which they turn; the zoo's have 0.84 to 1.00.
    turned: float = 0.6
    # The share of ε by which noise moves points before a gradient that turns is taken.
    smoothed: float = 0.5
    # Where gradients are masked: proposals of random search for each sample,
    searched: int = 2000
    # so many where nothing in the model has a gradient,
    searched_blindly: int = 8000
    # steps of each ascent,
    insisting: int = 100
    # and wrong prototypes that features are pulled to by turns.
    pairs: int = 5


TUNING: dict[Norm, Tuning] = {
    "Linf": Tuning(
        margin_steps=20,
        rounds=(
            Round(0.3, 15),
            Round(0.15, 20, momentum=0.75, inside=True, clean=True, unsigned=True, aims=2),
            Round(0.15, 30),
        ),
        last=(Round(1.0, 60), Round(1.0, 60, momentum=0.75, inside=True, unsigned=True)),
        balls=(1,),
        fine_sizes=((False, 0.1), (True, 0.25)),
    ),
    # Ascents without momentum break others than with it, through larger balls others than inside,
    # and from clean images others than from random starts.
    "L2": Tuning(
        margin_steps=45,
        rounds=(
            Round(0.3, 20, clean=True),
            Round(0.15, 24, momentum=0.75, inside=True, clean=True),
            Round(0.15, 24, momentum=0.75),
        ),
        last=(
            Round(1.0, 60, inside=True),
            Round(1.0, 60),
            Round(1.0, 60, momentum=0.75, inside=True),
            Round(1.0, 60, momentum=0.75),
        ),
        balls=(6, 2, 1),
        far=3.0,
        momentum=0.75,
    ),
}
