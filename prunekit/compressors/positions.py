"""Tokens back to the positions that they came from, for outputs at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from prunekit.errors import UsageError


def unmerge(
    x: Tensor, groups: Tensor | Sequence[Tensor], *, dropped: float | Tensor = 0.0
) -> Tensor:
    """Give each position the token that it has become a part of.

    What was merged has one value at all of its positions; what was dropped has none, and gets
    `dropped`. Right behind a compressor that averages, the mean of the result over a group is the
    mean of the tokens that went in; at ratio 0 it is `x`. Differentiable in x and `dropped`; it
    compiles and exports.

    Args:
        x: [B, M, C] tokens that came out, protected ones first, or what was made of them since,
            token by token.
        groups: int64 [B, N], the place of each of N tokens among those M, -1 = dropped: what
            `groups` of a compressor gave. Of several compressors one behind the other, theirs in
            the order of the pass.
        dropped: what a position without a token gets: a number, or a tensor that can be broadcast
            to [B, N, C], as the tokens from before the compressor.

    Returns:
        [B, N, C], of the type of `x`.

    Raises:
        UsageError: groups of other shapes, or none.
    """
    group = composed([groups] if isinstance(groups, Tensor) else groups)
    if x.ndim != 3 or group.shape[0] != x.shape[0]:
        raise UsageError(
            f"unmerge: x is {list(x.shape)} and groups {list(group.shape)}: [B, M, C] and [B, N] "
            "are wanted"
        )
    rows = group.clamp(min=0).unsqueeze(-1).expand(-1, -1, x.shape[2])
    # a number is not sent: a GPU would be waited for
    fill = dropped.to(x) if isinstance(dropped, Tensor) else x.new_full((), dropped)
    return torch.where((group < 0).unsqueeze(-1), fill, x.gather(1, rows))


def composed(groups: Sequence[Tensor]) -> Tensor:
    """The place among the last tokens of each of the first, -1 = dropped on the way, int64 [B, N].

    Args:
        groups: of compressors one behind the other: [B, N], [B, M], ..., in the order of the pass.

    Raises:
        UsageError: there are none, or one is of another batch or of fewer tokens than came to it.
    """
    if not groups:
        raise UsageError("unmerge: no groups are given: what groups(tokens) of a compressor gave")
    return reduce(_behind, groups)


def _behind(first: Tensor, second: Tensor) -> Tensor:
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise UsageError(
            f"unmerge: groups are {list(first.shape)} and {list(second.shape)}: [B, N] is wanted, "
            "of one batch"
        )
    return torch.where(first < 0, first, second.gather(1, first.clamp(min=0)))
