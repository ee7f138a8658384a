"""Tokens on their way through a stock transformer with compressors, and their sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunekit.compressors.base import CLASS_ATTENTION, KEYS, DataCompressor, Depth, TokenBatch
from prunekit.compressors.passing import compressed
from prunekit.errors import UsageError
from prunekit.models.attention_view import AttentionView, wanted_of
from prunekit.models.seams import (
    TRANSFORMERS,
    Hooked,
    Seam,
    as_bias,
    tell_attention,
    unhook,
    with_bias,
)

FIRST = -1
"""The place before block 0, slot `tokens`."""


class Passage:
    """What the places of a model with compressors know of one another.

    A plain object, which copies with its model; sizes are those of the last pass.
    """

    def __init__(self, protected: int, seams: list[Seam | None], *, weighs: bool) -> None:
        self.protected = protected
        self.seams = seams
        """Of each block."""
        self.weighs = weighs
        """Whether the head reads patches, and needs their sizes."""
        self.held: dict[int, DataCompressor] = {}
        """By block, `FIRST` before them."""
        self.patches = 0
        """Tokens that the head must be given for those of the last pass, without protected ones."""
        self._sizes: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what a pass left, which may be of a trace, or of another device."""
        return vars(self) | {"_sizes": {}}

    @property
    def at_work(self) -> list[int]:
        """Places whose compressor does anything, in order."""
        return [place for place, one in self.held.items() if not one.passes_all]

    def sizes_at(self, block: int, x: Tensor) -> Tensor:
        """[B, N, 1] of tokens [B, N, C] that come to a block, or to slot `tokens`."""
        before = [place for place in self.at_work if place < block]
        if before:
            return self._sizes[max(before)]
        return x.new_ones((*x.shape[:2], 1), dtype=torch.float32)

    def compress(self, place: int, tokens: TokenBatch, view: AttentionView) -> Tensor:
        """What a place's compressor makes of tokens."""
        compressor = self.held[place]
        depth = Depth(max(place, 0), len(self.seams))
        out = compressed(compressor, view.shown(tokens, depth))
        if place == min(self.at_work, default=place):
            self.patches = tokens.x.shape[1] - tokens.protected
        if not compressor.conserves_mass:
            self.patches = out.x.shape[1] - out.protected
        self._sizes[place] = out.size.detach()
        return out.x

    def unmerged(self, x: Tensor) -> Tensor:
        """[B, protected + k, C] of the last pass -> each token as often as it has patches.

        Raises:
            UsageError: other tokens than those of the last pass.
        """
        if not self.at_work:
            return x
        size = self._sizes.get(max(self.at_work))
        if size is None or size.shape[:2] != x.shape[:2]:
            raise UsageError(
                "forward_head: these are not the tokens of the model's last forward_features, "
                "whose sizes are known: call the model, or one right behind the other"
            )
        if x.shape[1] - self.protected == self.patches:
            return x
        return repeat_by_size(x, size, self.protected, self.patches)

    def is_biased(self, block: int) -> bool:
        """Whether attention of a block adds log(size) to its logits."""
        return any(c.needs_size_bias for place, c in self.held.items() if place < block)

    def takes_arguments(self, block: int) -> bool:
        """Whether attention of a block is given other arguments than those of its model."""
        seam = self.seams[block]
        fewer = any(FIRST < place < block for place in self.held)
        return self.is_biased(block) or bool(seam and seam.bias == TRANSFORMERS and fewer)

    def put(self, place: int, compressor: DataCompressor, blocks: list[nn.Module]) -> None:
        """Hold a compressor, and put into the blocks the hooks that it needs."""
        self.held = dict(sorted((self.held | {place: compressor}).items()))
        self._connect(blocks)

    def take(self, place: int, blocks: list[nn.Module]) -> None:
        """Undo `put`."""
        del self.held[place]
        self._connect(blocks)

    def _connect(self, blocks: list[nn.Module]) -> None:
        for index, block in enumerate(blocks):
            unhook(block)
            seam = self.seams[index]
            if seam is not None and (index in self.held or self.takes_arguments(index)):
                BlockHooks(self, index, seam).put(block)


