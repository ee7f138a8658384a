"""Sparse-refined straight-through training of N:M sparsity."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from prunekit.foundation.timeline import duration
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.pruning.structures import NM, AnyStructure
from prunekit.registry.configs import Mode


class SrSte(ScoredStrategy):
    """Keep the N largest |w| of each M, and shrink the pruned dense weights so that masks settle.

    W <- W - lr (g + lambda_w (1 - M) W), with g = dL/d(W*M) passed straight through to the dense
    W [any shape; groups along the input dimension] and M chosen anew at each step: 2 of 4 from the
    first step on. lambda_w = 0 is `magnitude` with structure n_m in mode `ste`.

    As in the paper, with the term in the gradient: an optimizer that adapts its step to the
    gradient, as AdamW, scales it too, and clipping sees it. `sparsity` must agree with the
    structure: 1 - n/m.
    """

    class Config(ScoredStrategy.Config):
        """Settings of SR-STE."""

        name: Literal["sr_ste"]
        mode: Mode = "ste"
        """`ste` only: pruned weights live on in the dense W."""
        sparsity: float = Field(default=0.5, ge=0, lt=1)
        """Fraction of the units in scope that is pruned: 1 - n/m of the structure."""
        lambda_w: float = Field(default=2e-4, ge=0)
        """Decay of the pruned dense weights, in the gradient."""
        schedule: AnySchedule = Constant(name="constant")
        cadence: Cadence = Cadence(every=duration("1st"))
        structure: AnyStructure = NM(name="n_m")

    config: SrSte.Config
    paper = "arXiv:2102.04010"
    modes = ("ste",)

    def adjust_gradients(self, ctx: Context) -> None:
        """Add lambda_w W to the gradient of pruned weights."""
        masks, weights = ctx.masks, ctx.weights
        for name, grad in ctx.grads.items():
            grad.add_(weights[name].masked_fill(masks[name], 0), alpha=self.config.lambda_w)

    def score(self, name: str, ctx: Context) -> Tensor:
        """|w|."""
        return ctx.weights[name].abs()
