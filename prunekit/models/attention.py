"""torch's MultiheadAttention with fewer heads than its width has room for."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

INPUTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")


class FewerHeadsAttention(nn.MultiheadAttention):
    """What stands in for an `nn.MultiheadAttention` of which heads were removed.

    torch's own has embed_dim / num_heads rows a head and embed_dim rows in all; this one keeps the
    rows a head, so that [heads * head_dim, embed_dim] are left of each projection and
    [embed_dim, heads * head_dim] of the output one. Keys of the state dict and the call are
    torch's, in evaluation and in training.
    """

    def __init__(self, like: nn.MultiheadAttention, heads: int) -> None:
        """Parameters are zeros: they are to be loaded.

        Args:
            like: the attention to replace, or another one of this class.
            heads: how many it keeps, at least 1.

        Raises:
            ValueError: it has keys that no input gives (`add_bias_kv`, `add_zero_attn`).
        """
        nn.Module.__init__(self)
        if not can_lose_heads(like):
            raise ValueError("add_bias_kv or add_zero_attn: its heads cannot be removed")
        if not 1 <= heads <= like.num_heads:
            raise ValueError(f"{heads} heads of an attention with {like.num_heads}")
        self.embed_dim, self.kdim, self.vdim = like.embed_dim, like.kdim, like.vdim
        self.num_heads, self.head_dim = heads, like.head_dim
        self.dropout, self.batch_first = like.dropout, like.batch_first
        self.bias_k = self.bias_v = None
        self.add_zero_attn = False
        self._qkv_same_embed_dim = False  # what torch's fused encoder layer must not take
        inner, held = heads * like.head_dim, like._parameters
        for name in INPUTS:
            old = held.get(name)
            if old is None:
                self.register_parameter(name, None)
            else:
                parts = 3 if name.startswith("in_proj") else 1
                new = old.detach().new_zeros((parts * inner, *old.shape[1:]))
                self.register_parameter(name, nn.Parameter(new, old.requires_grad))
        out = like.out_proj
        self.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(
            inner, like.embed_dim, bias=out.bias is not None,
            device=out.weight.device, dtype=out.weight.dtype,
        )  # fmt: skip
        for parameter, old in zip(self.out_proj.parameters(), out.parameters(), strict=True):
            parameter.requires_grad_(old.requires_grad)
            nn.init.zeros_(parameter)
        self.training = like.training
        for kind in ("_forward_hooks", "_forward_pre_hooks"):  # what watches `like` goes on
            for name in (kind, f"{kind}_with_kwargs"):
                setattr(self, name, getattr(like, name))

    def forward(  # noqa: PLR0913 - torch's own call
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention`: [B, N, C] where `batch_first`, else [N, B, C], or [N, C]."""
        if attn_mask is None and is_causal:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        several = query.dim() == 3
        turn = several and not self.batch_first
        inputs = [_batched(one, turn) for one in (query, key, value)]
        q, k, v = self._projected(*inputs)
        mask = _joined_mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not several:
            return out[0], None if weights is None else weights[0]
        return out.transpose(0, 1) if turn else out, weights

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values, each [B, heads, N, head_dim]."""
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [
            F.linear(x, weight, bias).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        ]


def _batched(x: Tensor, turn: bool) -> Tensor:
    """[B, N, C] of what comes as [N, B, C], where `turn`, or as [N, C]."""
    if x.dim() < 3:
        return x.unsqueeze(0)
    return x.transpose(0, 1) if turn else x


def can_lose_heads(attention: nn.MultiheadAttention) -> bool:
    """Whether all keys come from inputs: `bias_k`, `bias_v` and zero keys have no head's rows."""
    return attention.bias_k is None and attention.bias_v is None and not attention.add_zero_attn


def _joined_mask(attention: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """What is added to the scores, broadcast to [B, heads, N, S]; None: nothing."""
    found: Tensor | None = None
    if attention is not None:
        found = _additive(attention, q)
        if found.dim() == 3:  # [B * heads, N, S]
            found = found.reshape(len(q), -1, *found.shape[1:])
    if padding is not None:
        padded = _additive(padding, q).reshape(len(q), 1, 1, -1)
        found = padded if found is None else found + padded
    return found


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    if mask.is_floating_point():
        return mask.to(q.dtype)
    return q.new_zeros(mask.shape).masked_fill(mask, float("-inf"))
