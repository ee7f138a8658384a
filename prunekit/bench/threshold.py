"""The exact global threshold against `torch.kthvalue`."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.bench.rounds import AGAIN, in_turn, timed
from prunekit.bench.rows import Section, Timed
from prunekit.bench.sizes import Size
from prunekit.pruning.selection import find_threshold, keep_count

SPARSITY = 0.9
DRIFT = 1.003
"""How far the threshold has moved since the update that the hint is from."""
COLD, WARM = "cold, from a sample", "warm, from the last"


def by_kthvalue(weights: list[Tensor], keep: int) -> float:
    """The baseline: every |w| in one tensor."""
    joined = torch.cat([weight.abs().flatten() for weight in weights])
    return torch.kthvalue(joined, joined.numel() - keep + 1).values.item()


def threshold(size: Size) -> Section:
    """Find the threshold of 90 % sparsity, without and with the last one as a hint."""
    weights = size.weights()
    total = sum(weight.numel() for weight in weights)
    keep = keep_count(total, SPARSITY)
    exact = by_kthvalue(weights, keep)

    def search(hint: float | None) -> None:
        if find_threshold(weights, keep, hint, key=torch.abs) != exact:
            raise AssertionError("the search is not exact")

    baseline = timed(lambda: by_kthvalue(weights, keep))
    variants = {
        "torch.kthvalue": baseline,
        AGAIN: baseline,
        COLD: timed(lambda: search(None)),
        WARM: timed(lambda: search(exact * DRIFT)),
    }
    measured = in_turn(variants, size.least, size.most)
    return Section(
        name="threshold",
        title=f"exact threshold over {total:,} weights, sparsity {SPARSITY:g}",
        baseline="torch.kthvalue on torch.cat of all |w|; the abs is in both times",
        rows=Timed(measured, size.judged).rows({COLD: 0.10, WARM: 0.06}),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=[
            "found values are equal to the bit, each time",
            f"warm: the hint is {DRIFT - 1:.1%} off, as after an update in between",
        ],
    )
