"""The parts of the vision transformer: patches, attention, MLP, and the block they make."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor, Depth, TokenBatch
from prunekit.compressors.passing import compressed
from prunekit.models.attention_view import AttentionView, wanted_of
from prunekit.models.residual import DropPath, LayerScale


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each."""

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, height, width] -> [B, patches, width], row by row."""
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return patches


class EncoderBlock(nn.Module):
    """Attention, then a compressor where there is one, then an MLP, each on a residual."""

    def __init__(
        self, width: int, heads: int, hidden: int, units: int, qkv_bias: bool, dropout: float
    ) -> None:
        """For tokens of `width`: `heads` of `units` each, and `hidden` units in the MLP."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, qkv_bias, dropout, units)
        self.compressor: DataCompressor | None = None
        self.depth = Depth(0, 1)
        """Where the block stands: whoever makes more than one says so."""
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden, dropout)
        self.ls1: nn.Module = nn.Identity()
        self.ls2: nn.Module = nn.Identity()
        self.drop_path1: nn.Module = nn.Identity()
        self.drop_path2: nn.Module = nn.Identity()

    def on_branches(self, width: int, layer_scale: float | None, drop_path: float) -> None:
        """Put LayerScale and stochastic depth onto both branches, where there are such.

        Args:
            width: of a token.
            layer_scale: first value of each channel's factor; None = no LayerScale.
            drop_path: chance that a branch is left out; 0 = never.
        """
        if layer_scale is not None:
            self.ls1 = LayerScale(width, layer_scale)
            self.ls2 = LayerScale(width, layer_scale)
        if drop_path:
            self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, tokens: TokenBatch, size_bias: bool) -> TokenBatch:
        """[B, N, C] tokens in, as many out as the compressor leaves.

        Args:
            tokens: the tokens and their sizes.
            size_bias: whether attention adds log(size) over the keys.
        """
        x, size, protected = tokens
        exact = torch.promote_types(x.dtype, size.dtype)
        bias = size.to(exact).log().transpose(1, 2).unsqueeze(1) if size_bias else None
        wanted = wanted_of(self.compressor)
        view = AttentionView(wanted) if wanted else None
        branch = self.drop_path1(self.ls1(self.attn(self.norm1(x), bias, view)))
        tokens = TokenBatch(x + branch, size, protected)
        if self.compressor is not None:
            shown = view.shown(tokens, self.depth) if view else tokens
            tokens = compressed(self.compressor, shown)
        x, size, protected = tokens
        branch = self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return TokenBatch(x + branch, size, protected)


class Attention(nn.Module):
    """Multi-head self-attention with one projection to queries, keys and values."""

    def __init__(
        self, width: int, heads: int, qkv_bias: bool, dropout: float, units: int | None = None
    ) -> None:
        """For tokens of `width`; `units` of each head, by default as many as fill the width."""
        super().__init__()
        self.num_heads = heads
        inner = width if units is None else heads * units
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None, view: AttentionView | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]; `bias` [B, 1, 1, N] is added to the logits of each key.

        `view` is told the queries and keys.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if bias is None else bias.to(q.dtype)
        if view is not None:
            view.note(q, k, bias)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return projected


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        hidden = self.drop(F.gelu(self.fc1(x)))
        mixed: Tensor = self.drop(self.fc2(hidden))
        return mixed
