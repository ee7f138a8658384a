"""What the baselines share: the scales of ordinary BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunekit import RecipeError
from prunekit_rni.channels import ChannelStrategy
from prunekit_rni.sigbn import is_fresh

START = 0.5
"""Scale of a fresh BatchNorm, as in network slimming's code."""


class OrdinaryBatchNorm(ChannelStrategy):
    """Rank channels by |gamma|; a closed channel has neither scale nor shift."""

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """Every norm must have a scale to rank by."""
        super().check_scope(model, names)
        for layer in self.layers(names):
            if model.get_submodule(layer.norm).weight is None:
                raise RecipeError(
                    f"{self.who()}: {layer.norm} has no scale (affine=False): leave "
                    f"{layer.conv}.weight out with scope.exclude"
                )

    @torch.no_grad()
    def initialize(self, model: nn.Module) -> None:
        """Scales begin at 0.5, where the model does not come from another run."""
        for module in batch_norms(model):
            if is_fresh(module):
                module.weight.fill_(START)

    def score(self, norm: nn.Module) -> Tensor:
        """|gamma|."""
        assert isinstance(norm, nn.BatchNorm2d)
        return norm.weight.abs()

    def closes(self, norm: str) -> tuple[str, ...]:
        """Scale and shift."""
        return f"{norm}.weight", f"{norm}.bias"


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorms of a model that have a scale."""
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.affine]
