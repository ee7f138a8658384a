"""Strategies that rank: a score for each entry, and values that say how much, when and where."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunekit.errors import PluginError
from prunekit.foundation.timeline import Clock, duration
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.distributions import AnyDistribution, Demand, Global
from prunekit.pruning.multiples import Multiples
from prunekit.pruning.schedules import AnySchedule, Polynomial, Ramp
from prunekit.pruning.scores import NOT_FINITE, Cut, Scores, all_finite, finite_flags
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies.base import Context, Masks, PruningStrategy, Update
from prunekit.pruning.structures import AnyStructure, Unstructured
from prunekit.registry.configs import StrategyConfig


class ScoredStrategy(PruningStrategy):
    """Keep the units with the highest scores.

    schedule x sparsity -> how much, cadence -> when, distribution -> how many in each tensor,
    structure -> which entries stand and fall together. A subclass gives the score.
    """

    class Config(StrategyConfig):
        """Settings of a scored strategy."""

        sparsity: float = Field(ge=0, lt=1)
        """Fraction of the units in scope that is pruned at the end, [0, 1)."""
        schedule: AnySchedule = Polynomial(name="cubic")
        """How much of the target is pruned when."""
        cadence: Cadence = Cadence()
        """At which steps the masks change."""
        distribution: AnyDistribution = Global(name="global")
        """How the total is split over the tensors."""
        structure: AnyStructure = Unstructured(name="unstructured")
        """The unit that is kept or pruned together."""
        regrow: bool = True
        """Whether a pruned unit may come back."""
        min_keep: int = Field(default=0, ge=0)
        """Units that each tensor keeps, whatever the target says."""

        @model_validator(mode="after")
        def _ramp_by_phase(self) -> Self:
            """A ramp that follows phases, and says no stop, ends with the last of them."""
            schedule = self.schedule
            said = "stop" in schedule.model_fields_set
            if self.cadence.every == "phase" and isinstance(schedule, Ramp) and not said:
                whole = schedule.model_copy(update={"stop": duration("100%")})
                object.__setattr__(self, "schedule", whole)  # frozen for all others
            return self

    config: ScoredStrategy.Config
    _cut: Cut | None = None
    """Where the last update cut the ranking: the next search begins there. No state: with any value
    the masks are the same."""
    _multiples: Multiples | None = None
    """The counts that the tensors of the scope may keep; None: any. Found anew by `cover`."""

    @abc.abstractmethod
    def score(self, name: str, ctx: Context) -> Tensor:
        """Saliency, same shape as `ctx.weights[name]`; higher is kept; finite."""

    def check(self, clock: Clock) -> None:
        """The schedule must reach its end within the window, the structure the sparsity."""
        self.config.schedule.check(clock.active_steps, clock.steps_per_epoch)
        self.config.cadence.check(clock.active_steps, clock.steps_per_epoch)
        self.config.structure.check(self.config.sparsity)

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """The distribution must be able to split the sparsity over these tensors."""
        sizes = self.config.structure.units(model, names).sizes
        self.config.distribution.check(sizes, self.config.sparsity)
        if multiples := self.config.structure.multiples(model, names, self.config.min_keep):
            multiples.check(self.config.sparsity)

    def due(self, clock: Clock) -> bool:
        """At the cadence's steps, and where the schedule begins, jumps or ends."""
        config = self.config
        return config.cadence.fires(clock) or clock.active_step in config.schedule.marks(clock)

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The cadence's steps, and the marks of the schedule."""
        return *self.config.cadence.moments(clock), sorted(self.config.schedule.marks(clock))

    def asked(self, clock: Clock) -> float:
        """The schedule's share of the final sparsity, as far as the structure has it."""
        return self.config.structure.reach(self.config.sparsity * self.config.schedule.at(clock))

    def target(self, clock: Clock) -> float:
        """Sparsity now: what is asked, or the next that multiples of units can have."""
        asked, multiples = self.asked(clock), self._multiples
        if multiples is None:
            return asked
        total = multiples.total
        return (total - multiples.promised(keep_count(total, asked))) / total

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """The exact count, unless `min_keep` may raise it; multiples have that in them."""
        if not self.config.structure.exact:
            return None
        if self._multiples is not None:
            return self._multiples.promised(keep_count(total, self.target(clock)))
        return None if self.config.min_keep else super().promised_keep(clock, total)

    def cover(self, model: nn.Module, names: Sequence[str]) -> Sequence[str]:
        """The scope, and the biases and norms that the structure takes along."""
        self._multiples = self.config.structure.multiples(model, names, self.config.min_keep)
        return self.config.structure.cover(model, names)

    def unit_name(self) -> str:
        """What the structure calls its units."""
        return self.config.structure.unit_name

    def count_units(self, model: nn.Module, masks: Masks) -> tuple[int, int]:
        """Units kept and units in all."""
        return self.config.structure.count(model, masks)

    @torch.no_grad()
    def update(self, ctx: Context) -> Update:
        """Score, pool into units, split the total, select, expand."""
        config, scores = self.config, self.scores(ctx)
        scores.unseen = self._ranks_whole(scores)
        finite = {} if scores.unseen else finite_flags(scores.tensors)
        if not config.regrow:
            old, never = ctx.masks, float("-inf")
            scores = Scores({n: s.masked_fill(~old[n], never) for n, s in scores.items()})
        scores.cut = self._cut
        demand = Demand(scores, self.target(ctx.clock), config.min_keep, finite=True)
        masks = self.select(ctx, demand, finite)
        if scores.unseen:  # a `select` of its own went another way
            finite_flags(scores.tensors)
        self._cut = scores.cut
        return Update(masks=masks, finite=finite)

    def _ranks_whole(self, scores: Scores) -> bool:
        """Whether one ranking on the CPU will see each score, and whether it is finite."""
        one, split = self.config.structure, self.config.distribution
        on_host = all(score.device.type == "cpu" for score in scores.tensors.values())
        plain = type(one) is Unstructured and type(split) is Global and not split.normalize
        return on_host and plain and self.config.regrow

    def select(
        self, ctx: Context, demand: Demand, finite: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The masks that structure and distribution give.

        Args:
            ctx: where the update stands.
            demand: with scores of which `finite_flags` were taken, or that are `unseen`.
            finite: those flags.

        Raises:
            PluginError: a score is not finite.
        """
        try:
            return self.config.structure.select(ctx.model, demand, self.config.distribution)
        except ValueError:  # the search may be the first to meet one that is NaN
            if isinstance(demand.scores, Scores) and demand.scores.unseen:
                finite_flags(demand.scores.tensors)
            for name, flag in finite.items():
                if not bool(flag):
                    raise PluginError(f"{name}: {NOT_FINITE}") from None
            raise

    def scores(self, ctx: Context) -> Scores:
        """The scores of the scope, of the right type and shape; `update` sees to it that they are
        finite, as it may wait for the device with all else."""
        return Scores({n: self.of_kind(n, self.score(n, ctx), ctx) for n in ctx.weights})

    def checked_score(self, name: str, ctx: Context) -> Tensor:
        """The score of one tensor.

        Raises:
            PluginError: the score has another type or shape, or is not finite.
        """
        return self.checked(name, self.score(name, ctx), ctx)

    def checked(self, name: str, score: Tensor, ctx: Context) -> Tensor:
        """`score`, if it can be one of the tensor `name`.

        Raises:
            PluginError: it has another type or shape, or is not finite.
        """
        if not all_finite(self.of_kind(name, score, ctx)):
            raise PluginError(f"{name}: {NOT_FINITE}")
        return score

    def of_kind(self, name: str, score: Tensor, ctx: Context) -> Tensor:
        """`score`, if it has the type and shape of one of the tensor `name`.

        Raises:
            PluginError: it has not.
        """
        shape = ctx.weights[name].shape
        if not isinstance(score, Tensor) or not score.is_floating_point():
            what = score.dtype if isinstance(score, Tensor) else type(score).__name__
            raise PluginError(f"{name}: the score is no floating-point tensor, but {what}")
        if score.shape != shape:
            raise PluginError(f"{name}: score has shape {tuple(score.shape)}, not {tuple(shape)}")
        return score
