"""Second order: weights go where it costs the outputs of their layer least, the others adjust."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.errors import RecipeError
from prunekit.foundation.modules import computing_with
from prunekit.foundation.timeline import Clock
from prunekit.pruning.apportion import apportion
from prunekit.pruning.blocks import Order, in_turns
from prunekit.pruning.brain_surgeon import NotPositiveError, prune_in_blocks
from prunekit.pruning.distributions import AnyDistribution, Demand, Global, Uniform
from prunekit.pruning.hessians import Hessians, hessians, use_order
from prunekit.pruning.strategies.base import Context, Update
from prunekit.pruning.strategies.calibrated import Calibrated
from prunekit.pruning.structures.n_m import NM, best_of_groups
from prunekit.pruning.structures.unstructured import Unstructured


class SparseGPT(Calibrated):
    """Prune a trained model layer by layer, and correct the weights that stay.

    Of a layer with inputs X (of a convolution all that its kernel is laid on) weights go, a block
    of columns at a time, where (W - W') X changes least: saliency w^2 / [H^-1]_jj, H = X X^T, as
    the Optimal Brain Surgeon has it; the columns that are left make up for them. Layers are pruned
    in the order of their use, so that later ones see the inputs that pruned ones give them. No
    gradient and no training: for a finished model give a phase of length `0st`.

    Differs from the paper: within a block all that a row loses goes at once, exactly, where the
    paper leaves kept weights alone once their column is done; and a row that would end with a
    larger error than the mask alone makes is not corrected.
    """

    class Config(Calibrated.Config):
        """Settings of SparseGPT."""

        name: Literal["sparse_gpt"]
        samples: int = Field(default=128, ge=1)
        """Calibration samples, as many as the paper takes sequences."""
        block: int = Field(default=128, ge=1)
        """Columns whose masks are chosen together; each block prunes the same share."""
        damp: float = Field(default=0.01, ge=0)
        """Share of the mean of H's diagonal that is added to it."""
        order: Order = "block"
        """Whose inputs a layer sees: with the blocks before its own pruned, as the paper, at a pass
        of all samples for each block; with all layers before it, at a pass each; or those of the
        dense model, in one pass."""
        distribution: AnyDistribution = Uniform(name="uniform")

    config: SparseGPT.Config
    paper = "arXiv:2301.00774 alg. 1"
    corrects = True

    def __init__(self, config: SparseGPT.Config) -> None:
        super().__init__(config)
        self._values: dict[str, Tensor] = {}

    def check(self, clock: Clock) -> None:
        """See `ScoredStrategy`; what each layer keeps must be known before it is looked at.

        Raises:
            RecipeError: the structure or the distribution does not fit.
        """
        super().check(clock)
        structure, distribution = self.config.structure, self.config.distribution
        if not isinstance(structure, NM | Unstructured):
            raise RecipeError(
                f"strategy sparse_gpt: corrects single entries, so structure {structure.name} does "
                "not fit: use unstructured or n_m"
            )
        if isinstance(distribution, Global):
            raise RecipeError(
                "strategy sparse_gpt: prunes one layer after the other, so distribution global has "
                "nothing to rank: use uniform, erk or another that splits by size"
            )

    def update(self, ctx: Context) -> Update:
        """The masks, and the weights that go with them."""
        update = super().update(ctx)
        values, self._values = self._values, {}
        return Update(update.masks, values, restart=True, finite=update.finite)

    @torch.no_grad()
    def passes(self, ctx: Context) -> Mapping[str, Tensor]:
        """1 where a weight is kept, 0 where not; keeps the corrected weights for `update`."""
        config = self.config
        now = {name: (w * ctx.masks[name]).contiguous() for name, w in ctx.weights.items()}
        demand = Demand(now, self.target(ctx.clock), config.min_keep)
        if demand.sparsity <= 0:
            return {name: torch.ones_like(weight) for name, weight in now.items()}
        keep, kept = config.distribution.keep_counts(demand), dict[str, Tensor]()
        model, used = computing_with(ctx.model, now), dict.fromkeys(now)
        own = {name: param for name, param in ctx.model.named_parameters() if name in now}
        for x, _ in islice(ctx.calibration(config.samples), 1):
            used = dict.fromkeys(use_order(ctx.model, own, x)) | used
        for names in in_turns(ctx.model, used, config.order):
            batches = (x for x, _ in ctx.calibration(config.samples))
            for name, found in hessians(model, now, names, batches).items():
                same = {sheet: ctx.mean_over_ranks(moments) for sheet, moments in found.items()}
                old = None if config.regrow else ctx.masks[name].contiguous()
                kept[name] = self._prune(name, now[name], same, keep[name], old)
        self._values = now
        return kept

    def _prune(
        self, name: str, weight: Tensor, found: Hessians, keep: int, old: Tensor | None
    ) -> Tensor:
        """Write a corrected weight in place; return 1 where it is kept, and 0 where not.

        Raises:
            RecipeError: a Hessian has no inverse.
        """
        structure, kept = self.config.structure, torch.zeros_like(weight)
        block = self.config.block
        if isinstance(structure, NM):  # no group is in two blocks
            block = -(-block // structure.m) * structure.m
        counts = iter(_shares(keep, found, block))
        for sheet, moments in found.items():
            may = None if old is None else sheet.read(old)

            def choose(first: int, saliency: Tensor, may: Tensor | None = may) -> Tensor:
                if may is not None:
                    gone = ~may[:, :, first : first + block]
                    saliency = saliency.masked_fill(gone, float("-inf"))
                if isinstance(structure, NM):
                    return best_of_groups(saliency, structure.n, structure.m)
                return _best(saliency, next(counts))

            try:
                mask, values = prune_in_blocks(
                    sheet.read(weight), moments, choose, block=block, damp=self.config.damp
                )
            except NotPositiveError:
                raise RecipeError(
                    f"strategy sparse_gpt: the inputs of {name} depend on each other too much for "
                    f"damp {self.config.damp:g}: raise it, or take more samples"
                ) from None
            sheet.write(weight, values)
            sheet.write(kept, mask)
        return kept


def _shares(keep: int, found: Hessians, block: int) -> list[int]:
    """How many entries each block of each sheet keeps: the same share, and `keep` in all."""
    sizes = {}
    for i, (sheet, moments) in enumerate(found.items()):
        groups, rows, columns = sheet.size[0], sheet.size[1], moments.shape[-1]
        for first in range(0, columns, block):
            width = min(block, columns - first)
            sizes[f"{i:09}.{first:09}"] = groups * rows * width
    return [*apportion(keep, sizes, sizes).values()]


def _best(saliency: Tensor, keep: int) -> Tensor:
    """True at the `keep` highest; ties to the lowest index. The host waits for nothing."""
    best = saliency.flatten().argsort(descending=True, stable=True)[:keep]
    mask = torch.zeros(saliency.numel(), dtype=torch.bool, device=saliency.device)
    return mask.index_fill_(0, best, True).view(saliency.shape)
