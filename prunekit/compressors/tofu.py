"""Token fusion: early blocks prune what later blocks merge."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunekit.compressors.base import DEPTH, TokenBatch
from prunekit.compressors.means import Matching
from prunekit.compressors.rounds import RoundsCompressor, RoundsConfig
from prunekit.compressors.tome import SMALLEST_NORM, match


class ToFu(RoundsCompressor):
    """Match as ToMe does, and prune in early blocks, merge without a loss of length in later ones.

    A block that answers the mean of two tokens with the mean of its two answers can do with merged
    tokens; early blocks do not, and are shown tokens that were there (arXiv:2312.01026, section 3).
    Every second token (A) may join the token of the other half (B) of the highest cosine, and the
    best pairs do. Pruning keeps the token of B as it is. Merging (MLERP) takes the direction of the
    size-weighted mean and the greatest length among the tokens of the group, as a mean is shorter
    than what it is of. Either way the token stands for the patches of the whole group: its size is
    their sum.
    """

    class Config(RoundsConfig):
        """Settings of token fusion."""

        name: Literal["tofu"]
        operation: Literal["auto", "prune", "merge"] = "auto"
        """`auto` prunes in the blocks before `prune_until` and merges from there on."""
        prune_until: float = Field(default=0.5, ge=0, le=1)
        """Share of the blocks in which `auto` prunes; it does in the slot `tokens`."""

    paper = "arXiv:2312.01026"
    config: ToFu.Config

    @property
    def reads(self) -> frozenset[str]:
        """Keys and depth, as the settings ask."""
        return super().reads | ({DEPTH} if self.config.operation == "auto" else set())

    def match(self, metric: Tensor, removed: int, tokens: TokenBatch) -> Matching:
        """See `RoundsCompressor`."""
        return match(metric, removed, protected=tokens.protected, similarity="cosine")

    def merged(self, tokens: TokenBatch, matching: Matching, came: TokenBatch) -> TokenBatch:
        """See `RoundsCompressor`."""
        mean = super().merged(tokens, matching, came)
        if self._prunes(came):
            rows = destinations(matching, tokens.protected).unsqueeze(-1)
            x = tokens.x.gather(1, rows.expand(-1, -1, tokens.x.shape[2]))
        else:
            x = lengthened(mean.x, tokens.x, matching)
        return TokenBatch(x, mean.size, mean.protected)

    def _prunes(self, came: TokenBatch) -> bool:
        if self.config.operation != "auto":
            return self.config.operation == "prune"
        return came.depth is None or came.depth.block < self.config.prune_until * came.depth.blocks


def destinations(matching: Matching, protected: int) -> Tensor:
    """The token that each output slot keeps, int64 [B, T]: its own of B, of A, or protected.

    A has every second token from the first that is not protected on, as `match` halves them.
    """
    group = matching.group
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    kept = group.new_zeros(group.shape[0], matching.tokens)
    # every slot that several of A may write is written by its one of B, last
    for part in (slice(0, protected), slice(protected, None, 2), slice(protected + 1, None, 2)):
        kept = kept.scatter(1, group[:, part], place[:, part])
    return kept


def lengthened(mean: Tensor, x: Tensor, matching: Matching) -> Tensor:
    """MLERP: the direction of each group's mean, as long as its longest token.

    A token alone in its group is left as it is, to the bit.

    Args:
        mean: [B, T, C] of the groups.
        x: [B, N, C] what they are of.
        matching: where each went.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    length = _norms(x.to(exact))
    longest, count = _over_groups(length, matching)
    now = _norms(mean.to(exact)).clamp_min(SMALLEST_NORM)
    scale = torch.where(count > 1, longest / now, torch.ones_like(now)).unsqueeze(-1)
    return (mean.to(exact) * scale).to(mean.dtype)


def _norms(x: Tensor) -> Tensor:
    """Of each token, [B, N]; torch 2.11 keeps a last axis of 1 on the meta device in any case."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms.squeeze(-1)


def _over_groups(length: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """The greatest of each group and how many there are, [B, T]."""
    group = matching.group
    slots = torch.arange(matching.tokens, device=group.device)
    if torch.compiler.is_exporting():  # without operators that some runtimes lack
        belongs = group.unsqueeze(1) == slots.unsqueeze(-1)
        longest = torch.where(belongs, length.unsqueeze(1), -torch.ones_like(length.unsqueeze(1)))
        return longest.amax(-1), belongs.sum(-1)
    zeros = length.new_zeros(length.shape[0], matching.tokens)
    count = zeros.scatter_add(1, group, torch.ones_like(length))
    return zeros.scatter_reduce(1, group, length, "amax"), count
