"""The sub-network that another run found, trained alone from the start."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prunekit.clock import Clock
from prunekit.errors import RecipeError
from prunekit.run_path import RunPath
from prunekit.runs import open_run
from prunekit.strategies.base import Context, PruningStrategy, StrategyConfig, Update
from prunekit.weights import copy_into


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

    def prepare(self, model: nn.Module) -> None:
        """Load the source run's initial weights.

        Raises:
            CheckpointError: the source has no initial weights, or those of another model.
        """
        source = self.config.source
        copy_into(
            model, open_run(source).initial_weights(), f"strategy {self.config.name}: {source}"
        )

    def due(self, clock: Clock) -> bool:
        """Once, before the first step of its window."""
        return clock.active_step == 0

    def update(self, ctx: Context) -> Update:
        """The source's final mask, of the tensors in this scope."""
        masks = open_run(self.config.source).masks()
        missing = [name for name in ctx.weights if name not in masks]
        if missing:
            raise RecipeError(
                f"strategy {self.config.name}: {self.config.source} has no mask for {missing[0]}: "
                "give both runs the same scope"
            )
        return Update({name: masks[name].to(weight.device) for name, weight in ctx.weights.items()})
