"""Size-weighted means of groups of tokens, and where their gradients go."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Matching(NamedTuple):
    """Where each token goes."""

    group: Tensor
    """int64 [B, N]: the output slot of each input token, in 0 .. tokens - 1."""
    tokens: int
    """Tokens that come out, protected ones counted."""

    def rows(self) -> Tensor:
        """The slot of each token among those of all samples, int64 [B * N]."""
        return _among_all(self.group, self.tokens)


def _among_all(place: Tensor, length: int) -> Tensor:
    """Places in samples of `length` as rows among those of all samples: [B, N] -> [B * N]."""
    begins = torch.arange(0, place.shape[0] * length, length, device=place.device)
    return (place + begins.unsqueeze(-1)).view(-1)


def sums(values: Tensor, matching: Matching, rows: Tensor, *, deterministic: bool) -> Tensor:
    """Values of all tokens added up by slot: [B * N, W] -> [B * T, W], or without W.

    Args:
        values: of each token, sample by sample.
        matching: where tokens go.
        rows: its `rows`.
        deterministic: by a dense product, whose order of addition is fixed on CUDA too.
    """
    samples, shape = matching.group.shape[0], values.shape[1:]
    if not deterministic:
        return values.new_zeros(samples * matching.tokens, *shape).index_add_(0, rows, values)
    slots = torch.arange(matching.tokens, device=values.device).unsqueeze(-1)
    belongs = (matching.group.unsqueeze(1) == slots).to(values.dtype)
    return product(belongs, values.view(*matching.group.shape, -1)).view(-1, *shape)


class Groups(NamedTuple):
    """Where each token goes, and with which weight."""

    matching: Matching
    rows: Tensor
    """`matching.rows()`."""
    weight: Tensor
    """[B * N]: the share of each token in its group."""


def means(x: Tensor, groups: Groups, *, deterministic: bool) -> Tensor:
    """Weighted sums of tokens by slot, in the order of the tokens: [B * N, C] -> [B * T, C].

    Args:
        x: tokens, sample by sample.
        groups: what goes where.
        deterministic: as for `sums`.
    """
    matching, rows, weight = groups
    if deterministic or torch.compiler.is_exporting():
        return sums(x * weight.unsqueeze(-1), matching, rows, deterministic=deterministic)
    # bags of rows, with their products added as they are made: none is held
    order = matching.group.argsort(dim=-1, stable=True)
    order = _among_all(order, order.shape[1])
    counts = sums(torch.ones_like(rows), matching, rows, deterministic=False)
    return F.embedding_bag(
        order,
        x,
        counts.cumsum(0).sub_(counts),
        mode="sum",
        per_sample_weights=weight.index_select(0, order),
    )


class SharedMeans(torch.autograd.Function):
    """`means`, whose gradients go back over all rounds in one read and one write.

    dL/dx_i = (size_i / size'_g) dL/dy_g for what token i has become a part of.
    """

    @staticmethod
    def forward(
        first: Tensor,
        back: tuple[Tensor, Tensor] | None,
        x: Tensor,
        groups: Groups,
        deterministic: bool,
    ) -> Tensor:
        """What x makes, [B * T, C]; the gradient is that of `first`.

        Args:
            first: tokens of before the first round, [B, N, C].
            back: the share of each in what it has become a part of, [B * N], and the row where
                that is, [B * N]; None = as in `groups`.
            x: tokens of before this round.
            groups: what goes where in this round.
            deterministic: as for `sums`.
        """
        return means(x, groups, deterministic=deterministic)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep where tokens went, and with which weight."""
        first, back, _, groups, _ = inputs
        ctx.shape = first.shape
        ctx.save_for_backward(*(back or (groups.weight, groups.rows)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """[B * T, C] -> [B, N, C]."""
        share, came = ctx.saved_tensors
        grad = grads[0].contiguous()
        if grad.device.type == "cpu":  # bags of one row: the product in one pass
            each = came.unsqueeze(-1), share.unsqueeze(-1)
            back = F.embedding_bag(each[0], grad, mode="sum", per_sample_weights=each[1])
        else:
            back = grad.index_select(0, came) * share.unsqueeze(-1)
        return back.view(ctx.shape), None, None, None, None


# `apply` asks for it at each call, which takes longer than most operations here
SharedMeans.forward.__signature__ = inspect.signature(SharedMeans.forward)  # type: ignore[attr-defined]


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of each sample in the precision of its operands, also under autocast."""
    kind = a.device.type
    # the meta device has none; to ask whether a device has it breaks the graphs of torch 2.11
    if a.is_meta or not torch.is_autocast_enabled(kind):
        return torch.bmm(a, b)
    with torch.autocast(kind, enabled=False):
        return torch.bmm(a, b)
