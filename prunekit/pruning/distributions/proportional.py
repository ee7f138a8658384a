"""Splits in proportion to a claim that the shape of a tensor gives it."""

from __future__ import annotations

import abc
from fractions import Fraction
from math import prod
from typing import ClassVar, Literal

from prunekit.pruning.distributions.base import Demand, Distribution, split


class Proportional(Distribution):
    """Density in proportion to `claim`, up to 1; rounded by the Sainte-Lague method."""

    reads_scores: ClassVar[bool] = False

    @abc.abstractmethod
    def claim(self, shape: tuple[int, ...]) -> Fraction:
        """What the density of a weight of this shape is in proportion to."""

    def keep_counts(self, demand: Demand) -> dict[str, int]:
        """See `Distribution`."""
        shapes = demand.weight_shapes()
        return split({n: self.claim(shapes[n]) * size for n, size in demand.sizes.items()}, demand)


class Uniform(Proportional):
    """The same sparsity in each tensor."""

    name: Literal["uniform"] = "uniform"

    def claim(self, shape: tuple[int, ...]) -> Fraction:
        """1."""
        return Fraction(1)


class ErdosRenyi(Proportional):
    """Density ~ (n_in + n_out) / (n_in n_out) (SET, arXiv:1707.04780): small layers stay dense.

    A layer that this would make more than dense is dense, and the others share what remains: that
    is the cap of the apportionment, no loop of its own.
    """

    paper: ClassVar[str] = "arXiv:1707.04780"
    name: Literal["erdos_renyi"] = "erdos_renyi"

    def claim(self, shape: tuple[int, ...]) -> Fraction:
        """By the first two dimensions, [n_out, n_in, ..]."""
        return _sum_over_product(shape[:2])


class ERK(Proportional):
    """As Erdos-Renyi, with the kernel's sides among the dimensions (RigL, arXiv:1911.11134)."""

    paper: ClassVar[str] = "arXiv:1911.11134"
    name: Literal["erk"] = "erk"

    def claim(self, shape: tuple[int, ...]) -> Fraction:
        """By all dimensions: for a convolution (n_out + n_in + kh + kw) / (n_out n_in kh kw)."""
        return _sum_over_product(shape)


def _sum_over_product(shape: tuple[int, ...]) -> Fraction:
    shape = shape or (1,)
    return Fraction(sum(shape), prod(shape)) if prod(shape) else Fraction(0)
