"""An update on its way into force: on the devices of its weights, and asked about in one wait."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prunekit.foundation.transfer import send
from prunekit.pruning.corrections import Corrections
from prunekit.pruning.soft import BesideMasks
from prunekit.pruning.strategies.base import Update
from prunekit.pruning.weight_store import WeightStore


class PendingUpdate:
    """What a strategy decided, none of it in force.

    Owns its masks as the devices have them, and what must be known of all that comes with them.

    Args:
        update: what was decided, checked.
        weights: what it is for.
        corrects: whether its values are for entries that stay kept, too.
        fingerprints: whether these values are to be compared between ranks.
    """

    def __init__(
        self, update: Update, weights: WeightStore, *, corrects: bool, fingerprints: bool
    ) -> None:
        params, mask = weights.params, weights.mask
        new = {name: send(m, params[name].device) for name, m in update.masks.items()}
        returning, given = ({}, update.values) if corrects else (update.values, {})
        comes = {n: new[n] & ~mask(n) for n in new.keys() & returning}
        stays = {n: mask(n) & new[n] if n in new else mask(n) for n in given}
        self.masks = new
        self.returning = returning
        """Values for what comes back."""
        self.in_blocks = weights.in_blocks(new.keys() - {*returning, *update.soft, *weights.soft})
        """What is written in blocks, by name: flips are found on the way."""
        self.beside = BesideMasks(update, new, params, comes)
        self.corrections = Corrections(given, params, stays, fingerprints=fingerprints)
        self.sums: dict[str, float] = {}
        """Of its soft masks, once `take` was called."""

    @property
    def asked(self) -> list[Tensor]:
        """Tensors of one entry, to be read with all else."""
        return [*self.beside.flags, *self.corrections.asked]

    def take(self, told: Sequence[int]) -> None:
        """What was `asked`, read.

        Raises:
            PluginError: something is not finite, or does not fit.
        """
        first = len(told) - len(self.corrections.asked)
        self.sums = self.beside.heard(told[:first])
        self.corrections.take(told[first:])
