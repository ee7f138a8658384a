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
        scores = self.passes(ctx)
        if not self.can_rank(ctx, scores):
            return Update()
        self.take_scores(ctx, scores)
        return super().update(ctx)

    def can_rank(self, ctx: Context, scores: Mapping[str, Tensor]) -> bool:
        """Whether the scores can rank; where not, the masks stay as they are.

        Raises:
            RecipeError: they cannot, and masks must change.
        """
        return True

    def take_scores(self, ctx: Context, scores: Mapping[str, Tensor]) -> None:
        """Keep scores for `score`, the same bits on all ranks.

        All ranks score the same samples, but some GPU kernels add in no fixed order.
        """
        self._scores = {name: ctx.mean_over_ranks(score) for name, score in scores.items()}

    def score(self, name: str, ctx: Context) -> Tensor:
        """What the last passes gave; handed over, as it is as large as the weights."""
        return self._scores.pop(name)
