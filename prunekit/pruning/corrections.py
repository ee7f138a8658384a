"""Values for weights that stay kept: looked at before they are written, with one wait in all."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunekit.errors import PluginError
from prunekit.foundation.transfer import send
from prunekit.pruning.counts import lanes

WORDS = 4
"""Numbers that are asked of each tensor, without those of a fingerprint."""


class Correction(NamedTuple):
    """What an update did to the weights of one tensor that were kept and stay so."""

    entries: int
    """How many have another value now."""
    change: float
    """The Euclidean norm of what was added to them."""
    size: float
    """The norm that they had before."""


class Corrections:
    """The values that an update gives, and what is to be known of them.

    Args:
        values: parameter name -> floating-point tensor of its shape.
        params: the parameters by name, which hold W*M.
        stays: name -> bool, the entries that are kept before and after.
        fingerprints: whether they are to be compared between ranks.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        params: Mapping[str, nn.Parameter],
        stays: Mapping[str, Tensor],
        *,
        fingerprints: bool,
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self.found: dict[str, Correction] = {}
        """By name, once `take` was called."""
        self.digest = b""
        """Equal on two ranks where the values are, once `take` was called."""
        self.asked: list[Tensor] = []
        """Tensors of one entry, to be read with all else."""
        self._prints = fingerprints
        for name in sorted(values):
            param = params[name].data
            own = send(values[name].detach(), param.device).to(param.dtype)
            self.values[name] = own
            self.asked += self._words(own, param, stays[name])

    def _words(self, own: Tensor, param: Tensor, stays: Tensor) -> Iterator[Tensor]:
        yield own.isfinite().all()
        added = (own - param).mul_(stays)
        yield added.count_nonzero()
        for part in (added, param * stays):
            yield torch.linalg.vector_norm(part.float()).view(torch.int32)
        if self._prints:
            yield from lanes(own.contiguous().view(-1).view(torch.uint8))

    def take(self, told: Sequence[int]) -> None:
        """What was `asked`, read.

        Raises:
            PluginError: a value is not finite.
        """
        rest, sha = iter(told), hashlib.sha256()
        for name in self.values:
            finite, entries, *norms = (next(rest) for _ in range(WORDS))
            if self._prints:
                sha.update(struct.pack("2q", next(rest), next(rest)))
            if not finite:
                raise PluginError(f"{name}: its values are not finite")
            self.found[name] = Correction(entries, *map(_as_float, norms))
        self.digest = sha.digest()


def _as_float(word: int) -> float:
    """The float32 whose bits were read as an int32."""
    number: float = struct.unpack("f", struct.pack("i", word))[0]
    return number


def summed(found: Mapping[str, Correction]) -> dict[str, float]:
    """Of all tensors of a strategy: the entries corrected, and the change over the size before."""
    every = found.values()
    size = math.hypot(*(one.size for one in every))
    change = math.hypot(*(one.change for one in every))
    return {
        "corrected": sum(one.entries for one in every),
        "correction": change / size if size else 0.0,
    }