class BlockHooks(Hooked):
    """What is done at the seam of one block."""

    def __init__(self, passage: Passage, index: int, seam: Seam) -> None:
        self.passage, self.index, self.seam = passage, index, seam
        self.compressor = passage.held.get(index)
        self.came: Tensor | None = None
        """What came into the block, until its attention is behind."""
        self.view: AttentionView | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"came": None, "view": None}

    def put(self, block: nn.Module) -> None:
        """Register on the modules of the block."""
        attention = getattr(block, self.seam.attention)
        if self.passage.takes_arguments(self.index):
            attention.register_forward_pre_hook(self.weigh, with_kwargs=True)
        if self.compressor is not None:
            block.register_forward_pre_hook(self.begin)
            getattr(block, self.seam.entry).register_forward_pre_hook(self.enter)
            getattr(block, self.seam.end).register_forward_hook(self.leave)
            if self.compressor.reads & {KEYS, CLASS_ATTENTION}:
                tell_attention(attention, self)

    def begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The block's input is zero: what its residual adds to other tokens."""
        assert self.compressor is not None
        if self.compressor.passes_all:
            return None
        self.came = inputs[0]
        self.view = AttentionView(wanted_of(self.compressor))
        return (inputs[0].new_zeros(1, 1, 1), *inputs[1:])

    def enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """But for its first module, which reads it."""
        return None if self.came is None else (self.came, *inputs[1:])

    def leave(self, _: nn.Module, inputs: object, branch: Tensor) -> Tensor | None:
        """Attention is behind: its residual is added here, and tokens become fewer."""
        if self.came is None or self.view is None:  # the module stands behind the MLP too
            return None
        tokens = TokenBatch(
            self.came + branch,
            self.passage.sizes_at(self.index, self.came),
            self.passage.protected,
        )
        view, self.came, self.view = self.view, None, None
        return self.passage.compress(self.index, tokens, view)

    def bias(self) -> Tensor | None:
        """[B, 1, 1, N]: log(size), where attention adds it to its logits."""
        if self.came is None or not self.passage.is_biased(self.index):
            return None
        return self._log_size(self.came).transpose(1, 2).unsqueeze(1)

    def _log_size(self, x: Tensor) -> Tensor:
        """[B, N, 1], in float32 at least."""
        exact = torch.promote_types(x.dtype, torch.float32)
        return self.passage.sizes_at(self.index, x).to(exact).log()

    def weigh(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Add log(size) to the logits."""
        if not self.passage.at_work:
            return None
        if not self.passage.is_biased(self.index):
            return with_bias(self.seam, args, kwargs, None)
        x = args[0]
        log_size = self._log_size(x)[..., 0].to(x.dtype)
        return with_bias(self.seam, args, kwargs, as_bias(self.seam, log_size))


def repeat_by_size(x: Tensor, size: Tensor, protected: int, patches: int) -> Tensor:
    """Put each token as often as its size says, the protected ones once.

    Args:
        x: [B, protected + k, C].
        size: [B, protected + k, 1], whole numbers that add up to `patches` behind the protected.
        protected: leading tokens.
        patches: tokens to give.

    Returns:
        [B, protected + patches, C].
    """
    ends = size[:, protected:, 0].cumsum(1)
    places = torch.arange(patches, device=x.device, dtype=ends.dtype)
    # the token of a place: how many end before it; searchsorted would do, but is not in ONNX
    tokens = (ends.unsqueeze(1) <= places.view(1, -1, 1)).sum(-1)
    rows = (protected + tokens).unsqueeze(-1).expand(-1, -1, x.shape[2])
    return torch.cat([x[:, :protected], x.gather(1, rows)], dim=1)
