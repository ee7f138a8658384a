"""Weights times what they are multiplied by: one pass of a trained model, no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Holders
from prunekit.foundation.transfer import read
from prunekit.pruning.distributions import AnyDistribution, Uniform
from prunekit.pruning.inputs import input_squares
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.calibrated import Calibrated
from prunekit.pruning.structures.constant_fan_in import Rows


class Wanda(Calibrated):
    """Keep, in each row, the weights with the largest |w_ij| * |X_j|_2.

    X_j holds input j of a layer over all calibration samples and tokens (of a convolution over all
    places too), so a small weight on a large input may count for more than a large one on an input
    that is nearly always zero (eq. 1). Weights are compared within their output (`compare: row`),
    so each output loses the same share, up to one weight; `tensor` ranks the scores themselves.
    One pass, no gradient and no training: for a finished model give a phase of length `0st`.

    Differs from the paper: layers are not pruned one after the other, so inputs are those of the
    dense model throughout.
    """

    class Config(Calibrated.Config):
        """Settings of Wanda."""

        name: Literal["wanda"]
        samples: int = Field(default=128, ge=1)
        """Calibration samples, as many as the paper takes sequences."""
        compare: Literal["row", "tensor"] = "row"
        """Whether weights compete within their output or within their tensor."""
        distribution: AnyDistribution = Uniform(name="uniform")

    config: Wanda.Config
    paper = "arXiv:2306.11695 eq. 1"

    @torch.no_grad()
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """|w| times the norm of its input; with `row` its place among those of its row, in (0, 1].

        Raises:
            RecipeError: a weight is computed anew from its parameter before it is multiplied.
        """
        params = dict(ctx.model.named_parameters(remove_duplicate=False))
        batches = (x for x, _ in ctx.calibration(self.config.samples))
        squares = input_squares(ctx.model, {name: params[name] for name in ctx.weights}, batches)
        scores, holders = {}, Holders(ctx.model)
        met = read([squares[name].any() for name in ctx.weights])
        for (name, weight), some in zip(ctx.weights.items(), met, strict=True):
            if not some:
                raise RecipeError(
                    f"strategy wanda: {name} meets no input that is not zero as it is: leave it "
                    "out with scope.exclude"
                )
            score = weight.abs() * squares[name].sqrt()
            if self.config.compare == "row" and score.ndim > 1:
                rows = Rows(holders.first(name).shape, *holders.first(name).rows)
                score = rows.back(places_in_rows(rows.matrix(score)))
            elif self.config.compare == "row":  # a vector is one row
                score = places_in_rows(score.unsqueeze(0)).squeeze(0)
            scores[name] = score
        return scores


def places_in_rows(rows: Tensor) -> Tensor:
    """(n - k) / n for the k-th largest of the n entries of a row; of ties the lower index first.

    Args:
        rows: [rows, n] scores.
    """
    n = rows.shape[1]
    order = rows.argsort(dim=1, descending=True, stable=True)
    falling = torch.arange(n, 0, -1, dtype=rows.dtype, device=rows.device) / n
    return torch.empty_like(rows).scatter_(1, order, falling.expand_as(rows))
