"""Which samples an optimizer step takes, and with which random choices: a function of the step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from prunekit.data.augment import Augmenter, Draws
from prunekit.data.augment.pipeline import places_in_epoch
from prunekit.data.split import generator

KEPT = 2
"""Orders of epochs: that in hand, and the next one, which is read ahead."""


class Share(NamedTuple):
    """One process's share of a step."""

    places: Tensor
    """int64 [B], of the training samples; on the host."""
    draws: Draws


class Steps:
    """The shares of one process.

    Args:
        augmenter: makes the random choices.
        seed: of the run.
        samples: of training; at least `batch_size`.
        batch_size: samples of a step, over all processes.
        share: those of a batch that are this process's.
    """

    def __init__(
        self, augmenter: Augmenter, seed: int, samples: int, batch_size: int, share: slice
    ) -> None:
        self.augmenter, self.seed, self.share = augmenter, seed, share
        self.samples, self.batch_size = samples, batch_size
        self.per_epoch = samples // batch_size
        self._orders: dict[int, Tensor] = {}

    def at(self, step: int) -> Share:
        """The share of the step that follows `step` others."""
        epoch, position = divmod(step, self.per_epoch)
        places = places_in_epoch(position, self.batch_size, self.augmenter.repeats)[self.share]
        draws = self.augmenter.draw(self.batch_size, self.seed, step).part(self.share)
        return Share(self._order(epoch)[places], draws)

    def _order(self, epoch: int) -> Tensor:
        """A permutation of the training samples."""
        if epoch not in self._orders:
            if len(self._orders) >= KEPT:
                del self._orders[min(self._orders)]
            source = generator(self.seed, "epoch", epoch)
            self._orders[epoch] = torch.randperm(self.samples, generator=source)
        return self._orders[epoch]
