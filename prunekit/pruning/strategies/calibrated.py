"""What is scored by passes of calibration samples through the model, all tensors together."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from torch import Tensor

from prunekit.pruning.cadence import Cadence
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.scored import ScoredStrategy


class Calibrated(ScoredStrategy):
    """Prune by scores that passes through the model give; once, unless a schedule says more."""

    class Config(ScoredStrategy.Config):
        """Settings of what passes calibration samples."""

        schedule: AnySchedule = Constant(name="constant")
        """All at once by default; `one_shot` with a `start` prunes later."""
        cadence: Cadence = Cadence(every="once")
        """At the first step and never again."""

    modes = ("hard", "masked")

    def __init__(self, config: Calibrated.Config) -> None:
        super().__init__(config)
        self._scores: dict[str, Tensor] = {}

    @abc.abstractmethod
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """The scores of the whole scope, each of its weight's shape; higher is kept."""

    def update(self, ctx: Context) -> Update:
        """Pass through the model, then select as every scored strategy does."""
        self.take_scores(ctx, self.usable(self.passes(ctx)))
        return super().update(ctx)

    def usable(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The scores, if they can rank.

        Raises:
            RecipeError: they cannot.
        """
        return scores

    def take_scores(self, ctx: Context, scores: Mapping[str, Tensor]) -> None:
        """Keep scores for `score`, the same bits on all ranks.

        All ranks score the same samples, but some GPU kernels add in no fixed order.
        """
        self._scores = {name: ctx.mean_over_ranks(score) for name, score in scores.items()}

    def score(self, name: str, ctx: Context) -> Tensor:
        """What the last passes gave; handed over, as it is as large as the weights."""
        return self._scores.pop(name)
