"""The Optimal Brain Surgeon on one layer: weights go, and those that stay make up for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 1 << 24
"""Entries of the small systems that are solved at a time, 128 MiB of float64."""
Choose = Callable[[int, Tensor], Tensor]
"""(first column of a block, its saliencies [groups, rows, columns of it]) -> its mask."""


class NotPositiveError(ArithmeticError):
    """A Hessian is not positive definite: its damping is too low."""


def prune_in_blocks(
    weight: Tensor, hessian: Tensor, choose: Choose, *, block: int, damp: float
) -> tuple[Tensor, Tensor]:
    """Prune a layer y = W x from the left, a block of columns at a time (arXiv:2301.00774).

    The saliency of an entry is w^2 / [H^-1]_jj, with H of the columns that are not done yet: the
    squared output error that remains if it alone goes. What `choose` prunes of a block goes at once
    in each row: with P the pruned columns, -w_P ([H^-1]_PP)^-1 [H^-1]_P is added to the block and
    to all later columns, which is the least-squares optimum of what is not done yet. A row that
    ends with a larger error than W * mask has stays as it was.

    Args:
        weight: [groups, rows, columns].
        hessian: sums of x x^T, [groups, columns, columns].
        choose: the mask of each block.
        block: columns of a block.
        damp: of the mean of the diagonal, added to it.

    Returns:
        Masks, and values that are 0 where pruned, in the type of the Hessian.

    Raises:
        NotPositiveError: the damped Hessian has no inverse.
    """
    start = weight.to(hessian.dtype)
    values, masks, columns = start.clone(), torch.empty_like(weight, dtype=torch.bool), start[0, 0]
    factor = _inverse_factor(hessian, damp)
    for first in range(0, len(columns), block):
        end = min(first + block, len(columns))
        rows = factor[:, first:end, first:]  # of the inverse of what is left, R^T R
        inverse = rows[:, :, : end - first].mT @ rows
        own = values[:, :, first:end]
        mask = choose(first, own.square() / inverse.diagonal(dim1=1, dim2=2).unsqueeze(1))
        values[:, :, first:] -= _shares(own, mask, inverse) @ inverse
        masks[:, :, first:end] = mask
        own.mul_(mask)
    plain = start * masks
    worse = _errors(values - start, hessian) > _errors(plain - start, hessian)
    return masks, torch.where(worse.unsqueeze(-1), plain, values)


def _inverse_factor(hessian: Tensor, damp: float) -> Tensor:
    """Upper triangular R with R^T R = the inverse of the damped Hessian; that of its lower right
    corners is made of the lower right corners of R."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    added = torch.where(mean > 0, damp * mean, 1.0)  # of inputs that are all 0, nothing matters
    damped = hessian + torch.diag_embed(added.expand_as(diagonal))
    # the factor of the matrix turned by half, as that of the inverse begins at the other corner
    lower, failed = torch.linalg.cholesky_ex(damped.flip(1, 2))
    if failed.any():
        raise NotPositiveError
    one = torch.eye(diagonal.shape[1], dtype=hessian.dtype, device=hessian.device)
    factor: Tensor = torch.linalg.solve_triangular(lower, one.expand_as(lower), upper=False)
    return factor.flip(1, 2)


def _shares(weight: Tensor, mask: Tensor, inverse: Tensor) -> Tensor:
    """w_P ([H^-1]_PP)^-1 of each row of a block, 0 where it keeps."""
    square = inverse[:, :, : inverse.shape[1]]
    gone = (~mask).to(weight.dtype)
    every = torch.empty_like(weight)
    step = max(1, CHUNK // (len(weight) * square[0].numel()))
    for rows in range(0, weight.shape[1], step):
        out = gone[:, rows : rows + step]
        # the rows and columns of what is kept become those of the identity
        system = square.unsqueeze(1) * out.unsqueeze(-1) * out.unsqueeze(-2)
        system.diagonal(dim1=2, dim2=3).add_(1 - out)
        lower, _ = torch.linalg.cholesky_ex(system)
        right = (weight[:, rows : rows + step] * out).unsqueeze(-1)
        every[:, rows : rows + step] = torch.cholesky_solve(right, lower).squeeze(-1)
    return every


def _errors(change: Tensor, hessian: Tensor) -> Tensor:
    """The squared output error of each row, [groups, rows]."""
    return (change @ hessian * change).sum(-1)
