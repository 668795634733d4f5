"""What ``adaptive`` is tuned by, in each norm (``benchmarks/ablation.py`` tries its parts)."""

from dataclasses import dataclass
from typing import NamedTuple

from robusteval.types import Norm

INSIDE = (1.0,)  # ascents that never leave the threat's own ball


class Round(NamedTuple):
    """Over the wrong classes: which share of survivors, the nearest to breaking, takes how many
    steps to each, and how.

    ``balls``: if not the norm's.  They begin at random, at clean images (``clean``), or at what
    broke similar samples (``others``).  ``unsigned``: see ``search.Step``.  ``aims``: towards how
    many of the nearest classes, one after the other.  None: towards all, and then towards
    whichever is nearest at each step; 0: towards the latter alone.
    """

    share: float
    steps: int
    momentum: float = 0.0
    balls: tuple[float, ...] | None = None
    clean: bool = False
    unsigned: bool = False
    aims: int | None = None
    others: bool = False


@dataclass(frozen=True)
class Tuning:
    """Steps, shares and limits of the stages; ``cascade`` says what each stage does."""

    # Steps of the first stage, on the margin, through the norm's balls.
    margin_steps: int
    # The first rounds over the wrong classes.
    rounds: tuple[Round, ...]
    # All further ones, by turns.
    last: tuple[Round, ...]
    # Balls of the ascents, in units of ε; the last is the threat's own.  Larger ones are the idea
    # of Constraint Relaxation (AAAI 2025), here and below.
    balls: tuple[float, ...]
    # Before them, where there are larger balls, so many that never leave the threat's own.
    inside_steps: int = 20
    # How far from the clean image random starts of L2 lie at most, in units of ε.
    far: float = 1.0
    # Starts from others: so many of the most similar broken samples,
    similar: int = 16
    # of which so many are drawn,
    drawn: int = 8
    # and by what factor the best one's perturbation is lengthened.
    lengthened: float = 2.0
    # Momentum of the first stage.
    momentum: float = 0.0
    # Ascents in vain, for each pass of a sample's budget, after which none follow.
    patience: float = 1.25
    # The same towards the one wrong class of two: ascents differ by their starts only.
    patience_of_two: float = 0.6
    # A survivor's mean passes after which balls shrink, before further rounds; None for never.
    inward_after: int | None = None
    # Of survivors, the share that one turn of these takes,
    inward_share: float = 0.3
    # and its steps, from what broke others and from the nearest image that breaks the sample.
    inward: tuple[int, int] = (50, 12)
    # Classes, or prototypes, that a sample is driven towards.
    most_aims: int = 9
    # Samples that are near: smaller batches take hardly less time.
    fewest: int = 32
    # The same where the budget has too little left for these.
    fewest_of_the_rest: int = 4
    # Of survivors, those that are flipped and polished,
    fine_share: float = 0.1
    # and at least so many.
    fewest_fine: int = 8
    # The sizes of polish's steps, as a share of the usual ones; in L∞ by signs, then by none.
    fine_sizes: tuple[tuple[bool, float], ...] = ((False, 0.1),)
    # Its steps by each,
    fine_steps: int = 20
    # and the share of the budget that is kept for it, at most.
    reserved: float = 0.1
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
    # After the first stage, gradients get so many passes for each query, or what queries break says
    # nothing of masking.
    fair: int = 2
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
    # images that pixels' levels are chosen by, one after the other,
    level_turns: int = 8
    # steps of each ascent,
    insisting: int = 100
    # turns through balls that shrink, in L2,
    inward_turns: int = 12
    # their steps, from what broke others and from the nearest image that breaks the sample,
    inward_long: tuple[int, int] = (100, 25)
    # and wrong prototypes that features are pulled to by turns.
    pairs: int = 5


def _by_turns(share: float) -> tuple[Round, ...]:
    """In L2: from what broke similar samples, then from random starts."""
    return (
        Round(share, 16, balls=(2, 1), aims=0, others=True),
        Round(share, 24, aims=0),
    )


_EACH, _NEAREST = _by_turns(1.0), _by_turns(0.3)  # of the survivors

TUNING: dict[Norm, Tuning] = {
    # More steps on all would break more at once, but less than aims at the nearest do for as much.
    "Linf": Tuning(
        margin_steps=12,
        rounds=(
            Round(0.3, 15),
            Round(0.15, 20, momentum=0.75, balls=INSIDE, clean=True, unsigned=True, aims=2),
            Round(0.15, 30),
        ),
        last=(Round(1.0, 60), Round(1.0, 60, momentum=0.75, balls=INSIDE, unsigned=True)),
        balls=(1,),
        fine_sizes=((False, 0.1), (True, 0.25)),
    ),
    # Ascents towards one class, inside the ball, with momentum, or from clean images break some
    # that no others do.  They are tried where samples are still left after these.
    "L2": Tuning(
        margin_steps=45,
        rounds=(
            *(*_NEAREST, *_NEAREST, Round(0.15, 20, clean=True, aims=3)),
            *(*_NEAREST, *_EACH, *_NEAREST, *_EACH, *_NEAREST),
            Round(0.15, 24, momentum=0.75, balls=INSIDE, clean=True),
            Round(0.15, 24, momentum=0.75),
        ),
        last=(
            *(*_EACH, *_NEAREST, Round(1.0, 60)),
            *(*_EACH, *_NEAREST, Round(1.0, 60, momentum=0.75, balls=INSIDE)),
        ),
        balls=(6, 2, 1),
        far=3.0,
        momentum=0.75,
        patience=2.5,
        inward_after=750,
    ),
}
