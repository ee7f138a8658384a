"""Sparse evolutionary training: drop the smallest, grow at random."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from prunekit.foundation.timeline import Clock
from prunekit.pruning.strategies.base import Context
from prunekit.pruning.strategies.drop_and_grow import DropAndGrow, noise


class SET(DropAndGrow):
    """Drop the weights with the smallest |w|, and grow as many at random.

    f(t) = zeta, the same at every update; growth is uniform noise over all entries that are not
    retained. Everything else is `DropAndGrow`.

    What differs from the paper: it drops the smallest positive and the largest negative weights,
    zeta of each, while here |w| ranks both; it starts grown weights at random, here at 0, so that
    a move does not disturb the function by more than the drop; its layers are Erdos-Renyi, here
    ERK, which is the same for fully connected ones (`distribution: erdos_renyi` is the paper's).
    It moves weights after each epoch (`cadence: {every: 1ep}`) but the last; here up to 75 %.
    """

    class Config(DropAndGrow.Config):
        """Settings of SET."""

        name: Literal["set"]

    config: SET.Config
    paper = "arXiv:1707.04780"

    def drop_fraction(self, clock: Clock) -> float:
        """Zeta."""
        return self.config.drop_fraction

    def growth(self, name: str, ctx: Context) -> Tensor:
        """Uniform noise."""
        return noise(name, ctx)
