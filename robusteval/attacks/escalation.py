"""Where gradients look masked, strength alone counts: what an attack goes on with."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from robusteval.attacks.inward import go_inward
from robusteval.attacks.leading import leader_of
from robusteval.attacks.levels import move_levels
from robusteval.attacks.libraries.autoattack import Version, autoattack
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.ranking import ranked_classes, ranked_prototypes, tried
from robusteval.attacks.results import Warned
from robusteval.attacks.search import AIMED, DRAWS, MARGIN, PULLED, PULLED_TO
from robusteval.attacks.staged import Staged
from robusteval.attacks.steps import project
from robusteval.attacks.straight import ReadStraight
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter

Escalated = Callable[[Staged, Tensor], None]  # a stage, on an attack's survivors


def escalate(attack: Staged, through: Callable[[Tensor], None]) -> list[str]:
    """Prototypes, gradients of what leads past the mask, longer ascents over averaged gradients,
    in L∞, or where nothing has a gradient, longer random search, in L2 balls that shrink (the idea
    of Constraint Relaxation, AAAI 2025), and full AutoAttack.

    ``through`` are the attack's own first stages, along what leads.  Returns the stages that ran.
    """
    search, model = attack.search, attack.model
    if search.nearby is not None:
        search.draws = DRAWS
    stages: dict[str, Callable[[Tensor], None]] = {}
    if model.layers and not model.reads_distances and attack.has_distances:
        stages["pull"] = partial(_pull, attack)
    if search.votes == 1:
        before = attack.leader  # it led all stages, if it is there
        attack.leader = before or led_past_the_mask(attack, search.alive())
        stages |= {"through": through} if attack.leader and not before else {}
        stepped = isinstance(attack.leader, ReadStraight) and attack.leader.stepped
        stages |= {"levels": partial(_move, attack)} if stepped else {}
    stages["more steps"] = partial(_led, _long_ascents, attack)
    if search.votes == 1 and (attack.threat.norm == "Linf" or _is_blind(attack)):
        stages["more search"] = partial(_search, attack)
    if attack.threat.norm == "L2" and search.votes == 1:
        stages["inward"] = partial(_led, go_inward, attack)
    stages["AutoAttack"] = partial(_autoattack, attack)
    return [name for name, stage in stages.items() if attack.stage(name, stage)]


def led_past_the_mask(attack: Staged, rows: Tensor) -> Adapter | None:
    """What has gradients where the model itself has none, or others; none where it is left out."""
    if "through" in attack.left_out or len(rows) == 0:
        return None
    with attack.budget.uncharged():
        return leader_of(attack.search, rows, attack.seed)


def _pull(attack: Staged, rows: Tensor) -> None:
    """To whichever wrong prototype is nearest, then to the nearest ones by turns."""
    attack.ascend(rows, attack.anywhere(rows), PULLED, attack.tuning.insisting)
    near = ranked_prototypes(attack.search, rows, attack.search.images[rows])
    for place in range(min(near.shape[1], attack.tuning.pairs)):
        left = ~attack.search.broken[rows]
        if left.any():
            start = attack.anywhere(rows[left])
            attack.ascend(rows[left], start, PULLED_TO, attack.tuning.insisting, near[left, place])


def _move(attack: Staged, rows: Tensor) -> None:
    """Pixels that are read in steps to other levels, towards one class after the other."""
    search, tuning, leader = attack.search, attack.tuning, attack.leader
    assert isinstance(leader, ReadStraight)
    targets = tried(search, rows, tuning.most_aims, prototypes=False)
    move_levels(search, leader, rows, targets, tuning.level_turns)


def _led(stage: Escalated, attack: Staged, rows: Tensor) -> None:
    """Along gradients of what leads past the mask, or of the model's fastest form."""
    with attack.model.led_by(attack.leader or attack.model.fast):
        stage(attack, rows)


def _long_ascents(attack: Staged, rows: Tensor) -> None:
    attack.ascend(rows, attack.anywhere(rows), MARGIN, attack.tuning.insisting)
    for place in range(min(3, attack.model.classes - 1)):
        alive = attack.search.alive(rows)
        if len(alive):
            targets = ranked_classes(attack.search, alive, attack.search.best[alive])[:, place]
            attack.ascend(alive, attack.anywhere(alive), AIMED, attack.tuning.insisting, targets)


def _is_blind(attack: Staged) -> bool:
    """Whether neither the model nor anything else has gradients."""
    return attack.leader is None and not attack.search.sloped


def _search(attack: Staged, rows: Tensor) -> None:
    """Random search from the best images, where Square begins anew; longer where nothing leads."""
    search, tuning = attack.search, attack.tuning
    proposals = tuning.searched_blindly if _is_blind(attack) else tuning.searched
    flip_squares(search, rows, proposals, attack.generator, tuning.turn_together)


def _autoattack(attack: Staged, rows: Tensor) -> None:
    images, labels = attack.search.images[rows], attack.search.labels[rows]
    version: Version = "rand" if attack.search.votes > 1 else "standard"
    with attack.model.attending(rows):
        try:
            found = autoattack(
                attack.model, images, labels, attack.threat, seed=attack.seed, version=version
            )
        except AttackError as error:  # what was found before it stays
            attack.warned.append(Warned("no_autoattack", text=str(error)))
            return
    attack.stages += [replace(stage, name=f"AutoAttack's {stage.name}") for stage in found.stages]
    attack.notes += [f"AutoAttack's {note}" for note in found.notes]
    attack.warned += found.warned
    attack.search.judge(rows, project(found.images, images, attack.threat))
