"""The budget of a batch: what it lasts for, and whom the rest of it goes to."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robusteval.attacks.budget import Budget, steps_cost
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import Counted
from robusteval.attacks.search import Search
from robusteval.attacks.tuning import TUNING
from robusteval.models.adapter import Adapter
from tests.helpers.known import images_near_grey, small_network, threat_of

SAMPLES, PASSES = 100, 10


def a_budget(broken: int = 0) -> Budget:
    """Of ten passes for each of a hundred samples, of which the last are the nearest."""
    images = images_near_grey(SAMPLES)
    network = small_network()
    counted = Counted(Adapter(network, 5), SAMPLES)
    labels = network(images).argmax(1)
    search = Search(counted, images, labels, threat_of("Linf", 0.01))
    search.margin = torch.arange(SAMPLES).double() - SAMPLES
    search.broken[:broken] = True
    return Budget(search, PASSES, TUNING["Linf"])


@pytest.mark.parametrize(
    ("passes", "reserve", "left"),
    [
        (20, 0, 50),  # all ten on each: 50 × 20 is the budget
        (21, 0, 47),  # 47 × 21 = 987
        (45, 460, 12),  # 12 × 45 = 540
        (45, 461, 11),
        (240, 0, 4),  # no fewer than four
        (251, 0, 0),
        (20, 1001, 0),
    ],
)
def test_the_nearest_that_it_lasts_for(passes: int, reserve: int, left: int) -> None:
    budget = a_budget()
    alive = budget.search.alive()
    found = budget.affordable(alive[SAMPLES // 2 :], passes, alive, reserve, fewest=4)
    assert found.tolist() == list(range(SAMPLES - left, SAMPLES))


def test_fewer_than_the_fewest_are_all_that_there_are_or_none() -> None:
    budget = a_budget()
    alive = budget.search.alive()
    assert budget.affordable(alive[-2:], 500, alive, fewest=4).tolist() == [98, 99]
    assert budget.affordable(alive[-2:], 501, alive, fewest=4).tolist() == []
    assert budget.affordable(alive[-2:], 501, alive).tolist() == [99]
    assert budget.affordable(alive[:0], 1, alive).tolist() == []


def test_few_survivors_share_the_whole_batchs_up_to_tenfold() -> None:
    for broken, passes in ((70, 30 * PASSES), (80, SAMPLES * PASSES), (95, 5 * PASSES * 10)):
        budget = a_budget(broken)
        alive = budget.search.alive()
        assert budget.affords(passes, alive)
        assert not budget.affords(passes + 1, alive)


def test_what_is_spent_counts_unless_it_is_said_not_to() -> None:
    budget = a_budget()
    alive = budget.search.alive()
    with budget.uncharged():
        budget.search.judge(alive, budget.search.images)
    assert budget.spent().sum() == 0
    budget.search.judge(alive, budget.search.images)
    assert budget.spent().tolist() == [1] * SAMPLES
    assert budget.affords((PASSES - 1) * SAMPLES, alive)
    assert not budget.affords((PASSES - 1) * SAMPLES + 1, alive)
    budget.begin_anew()
    assert budget.spent().sum() == 0


class Watched(Cascade):
    """Notes how many samples each ascent takes."""

    sizes: list[int]

    def ascend(self, rows: Tensor, *args: Any, **kwargs: Any) -> None:
        self.sizes.append(len(rows))
        super().ascend(rows, *args, **kwargs)


def test_a_group_too_dear_for_the_rest_is_no_reason_to_end() -> None:
    """Here one of 32 towards a class takes more than the first stage left."""
    network, images = small_network(), images_near_grey(SAMPLES)
    labels = network(images).argmax(1)
    counted = Counted(Adapter(network, 5), SAMPLES)
    cascade = Watched(counted, images, labels, threat_of("Linf", 0.001), 0, passes_per_sample=50)
    cascade.left_out = frozenset({"pieces", "flip", "square"})
    cascade.sizes = []
    cascade.run()
    tuning = cascade.tuning
    first = SAMPLES * steps_cost(tuning.margin_steps)
    assert first + tuning.fewest * steps_cost(tuning.rounds[0].steps) > 50 * SAMPLES
    inside, everyone, *towards = cascade.sizes
    assert (inside, everyone) == (SAMPLES, SAMPLES)
    assert towards
    assert all(tuning.fewest_of_the_rest <= size < tuning.fewest for size in towards)
    assert 48 < cascade.budget.spent().double().mean() < 52
