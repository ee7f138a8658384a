"""Lottery tickets: train, prune a part of what remains, rewind, again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Clock
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.schedules import Geometric
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy


class LotteryTicket(ScoredStrategy):
    """At the end of each round prune the smallest |w| of those that remain; the phases rewind.

    After round j of k the sparsity is s_j = s (1 - (1-p)^j) / (1 - (1-p)^k), p the schedule's
    `fraction`, and floor(s_j N + 1/2) of the N weights in scope are pruned: s after the last round,
    to the unit, whatever p; with s = 1 - (1-p)^k each round prunes the fraction p of what remains.
    Masks are nested. Rounds are phases with `start: anchor`: survivors begin them, bit for bit, at
    the weights of the recipe's `anchor` (0: the original; later: rewinding, arXiv 1903.01611). A
    last phase, outside of `during`, trains the ticket.

    What differs from the paper: it rounds in each round what it prunes of the rest, here each count
    is exact for the whole; its small networks are pruned by layer, the output layer at half the
    rate, here all globally, as its deep ones; and the learning rate begins its curve anew in each
    round, also where the anchor is later than 0.
    """

    class Config(ScoredStrategy.Config):
        """Settings of lottery tickets."""

        name: Literal["lottery_ticket"]
        schedule: Geometric
        """Rounds, and the part of the rest that each prunes; one round a phase."""
        cadence: Cadence = Cadence(every="phase")
        regrow: Literal[False] = False

    config: LotteryTicket.Config
    paper = "arXiv:1803.03635; arXiv:1903.01611 (rewinding)"
    needs_steps = True
    modes = ("hard", "masked")

    def check(self, clock: Clock) -> None:
        """The rounds must end with phases, else nothing is rewound after them.

        Raises:
            RecipeError: they do not, as far as the run's first phase tells.
        """
        super().check(clock)
        config, length = self.config, clock.phase_steps
        ends = config.schedule.changes(clock.active_steps, clock.steps_per_epoch)
        known = not config.during or clock.phase in config.during
        if known and any(end % length for end in ends):
            raise RecipeError(
                f"strategy lottery_ticket: {config.schedule.rounds} rounds end at steps "
                f"{', '.join(map(str, ends[1:]))} of its window, but phase {clock.phase!r} has "
                f"{length} steps: give each round a phase, as repeat: {config.schedule.rounds}"
            )

    def due(self, clock: Clock) -> bool:
        """At ends of phases only: what is pruned within one would not be rewound."""
        ends_phase = clock.phase_step == clock.phase_steps
        return clock.active_step == 0 or (ends_phase and super().due(clock))

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The first step; the rest are ends of phases."""
        return ((0,),)

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w|."""
        return ctx.weights[name].abs()
