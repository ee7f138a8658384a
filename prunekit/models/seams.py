"""Where a block of a stock transformer has attention behind it and its MLP before it.

No forward is rewritten. Of `x = x + branch(norm(x)); x = x + mlp(norm(x))` hooks make the input of
the block a zero, give its true input to the first module alone, and add it to what the last module
of the attention branch gives. That sum may then have other tokens: zero added to it is itself, bit
for bit, and all that follows in the block works on it. Whether a block is built so is tried
(`block_trial.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.compressors.base import CLASS_ATTENTION, KEYS
from prunekit.models.attention import can_lose_heads
from prunekit.models.attention_view import AttentionView, class_attention

SEAMS = (
    ("norm1", "drop_path1", "attn"),  # timm: Block
    ("attn", "drop_path1", "attn"),  # timm: ResPostBlock
    ("ln_1", "dropout", "self_attention"),  # torchvision
    ("layernorm_before", "dropout", "attention"),  # Transformers: ViT, DeiT
    ("norm1", "drop_path", "attention"),  # Transformers: Dinov2
)
"""First module, last module of the attention branch, attention."""
TRANSFORMERS = "attention_mask"
"""What its attention calls a bias."""


class Listener(Protocol):
    """Who reads an attention."""

    @property
    def view(self) -> AttentionView | None:
        """What is to be noted of this pass; None: nothing."""

    def bias(self) -> Tensor | None:
        """[B, 1, 1, N]: what this attention adds to its logits."""


@dataclass(frozen=True, slots=True)
class Seam:
    """What may be done at one block; module names are those of its children."""

    entry: str
    """Reads the input of the block first."""
    end: str
    """Its first call in the block gives the attention branch."""
    attention: str
    bias: str | None
    """How the attention calls what is added to its logits; None: it takes nothing."""


def possible_seams(block: nn.Module) -> Iterator[Seam]:
    """Those whose modules a block has: to be tried."""
    for entry, end, attention in SEAMS:
        if all(isinstance(getattr(block, name, None), nn.Module) for name in (entry, end)):
            found = getattr(block, attention, None)
            if isinstance(found, nn.Module):
                yield Seam(entry, end, attention, _bias_name(found))


def _bias_name(attention: nn.Module) -> str | None:
    if isinstance(attention, nn.MultiheadAttention):  # a mask over keys, a number each
        return "key_padding_mask"
    taken = inspect.signature(attention.forward).parameters
    return next((name for name in ("attn_mask", TRANSFORMERS) if name in taken), None)


def as_bias(seam: Seam, log_size: Tensor) -> Tensor:
    """[B, N] -> as the attention of the seam takes it."""
    return log_size if seam.bias == "key_padding_mask" else log_size[:, None, None]


def with_bias(
    seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any], bias: Tensor | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attention, with what it is to add to its logits.

    A mask of Transformers is replaced: it is one over all tokens, which tracing alone makes.
    """
    assert seam.bias is not None, "who attaches looked"
    if seam.bias == TRANSFORMERS:
        if len(args) > 1:
            return (args[0], bias, *args[2:]), kwargs
        return args, kwargs | {seam.bias: bias}
    given = kwargs.get(seam.bias)
    return args, kwargs | {seam.bias: bias if given is None else given + bias}


def shows_keys(attention: nn.Module) -> bool:
    """Whether `tell_attention` knows this attention: softmax(q k) v, a key a query."""
    if isinstance(attention, nn.MultiheadAttention):
        return can_lose_heads(attention) and attention.in_proj_weight is not None
    if type(attention).__name__ == "Attention" and type(attention).__module__.startswith("timm."):
        return all(hasattr(attention, name) for name in ("q_norm", "k_norm", "scale"))
    of_transformers = type(attention).__module__.startswith("transformers.")
    needed = ("q_proj", "k_proj", "head_dim", "scaling")
    return of_transformers and all(hasattr(attention, name) for name in needed)


def tell_attention(attention: Any, listener: Listener) -> None:
    """Let a listener be told of each pass through an attention that `shows_keys`."""
    if isinstance(attention, nn.MultiheadAttention):
        attention.register_forward_pre_hook(_Weights(listener).take)
        return
    timm = hasattr(attention, "q_norm")
    names = ("q_norm", "k_norm") if timm else ("q_proj", "k_proj")
    pair = _Pair(listener, attention.scale if timm else attention.scaling, attention)
    q, k = (getattr(attention, name) for name in names)
    q.register_forward_hook(pair.take_q)
    k.register_forward_hook(pair.take_k)


class Hooked:
    """Whose methods are hooks, so that they can be found and taken out."""


def unhook(block: nn.Module) -> None:
    """Take the hooks of `Hooked` objects from a block."""
    for module in block.modules():
        for hooks, more in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            for key, hook in [*hooks.items()]:
                if isinstance(getattr(hook, "__self__", None), Hooked):
                    del hooks[key]
                    more.pop(key, None)


class _Pair(Hooked):
    """Queries of a pass, until its keys come; rows of all heads are cut."""

    def __init__(self, listener: Listener, scale: float, attention: Any) -> None:
        self.listener, self.scale, self.attention = listener, scale, attention
        self.q: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"q": None}

    def take_q(self, _: nn.Module, inputs: object, q: Tensor) -> None:
        """Hook: keep the queries, [B, N, C], or [B, H, N, D] behind a norm of heads."""
        self.q = q

    def take_k(self, _: nn.Module, inputs: object, k: Tensor) -> None:
        """Hook: note what the view wants of the queries before and these keys, shaped alike."""
        view, q, self.q = self.listener.view, self.q, None
        if view is not None and q is not None:
            view.note(self._cut(q), self._cut(k), self.listener.bias(), self.scale)

    def _cut(self, rows: Tensor) -> Tensor:
        if rows.dim() == 4:
            return rows
        return rows.view(*rows.shape[:2], -1, self.attention.head_dim).transpose(1, 2)


class _Weights(Hooked):
    """Computes what torch's attention does not show, of its weights."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def take(self, attention: nn.MultiheadAttention, inputs: tuple[Any, ...]) -> None:
        """Hook before torch's attention, whose first input is [B, N, C]."""
        view, x, heads = self.listener.view, inputs[0], attention.num_heads
        if view is None:
            return
        rows, keys = attention.in_proj_weight.chunk(3)[:2]
        keys = keys.view(heads, -1, x.shape[-1])
        given = attention.in_proj_bias
        biases = (None, None) if given is None else given.chunk(3)[:2]
        if KEYS in view.wanted:  # the mean of linear maps is one
            bias = None if biases[1] is None else biases[1].view(heads, -1).mean(0)
            view.keys = F.linear(x, keys.mean(0), bias)
        if CLASS_ATTENTION in view.wanted:
            q = F.linear(x[:, 0], rows, biases[0]).view(len(x), heads, 1, -1)
            # q (W x + b) = (q W) x + q b, whose second part is the same for all tokens
            width = keys.shape[1]
            view.class_attention = class_attention(
                q @ keys, x.unsqueeze(1), self.listener.bias(), width**-0.5
            )
