"""The alpha rule: which terms of a sum are enough of it."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit_nnrelief.wide import wide


def keep_strongest(mass: Tensor, alpha: float) -> Tensor:
    """Keep in each row the fewest entries whose sum is at least `alpha` of the row's.

    Said from the other end: the weakest go, as long as their sum stays within (1 - alpha) of the
    row's. So alpha 1 prunes zeros only, and a row of zeros keeps nothing. Ties go to the lowest
    index.

    Args:
        mass: [units, connections], at least 0.
        alpha: in (0, 1].

    Returns:
        bool [units, connections], True = kept.
    """
    mass = wide(mass)
    weakest_first = mass.argsort(dim=1, descending=True, stable=True).flip(1)
    dropped = mass.gather(1, weakest_first).cumsum(1)
    kept = dropped > (1 - alpha) * dropped[:, -1:]
    return torch.empty_like(kept).scatter_(1, weakest_first, kept)
