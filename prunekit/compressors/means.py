"""Size-weighted means of groups of tokens, and where their gradients go."""

from __future__ import annotations

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
        return (self.group + _begins(self.group.shape[0], self.tokens, self.group)).flatten()


def _begins(samples: int, length: int, like: Tensor) -> Tensor:
    """Where each sample begins among rows of all, int64 [B, 1]."""
    return torch.arange(0, samples * length, length, device=like.device).unsqueeze(-1)


def sums(values: Tensor, matching: Matching, rows: Tensor, *, deterministic: bool) -> Tensor:
    """Values of all tokens added up by slot: [B * N, W] -> [B * T, W].

    Args:
        values: of each token, sample by sample.
        matching: where tokens go.
        rows: its `rows`.
        deterministic: by a dense product, whose order of addition is fixed on CUDA too.
    """
    samples, width = matching.group.shape[0], values.shape[-1]
    if not deterministic:
        return values.new_zeros(samples * matching.tokens, width).index_add(0, rows, values)
    slots = torch.arange(matching.tokens, device=values.device).unsqueeze(-1)
    belongs = (matching.group.unsqueeze(1) == slots).to(values.dtype)
    return product(belongs, values.view(samples, -1, width)).flatten(0, 1)


class Groups(NamedTuple):
    """Where each token goes, and with which weight."""

    matching: Matching
    rows: Tensor
    """`matching.rows()`."""
    weight: Tensor
    """[B * N, 1]: the share of each token in its group."""


def means(x: Tensor, groups: Groups, *, deterministic: bool) -> Tensor:
    """Weighted sums of tokens by slot, in the order of the tokens: [B * N, C] -> [B * T, C].

    Args:
        x: tokens, sample by sample.
        groups: what goes where.
        deterministic: as for `sums`.
    """
    matching, rows, weight = groups
    if deterministic or torch.compiler.is_exporting():
        return sums(x * weight, matching, rows, deterministic=deterministic)
    # bags of rows, with their products added as they are made: none is held
    samples, count = matching.group.shape
    order = matching.group.argsort(dim=-1, stable=True)
    order = (order + _begins(samples, count, order)).flatten()
    counts = rows.new_zeros(samples * matching.tokens).index_add_(0, rows, torch.ones_like(rows))
    return F.embedding_bag(
        order,
        x,
        counts.cumsum(0) - counts,
        mode="sum",
        per_sample_weights=weight.flatten().index_select(0, order),
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
            first: tokens of before the first round, [B * N, C].
            back: the share of each in what it has become a part of, [B * N, 1], and the row where
                that is, [B * N]; None = as in `groups`.
            x: tokens of before this round.
            groups: what goes where in this round.
            deterministic: as for `sums`.
        """
        return means(x, groups, deterministic=deterministic)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep where tokens went, and with which weight."""
        _, back, _, groups, _ = inputs
        ctx.save_for_backward(*(back or (groups.weight, groups.rows)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """[B * T, C] -> [B * N, C]."""
        share, came = ctx.saved_tensors
        grad = grads[0].contiguous()
        if grad.device.type == "cpu":  # bags of one row: the product in one pass
            back = F.embedding_bag(came.unsqueeze(-1), grad, mode="sum", per_sample_weights=share)
        else:
            back = grad.index_select(0, came) * share
        return back, None, None, None, None


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of each sample in the precision of its operands, also under autocast."""
    kind = a.device.type
    # the meta device has none; to ask whether a device has it breaks the graphs of torch 2.11
    if a.is_meta or not torch.is_autocast_enabled(kind):
        return torch.bmm(a, b)
    with torch.autocast(kind, enabled=False):
        return torch.bmm(a, b)
