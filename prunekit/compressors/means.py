"""Size-weighted means of groups of tokens, and where their gradients go."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class _Places(NamedTuple):
    group: Tensor
    """int64 [B, N]: the output slot of each input token, in 0 .. tokens - 1."""
    tokens: int
    """Tokens that come out, protected ones counted."""


class Matching(_Places):
    """Where each token goes."""

    rows: Tensor
    """The slot of each token among those of all samples, int64 [B * N]."""

    def __new__(cls, group: Tensor, tokens: int) -> Self:
        """A tuple has its values before `__init__`."""
        self = super().__new__(cls, group, tokens)
        self.rows = _among_all(group, tokens)
        return self


def _among_all(place: Tensor, length: int) -> Tensor:
    """Places in samples of `length` as rows among those of all samples: [B, N] -> [B * N]."""
    begins = torch.arange(0, place.shape[0] * length, length, device=place.device)
    return (place + begins.unsqueeze(-1)).view(-1)


def step_by_step() -> bool:
    """Whether each step must be an operator that is differentiable by itself.

    For a program that is exported, and within transforms of `torch.func`.
    """
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._are_functorch_transforms_active()


def read_by_numpy(values: Tensor) -> bool:
    """Whether numpy may read them: on the CPU, where no operation has to be seen by torch."""
    return (
        values.device.type == "cpu"
        and type(values) is Tensor
        and not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
        and not step_by_step()
    )


def sums(values: Tensor, matching: Matching, *, deterministic: bool) -> Tensor:
    """Values of all tokens added up by slot: [B * N, W] -> [B * T, W], or without W.

    Args:
        values: of each token, sample by sample.
        matching: where tokens go.
        deterministic: by a dense product, whose order of addition is fixed on CUDA too.
    """
    samples, shape = matching.group.shape[0], values.shape[1:]
    if not deterministic:
        zeros = values.new_zeros(samples * matching.tokens, *shape)
        return zeros.index_add_(0, matching.rows, values)
    slots = torch.arange(matching.tokens, device=values.device).unsqueeze(-1)
    belongs = (matching.group.unsqueeze(1) == slots).to(values.dtype)
    return product(belongs, values.view(*matching.group.shape, -1)).view(-1, *shape)


def by_slot(matching: Matching) -> Tensor:
    """All tokens in the order of their slots, those of one slot in their own, int64 [B * N]."""
    group, rows = matching.group, matching.rows
    if not read_by_numpy(rows):
        order = group.argsort(dim=-1, stable=True)
        return _among_all(order, order.shape[1])
    # numpy sorts numbers by vectors, several times as fast: each is a slot, and below it a place
    bits = rows.numel().bit_length()
    key = torch.arange(rows.numel(), device=rows.device).add_(rows, alpha=1 << bits)
    key.view_as(group).numpy().sort()
    return key.bitwise_and_((1 << bits) - 1)


def means(x: Tensor, weight: Tensor, matching: Matching, *, deterministic: bool) -> Tensor:
    """Weighted sums of tokens by slot, in the order of the tokens: [B, N, C] -> [B, T, C].

    Args:
        x: tokens.
        weight: the share of each token in its slot, [B * N].
        matching: where they go.
        deterministic: as for `sums`.
    """
    flat, rows = x.flatten(0, 1), matching.rows
    if deterministic or step_by_step():
        mean = sums(flat * weight.unsqueeze(-1), matching, deterministic=deterministic)
    else:
        # bags of rows, with their products added as they are made: none is held
        order = by_slot(matching)
        counts = sums(torch.ones_like(rows), matching, deterministic=False)
        mean = F.embedding_bag(
            order,
            flat,
            counts.cumsum(0).sub_(counts),
            mode="sum",
            per_sample_weights=weight.index_select(0, order),
        )
    return mean.view(x.shape[0], matching.tokens, x.shape[2])


class Shares(NamedTuple):
    """What becomes of tokens in a round, and has become of those of before the first."""

    x: Tensor
    """Tokens of before this round, [B, N, C], without a gradient."""
    weight: Tensor
    """[B * N]: the share of each token of this round in its slot."""
    matching: Matching
    back: tuple[Tensor, Tensor]
    """Of each token of before the first round its share in what it has become a part of, and the
    row where that is: [B * N] of their N."""
    deterministic: bool
    """As for `sums`."""


class SharedMeans(torch.autograd.Function):
    """`means`, whose gradients go back over all rounds in one read and one write.

    dL/dx_i = (size_i / size'_g) dL/dy_g for what token i has become a part of.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, shares: Shares) -> Tensor:
        """What `shares.x` makes, [B, T, C]; the gradient is that of `first`.

        Args:
            ctx: keeps where tokens went, and with which weight.
            first: tokens of before the first round, [B, N, C].
            shares: what becomes of tokens.
        """
        ctx.shape = first.shape
        ctx.save_for_backward(*shares.back)
        x, weight, matching, _, deterministic = shares
        return means(x, weight, matching, deterministic=deterministic)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """[B, T, C] -> [B, N, C]."""
        share, came = ctx.saved_tensors
        grad = grads[0].contiguous().view(-1, ctx.shape[-1])
        if grad.device.type == "cpu":  # bags of one row: the product in one pass
            begins = torch.arange(len(came), device=came.device)
            back = F.embedding_bag(came, grad, begins, mode="sum", per_sample_weights=share)
        else:
            back = grad.index_select(0, came) * share.unsqueeze(-1)
        return back.view(ctx.shape), None


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of each sample in the precision of its operands, also under autocast."""
    kind = a.device.type
    # the meta device has none; to ask whether a device has it breaks the graphs of torch 2.11
    if a.is_meta or not torch.is_autocast_enabled(kind):
        return torch.bmm(a, b)
    with torch.autocast(kind, enabled=False):
        return torch.bmm(a, b)
