"""Where gradients look masked, strength alone counts: what the cascade goes on with."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from robusteval.attacks.inward import go_inward
from robusteval.attacks.leading import leader_of
from robusteval.attacks.levels import move_levels
from robusteval.attacks.libraries.autoattack import Version, autoattack
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.ranking import ranked_classes, ranked_prototypes, tried
from robusteval.attacks.results import Warned
from robusteval.attacks.search import AIMED, DRAWS, MARGIN, PULLED, PULLED_TO
from robusteval.attacks.seen_through import through
from robusteval.attacks.steps import project
from robusteval.attacks.straight import ReadStraight
from robusteval.errors import AttackError

if TYPE_CHECKING:
    from robusteval.attacks.cascade import Cascade

Escalated = Callable[["Cascade", Tensor], None]  # a stage, on the survivors of a cascade


def escalate(cascade: "Cascade") -> list[str]:
    """Prototypes, gradients of what leads past the mask, longer ascents over averaged gradients,
    in L∞ longer random search and in L2 balls that shrink, full AutoAttack.

    Returns the stages that ran.
    """
    search, model = cascade.search, cascade.model
    if search.nearby is not None:
        search.draws = DRAWS
    stages: dict[str, Escalated] = {}
    if model.layers and not model.reads_distances and cascade.has_distances:
        stages["pull"] = _pull
    if search.votes == 1 and cascade.leader is model.surrogate:  # else it led all stages
        found = leader_of(search, search.alive(), cascade.seed)
        stages |= {"through": through} if found else {}
        stepped = isinstance(found, ReadStraight) and found.stepped
        stages |= {"levels": _move} if stepped else {}
        cascade.leader = found or cascade.leader
    stages["more steps"] = _led(_long_ascents)
    if cascade.threat.norm == "Linf" and search.votes == 1:
        stages["more search"] = _search
    if cascade.threat.norm == "L2" and search.votes == 1:
        stages["inward"] = _led(go_inward)
    stages["AutoAttack"] = _autoattack
    return [
        name
        for name, attack in stages.items()
        if cascade.stage(name, lambda rows, attack=attack: attack(cascade, rows))  # type: ignore[misc]
    ]


def _pull(cascade: "Cascade", rows: Tensor) -> None:
    """To whichever wrong prototype is nearest, then to the nearest ones by turns."""
    cascade.ascend(rows, cascade.anywhere(rows), PULLED, cascade.tuning.insisting)
    near = ranked_prototypes(cascade.search, rows, cascade.search.images[rows])
    for place in range(min(near.shape[1], cascade.tuning.pairs)):
        left = ~cascade.search.broken[rows]
        if left.any():
            start = cascade.anywhere(rows[left])
            cascade.ascend(
                rows[left], start, PULLED_TO, cascade.tuning.insisting, near[left, place]
            )


def _move(cascade: "Cascade", rows: Tensor) -> None:
    """Pixels that are read in steps to other levels, towards one class after the other."""
    search, tuning, leader = cascade.search, cascade.tuning, cascade.leader
    assert isinstance(leader, ReadStraight)
    targets = tried(search, rows, tuning.most_aims, prototypes=False)
    move_levels(search, leader, rows, targets, tuning.level_turns)


def _led(attack: Escalated) -> Escalated:
    """Along gradients of what leads past the mask, or of the model's fastest form."""

    def along(cascade: "Cascade", rows: Tensor) -> None:
        with cascade.model.led_by(cascade.leader or cascade.model.fast):
            attack(cascade, rows)

    return along


def _long_ascents(cascade: "Cascade", rows: Tensor) -> None:
    cascade.ascend(rows, cascade.anywhere(rows), MARGIN, cascade.tuning.insisting)
    for place in range(min(3, cascade.model.classes - 1)):
        alive = cascade.search.alive(rows)
        if len(alive):
            targets = ranked_classes(cascade.search, alive, cascade.search.best[alive])[:, place]
            cascade.ascend(alive, cascade.anywhere(alive), AIMED, cascade.tuning.insisting, targets)


def _search(cascade: "Cascade", rows: Tensor) -> None:
    """Random search from the best images, where Square begins anew; longer where nothing leads."""
    search, tuning = cascade.search, cascade.tuning
    blind = cascade.leader is None and not search.sloped
    proposals = tuning.searched_blindly if blind else tuning.searched
    flip_squares(search, rows, proposals, cascade.generator, tuning.turn_together)


def _autoattack(cascade: "Cascade", rows: Tensor) -> None:
    images, labels = cascade.search.images[rows], cascade.search.labels[rows]
    version: Version = "rand" if cascade.search.votes > 1 else "standard"
    with cascade.model.attending(rows):
        try:
            found = autoattack(
                cascade.model, images, labels, cascade.threat, seed=cascade.seed, version=version
            )
        except AttackError as error:  # what was found before it stays
            cascade.warned.append(Warned("no_autoattack", text=str(error)))
            return
    cascade.stages += [replace(stage, name=f"AutoAttack's {stage.name}") for stage in found.stages]
    cascade.notes += [f"AutoAttack's {note}" for note in found.notes]
    cascade.warned += found.warned
    cascade.search.judge(rows, project(found.images, images, cascade.threat))
