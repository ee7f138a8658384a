"""The sub-network that another run found, trained alone from the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.modules import check_fit, copy_into
from prunekit.foundation.timeline import Clock
from prunekit.foundation.transfer import send
from prunekit.foundation.values import RunPath
from prunekit.pruning.strategies.base import Context, PruningStrategy, Update
from prunekit.registry.configs import StrategyConfig
from prunekit.runs.directory import open_run


class OptimalSubnetwork(PruningStrategy):
    """Start at W0 * M, with the final mask M and the initial weights W0 of another run; M is fixed.

    A lottery ticket (arXiv 1803.03635) whose mask comes from pruning during training. W0 is taken
    from the source run, whatever this run's seed drew.
    """

    class Config(StrategyConfig):
        """Settings of an optimal sub-network."""

        name: Literal["optimal_subnetwork"]
        source: RunPath
        """The run that found the mask: `runs/<recipe>/latest` or a run directory."""

    config: OptimalSubnetwork.Config
    paper = "arXiv:2407.16716 section 4; arXiv:1803.03635"
    modes = ("hard", "masked")

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """The source must have a mask for each parameter in scope, and the same model.

        Raises:
            CheckpointError: the source has no masks or no initial weights, or another model's.
            RecipeError: a parameter in scope has no mask there.
        """
        source = open_run(self.config.source)
        check_fit(model, source.initial_weights(), self._who())
        masks = source.masks()
        missing = [name for name in names if name not in masks]
        if missing:
            raise RecipeError(
                f"{self._who()} has no mask for {missing[0]}: give both runs the same scope"
            )

    def initialize(self, model: nn.Module) -> None:
        """Load the source run's initial weights."""
        copy_into(model, open_run(self.config.source).initial_weights(), self._who())

    def due(self, clock: Clock) -> bool:
        """Once, before the first step of its window."""
        return clock.active_step == 0

    def moments(self, clock: Clock) -> Iterable[Sequence[int]] | None:
        """The first step."""
        return ((0,),)

    def update(self, ctx: Context) -> Update:
        """The source's final mask, of the tensors in this scope."""
        masks = open_run(self.config.source).masks()
        return Update({n: send(masks[n], weight.device) for n, weight in ctx.weights.items()})

    def _who(self) -> str:
        return f"strategy {self.config.name}: {self.config.source}"
