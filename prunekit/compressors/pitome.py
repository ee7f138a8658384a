"""Merging that protects informative tokens by an energy over the graph of similarities."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.compressors.base import DEPTH, Depth, TokenBatch
from prunekit.compressors.means import Matching, product
from prunekit.compressors.rounds import RoundsCompressor, RoundsConfig
from prunekit.compressors.tome import SMALLEST_NORM, ranking

FIRST_MARGIN = 0.9
"""The margin of the first block; from there it falls to 0 (arXiv:2405.16148, section 3.2)."""


class PiToMe(RoundsCompressor):
    """Merge tokens of large groups of alike ones, and leave alone those that are like few others.

    The energy of token i among n is E_i = 1/n sum_j f(cos(v_i, v_j)), with f(c) = c where c >= m
    and alpha (exp(c - m) - 1) elsewhere (equation 4). To remove k tokens, the 2k of highest energy
    are ordered by it; those at even places (A) each merge with the most similar one of those at odd
    places (B), into the size-weighted mean (algorithm 1). All other tokens stay as they are. The
    margin m = 0.9 - 0.9 l / L falls over the L blocks. What is left keeps its order.

    The code of the paper has f(c) = c - m above the margin, which orders tokens otherwise.
    """

    class Config(RoundsConfig):
        """Settings of spectrum-preserving token merging."""

        name: Literal["pitome"]
        margin: float | None = Field(default=None, ge=-1, le=1)
        """The cosine m from which on two tokens count as alike; null = 0.9 - 0.9 l / L in block l
        of L, and 0.9 in the slot `tokens`."""
        alpha: float = Field(default=1.0, ge=0)
        """Weight of the pairs below the margin."""

    paper = "arXiv:2405.16148"
    config: PiToMe.Config

    @property
    def reads(self) -> frozenset[str]:
        """Keys and depth, as the settings ask."""
        return super().reads | ({DEPTH} if self.config.margin is None else set())

    def match(self, metric: Tensor, removed: int, tokens: TokenBatch) -> Matching:
        """See `RoundsCompressor`."""
        first = tokens.protected
        alike = cosines(metric[:, first:])
        margin = margin_at(tokens.depth) if self.config.margin is None else self.config.margin
        place = ranking(energies(alike, margin, self.config.alpha))
        own = torch.arange(place.shape[1], device=place.device).expand_as(place)
        order = torch.zeros_like(place).scatter(1, place, own)
        sources, others = order[:, : 2 * removed : 2], order[:, 1 : 2 * removed : 2]
        rows = alike.gather(1, sources.unsqueeze(-1).expand(-1, -1, alike.shape[2]))
        best = rows.gather(2, others.unsqueeze(1).expand(-1, removed, -1)).max(-1).indices
        # B and what is protected stays, in its order; A goes where its best of B stands
        stays = torch.ones_like(place).scatter(1, sources, torch.zeros_like(sources))
        slot = first + stays.cumsum(-1) - 1
        slot = slot.scatter(1, sources, slot.gather(1, others.gather(1, best)))
        alone = torch.arange(first, device=place.device).expand(place.shape[0], -1)
        return Matching(torch.cat([alone, slot], 1), metric.shape[1] - removed)


def margin_at(depth: Depth | None) -> float:
    """0.9 - 0.9 l / L in block l of L; 0.9 where the depth is not known."""
    return FIRST_MARGIN * (1 - depth.block / depth.blocks) if depth else FIRST_MARGIN


def cosines(x: Tensor) -> Tensor:
    """[B, n, D] -> the cosine of each pair, [B, n, n]."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    unit = x / length.clamp_min(SMALLEST_NORM)
    return product(unit, unit.transpose(-2, -1))


def energies(alike: Tensor, margin: float, alpha: float) -> Tensor:
    """Cosines [B, n, n] -> the energy of each token, [B, n]; itself counts as for all others."""
    below = alpha * torch.expm1(alike - margin)
    return torch.where(alike >= margin, alike, below).mean(-1)
