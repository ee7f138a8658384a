"""What the attention of a block shows to a compressor that reads it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from prunekit.compressors.base import (
    CLASS_ATTENTION,
    DEPTH,
    KEYS,
    DataCompressor,
    Depth,
    TokenBatch,
)
from prunekit.errors import PluginError, RecipeError

_OF_BLOCKS = "keys and class_attention are those of plain attention, in slots blocks.N"
_NO_CLASS_TOKEN = (
    "it is of a class token, and this model has none: use pool: cls in vit, class_token: true in a "
    "model of timm, or another compressor, such as tome"
)


class AttentionView:
    """Notes keys and class attention of one pass through one attention, where they are wanted."""

    def __init__(self, wanted: AbstractSet[str]) -> None:
        self.wanted = wanted
        self.keys: Tensor | None = None
        self.class_attention: Tensor | None = None

    def note(self, q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None = None) -> None:
        """Queries and keys [B, heads, N, D], as they are multiplied; see `class_attention`."""
        if KEYS in self.wanted:
            self.keys = k.mean(1)
        if CLASS_ATTENTION in self.wanted:
            self.class_attention = class_attention(q[:, :, :1], k, bias, scale)

    def shown(self, tokens: TokenBatch, depth: Depth) -> TokenBatch:
        """The tokens, with what was noted."""
        at = depth if DEPTH in self.wanted else None
        return TokenBatch(*tokens, self.keys, self.class_attention, at)


def class_attention(
    q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """softmax(q k / sqrt(D) + bias) of one token over all, mean over the heads: [B, N].

    In float32 at least.

    Args:
        q: [B, heads, 1, D], the query of the class token.
        k: [B, heads, N, D].
        bias: what is added to the logits, broadcast to [B, heads, 1, N].
        scale: another factor than D ** -0.5.
    """
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    exact = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(-1, dtype=exact).mean(1).squeeze(1)


def wanted_of(compressor: DataCompressor | None) -> AbstractSet[str]:
    """What a compressor reads in this pass."""
    if compressor is None or compressor.passes_all:
        return frozenset()
    return compressor.reads


def check_reads(
    model: nn.Module, slot: str, compressor: DataCompressor, given: AbstractSet[str]
) -> None:
    """Refuse a compressor that reads what its slot cannot give.

    Args:
        model: for the message.
        slot: its name.
        compressor: the one for it.
        given: what can be had there.

    Raises:
        RecipeError: it reads more.
        PluginError: its `reads` is no set of names.
    """
    if not isinstance(compressor.reads, AbstractSet):
        raise PluginError(
            f"compressor {compressor.config.name!r}: reads is {compressor.reads!r}, not a set of "
            'names, as frozenset({"keys"})'
        )
    lacking = sorted(compressor.reads - given)
    if lacking:
        remedy = _NO_CLASS_TOKEN if lacking == [CLASS_ATTENTION] and KEYS in given else _OF_BLOCKS
        raise RecipeError(
            f"slot: compressor {compressor.config.name!r} reads {' and '.join(lacking)}, which "
            f"{type(model).__name__} does not give in slot {slot!r}: {remedy}"
        )
