"""The cascade of ``adaptive``: stages on survivors, with gradients spent where samples are near.

Its losses are margins of logits and of prototype distances, which cannot saturate as
cross-entropy on squared distances does; its targets are ranked by what the model says itself.
Steps are signs or unit vectors, so that no factor by which a sample's loss might be scaled (the gap
between its largest logits, say) changes one.

1. ``margin``: steps on the logit margin, from the clean image, their sizes falling by a cosine
   from 2ε (as in PMA, arXiv:2411.15210; under signs the loss's scale doesn't matter).  In L2 inside
   the ball first, then, with what is left, through balls that shrink from 6ε (see
   ``search.shrinking``; the idea is that of Constraint Relaxation, AAAI 2025).
2. ``pieces``, where the margin is linear on pieces: cutting planes along them (see there).
3. ``flip``, in L∞: random search from the best images of the nearest to breaking, for as long as
   it finds ways up that gradients missed.  Where it goes most of a sample's way to breaking, as a
   rule, gradients count as masked.
4. ``aim``: steps towards one wrong class at a time, ranked by the margin left at the best image,
   for the nearest.  In L∞ by signs from random starts, and along gradients from clean images.  In
   L2 most go through larger balls to whichever class is nearest at each step, from random starts
   and from what broke similar samples (``neighbours``), by turns (``tuning.Round``); after many
   passes balls also shrink around what breaks a sample (``inward``).
5. ``polish``: small steps from the best images of the nearest, by the model's own gradients where
   those before were rougher.  Where ``flip`` broke samples, by turns with more of its search.
6. ``square``: a few gradient-free queries.  What they break and gradients did not says that
   gradients are masked.

7. ``surrogate``, where a user gives one: the first stages once more, along its gradients.

Where no sample has a gradient at its clean image, what leads past that (``leading``) leads all
stages.  Gradients also count as masked where a tenth of the samples have none, where they turn at
a step of ε/10 (shattered), or where ascents that stay inside ε miss what larger balls led to.
Then the cascade says so, and goes on: ``pull`` draws features to the nearest wrong prototypes,
which a head that hides its slope leaves open; then come longer ascents, along gradients averaged
over noise where they are shattered, in L∞ longer random search (in L2 where nothing has a
gradient), in L2 more of the balls that shrink, and full AutoAttack.  A model whose outputs change
between passes is judged by mean logits and attacked along mean gradients from the start, and
AutoAttack is its version for random models.  On such models strength alone counts.  In L∞, on
honest ones ``pull`` breaks next to nothing that ``aim`` doesn't (see ``benchmarks/ablation.py``).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, cycle

import torch
from torch import Tensor

from robusteval.attacks.budget import flips_cost, steps_cost
from robusteval.attacks.by_pieces import follow_pieces, seen_in_pieces
from robusteval.attacks.escalation import escalate, led_past_the_mask
from robusteval.attacks.inward import inward_once
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.luck import right_by_luck
from robusteval.attacks.masking import flat, masked, outdone, searched
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.ranking import in_turn, nearest_of_several, tried
from robusteval.attacks.results import AttackResult, Warned
from robusteval.attacks.search import AIMED, DRAWS, MARGIN, PROBED, PULLED_TO, Objective, cosine
from robusteval.attacks.seen_through import unsquashed
from robusteval.attacks.squares import square_fits
from robusteval.attacks.staged import Staged
from robusteval.attacks.steps import project
from robusteval.attacks.tuning import INSIDE, Round


class Cascade(Staged):
    """The stages above on one batch.

    A variant leaves stages out (``left_out``), is tuned otherwise (``tunings``), or puts another
    method in the place of one without an underscore.
    """

    aimed = AIMED  # what samples are driven by, towards a class or a prototype
    vain = 0  # ascents towards a class since the last that broke a sample
    pieced: Objective | None = None  # what is linear on pieces
    overlooked = False  # whether random search broke what gradients did not

    def run(self) -> AttackResult:
        """All stages, in order, on logits where outputs are squashed."""
        if self.search.beware():
            self.reason = Warned("random")
            self.budget.passes *= DRAWS  # as many steps as any model gets
        with unsquashed(self), self.model.led_by(self.leader or self.model.fast):
            self._look()
            if self._is_dead:
                self.leader = led_past_the_mask(self, self.search.alive())
            with self.model.led_by(self.leader or self.model.fast):
                return self._run()

    @property
    def _is_dead(self) -> bool:
        """Whether no sample that was looked at has a gradient at its clean image."""
        why = self.reason
        return why is not None and (why.kind, why.number) in (("no_gradient", None), ("dead", 1.0))

    def _run(self) -> AttackResult:
        self.stage("margin", self.climb)
        if self.pieced:
            self.stage("pieces", partial(follow_pieces, self, self.pieced))
        if self.threat.norm == "Linf":
            self.stage("flip", self.flip)
        self.stage("aim", self.aim)
        self.stage("polish", self.polish)
        self.stage("square", self.query)
        if not self.reason and len(self.search.alive()):
            self.reason = flat(self.search)
        if self.model.surrogate:
            self.stage("surrogate", self.follow_surrogate)
        if self.reason:
            self.warned.append(replace(self.reason, stages=tuple(self.escalate())))
        if self.search.votes > 1:
            right = right_by_luck(self.search)
            self.warned.append(Warned("luck", right=right, of=len(self.search.images)))
        return AttackResult(self.search.best, self.stages, self.warned, self.notes)

    @property
    def _margin_cost(self) -> int:
        """The passes of the first stage; what gradients miss for less says nothing of masking."""
        inside = self.tuning.inside_steps if self._leaves_the_ball else 0
        return steps_cost(inside + self.tuning.margin_steps)

    @property
    def _margin_steps(self) -> int:
        """The steps of the first stage, as far as the budget goes."""
        return max(min(self._margin_cost, self.budget.passes) // steps_cost(1), 1)

    @property
    def _leaves_the_ball(self) -> bool:
        """Whether ascents pass through larger balls."""
        return len(self.tuning.balls) > 1

    def climb(self, rows: Tensor) -> None:
        """On the margin from clean images; in L2 inside the ball, then through larger ones."""
        images, steps, momentum = self.search.images, self._margin_steps, self.tuning.momentum
        share = self.tuning.inside_steps / (self.tuning.inside_steps + self.tuning.margin_steps)
        inside = int(share * steps) if self._leaves_the_ball else 0
        self.ascend(rows, images[rows], MARGIN, Round(1.0, inside, momentum, INSIDE))
        left = self.search.alive(rows)
        self.ascend(left, images[left], MARGIN, steps - inside)
        if inside and self.budget.passes >= self._margin_cost and not self.reason:
            only_larger = len(left) - len(self.search.alive(left))
            self.reason = outdone(only_larger, self.correct, self.tuning)

    def aim(self, rows: Tensor) -> None:
        """Towards one wrong class after another, while the budget lasts and some break.

        What begins at clean images is tried in any case, since it is tried only once.
        """
        aims = self.ranked(rows)
        self.vain = 0
        for number, turn in enumerate(self.rounds()):
            inward_once(self)
            if self._tired(number) and number >= len(self.tuning.rounds):
                return
            if self._tired(number) and not turn.clean:
                continue
            for targets in in_turn(aims, turn.aims):
                if not self.drive(targets, turn):
                    return
                if self._tired(number) and not turn.clean:
                    break

    def _tired(self, number: int) -> bool:
        """Whether enough was in vain; what begins at clean images in later rounds is left some."""
        patience = self.tuning.patience if self.model.classes > 2 else self.tuning.patience_of_two
        later = [turn.aims or 0 for turn in self.tuning.rounds[number + 1 :] if turn.clean]
        return self.vain >= patience * self.budget.passes - self.tuning.fewest * sum(later)

    def drive(self, targets: Tensor | None, turn: Round) -> bool:
        """Each sample towards its class of ``targets`` (B,), or to any: a share of survivors, and,
        while that breaks some, the next nearest.  False where the budget has less left."""
        untried = ~self.search.broken
        while True:
            alive = self.search.alive()
            wanted = max(self.tuning.fewest, math.ceil(turn.share * len(alive)))
            waiting = alive[untried[alive]]
            passes = steps_cost(turn.steps) + self.tuning.drawn * turn.others
            near = self.search.nearest(waiting, wanted)
            fewest, reserve = self.tuning.fewest_of_the_rest, self._reserve(alive)
            near = self.budget.affordable(near, passes, alive, reserve, fewest)
            if len(near) == 0:
                return len(waiting) == 0 < len(alive)
            untried[near] = False
            objective = MARGIN if targets is None else self.aimed
            chosen = None if targets is None else targets[near]
            self.ascend(near, self.start_of(near, turn), objective, turn, chosen)
            if len(self.search.alive(near)) == len(near):
                self.vain += max(len(near), self.tuning.fewest)
                return True
            self.vain = 0

    def ranked(self, rows: Tensor) -> Tensor:
        """Of all samples (B, places) what to aim at, where they are among ``rows``."""
        known = nearest_of_several(self.model) and self.has_distances
        self.aimed = PULLED_TO if known else AIMED
        some = tried(self.search, rows, self.tuning.most_aims, prototypes=known)
        of_all = some.new_zeros((len(self.search.images), some.shape[1]))
        of_all[rows] = some
        return of_all

    def rounds(self) -> Iterator[Round]:
        """Without end."""
        return chain(self.tuning.rounds, cycle(self.tuning.last))

    def flip(self, rows: Tensor) -> None:
        """Random search on the nearest, for as long as it finds ways up that gradients missed."""
        flips, together = self.tuning.flips, self.tuning.flips_together
        passes, reserve = flips_cost(flips, together), self._reserve(rows)
        near = self.search.nearest(rows, self._fine_count(rows))
        near = self.budget.affordable(near, passes, rows, reserve)
        before = self.search.margin[near]
        for _ in range(self.tuning.flip_rounds):
            left = self.search.alive(near)
            cost = len(left) * passes + reserve
            if len(left) == 0 or not self.budget.affords(cost, self.search.alive()):
                break
            raised = flip_squares(self.search, left, flips, self.generator, together)
            if raised < self.tuning.raised:
                break
        self.overlooked = len(self.search.alive(near)) < len(near)
        some = len(rows) < self.correct
        found = searched(before, self.search.margin[near], some, self.tuning)
        self.reason = self.reason or found

    def polish(self, rows: Tensor) -> None:
        """Small steps from the best images of the nearest, and more random search if it pays."""
        near = self.search.nearest(rows, self._fine_count(rows))
        self._sharpen(self.budget.affordable(near, self._fine_passes, rows))
        flips, together = self.tuning.turn_flips, self.tuning.turn_together
        passes = flips_cost(flips, together) + self._fine_passes
        for _ in range(self.tuning.turns if self.overlooked else 0):
            alive = self.search.alive()
            near = self.search.nearest(alive, self.tuning.turn_samples)
            near = self.budget.affordable(near, passes, alive)
            if len(near) == 0:
                return
            flip_squares(self.search, near, flips, self.generator, together)
            self._sharpen(self.search.alive(near))

    def _sharpen(self, rows: Tensor) -> None:
        """Small steps from the best images of ``rows``, by the model's own gradients, or those of
        what leads in their place."""
        if len(rows) == 0:
            return
        for unsigned, size in self.tuning.fine_sizes:
            coarse = cosine(self.threat.radius, self.tuning.fine_steps, unsigned)
            schedule = [replace(step, size=size * step.size) for step in coarse]
            left = self.search.alive(rows)
            with self.model.led_by(self.leader):
                self.search.ascend(left, self.search.best[left], MARGIN, schedule)

    def _fine_count(self, rows: Tensor) -> int:
        """How many of the survivors are polished."""
        return min(
            len(rows), max(self.tuning.fewest_fine, math.ceil(self.tuning.fine_share * len(rows)))
        )

    @property
    def _fine_passes(self) -> int:
        """What polishing takes for each sample."""
        return steps_cost(self.tuning.fine_steps * len(self.tuning.fine_sizes))

    def _reserve(self, rows: Tensor) -> int:
        """The passes that these survivors' polish is left, a share of the budget at most."""
        whole = self._fine_count(rows) * self._fine_passes
        return min(whole, int(self.tuning.reserved * self.budget.passes * len(rows)))

    def query(self, rows: Tensor) -> None:
        """A little of Square (Andriushchenko et al. 2020) on some survivors, where it can run."""
        if not square_fits(self.search.images, self.threat.norm, oblong=False):
            return
        chosen = torch.randperm(len(rows), generator=self.generator)[: self.tuning.queried].to(
            rows.device
        )
        some = rows[chosen.sort().values]
        images, labels = self.search.images[some], self.search.labels[some]
        parameters = {"n_queries": self.tuning.queries, "n_restarts": 1, "loss": "margin"}
        with self.model.attending(some):
            found = torchattacks_attack(
                self.model,
                images,
                labels,
                self.threat,
                name="Square",
                seed=self.seed,
                parameters=parameters,
            )
        self.search.judge(some, project(found.images, images, self.threat))
        # With a smaller budget gradients have hardly been tried.
        enough = self._margin_cost + self.tuning.fair * self.tuning.queries
        if len(self.search.alive(some)) < len(some) and self.budget.passes >= enough:
            self.reason = self.reason or Warned("queried")

    def _look(self) -> None:
        """Whether gradients look masked at clean images, which are judged on the way."""
        search = self.search
        rows = torch.arange(len(search.images), device=search.images.device)
        search.judge(rows, search.images)
        self.correct = len(search.alive())
        if not self.reason and len(some := search.alive(rows[:PROBED])):
            self.reason = masked(search, some, self.generator, self.tuning)
        if len(some := search.alive(rows[:PROBED])):
            self.pieced = seen_in_pieces(self, some)

    def escalate(self) -> list[str]:
        """Where gradients look masked, strength alone counts; the stages that ran."""
        return escalate(self, self.through)

    def follow_surrogate(self, rows: Tensor) -> None:
        """The first stages once more, along another model's gradients: after the model's own, so
        that a bad surrogate breaks no fewer.  They say nothing of the model's own."""
        own = self.leader, self.search.sloped
        self.leader = self.model.surrogate
        self.through(rows)
        self.leader, self.search.sloped = own

    def through(self, rows: Tensor) -> None:
        """The first stages once more, on a budget of their own, along the leader's gradients."""
        self.budget.begin_anew()
        with self.model.led_by(self.leader):
            self.ascend(rows, self.search.images[rows], MARGIN, self.tuning.margin_steps)
            stages = [self.flip] if self.threat.norm == "Linf" else []
            for stage in [*stages, self.aim, self.polish]:
                if len(left := self.search.alive()):
                    stage(left)
