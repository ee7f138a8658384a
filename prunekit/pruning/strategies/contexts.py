"""What the hooks see that are called while the gradients of a step are made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunekit.foundation.timeline import Clock


@dataclass(frozen=True, slots=True)
class BatchContext:
    """A micro-batch on its way through the loss, for `PruningStrategy.batch_penalty`.

    B samples; in a run what augmentation and mixing made of them, so that targets may be shares.
    """

    inputs: Any
    """What the model was given: float [B, C, H, W], normalised, in a run; in a loop of one's own
    whatever that hands on."""
    logits: Tensor
    """What the model made of them, with its graph: [B, classes], float32 at least, also under
    autocast."""
    targets: Tensor
    """Int64 [B], classes; or float [B, classes], shares of them, as mixed images have."""
    distilled: Tensor | None
    """As `logits`, of a distillation token; None = the model has none."""
    clock: Clock
    """Where training stands."""
    model: nn.Module
    """The plain module; its parameters hold W*M."""
    weights: Mapping[str, Tensor]
    """Dense W of the scope, made when it is read. Gradients go through: to all of W in `ste`, whose
    optimizer moves it, and to the kept entries in `hard` and `masked`. In a pass at perturbed
    weights they are those."""
    masks: Mapping[str, Tensor]
    """The masks of the scope, bool, True = kept."""


class GradientContext(Protocol):
    """What `PruningStrategy.around_gradients` sees and may do. Names are of all parameters that
    learn, not of the scope alone; all of it is equal on all ranks."""

    @property
    def clock(self) -> Clock:
        """Where training stands."""

    @property
    def model(self) -> nn.Module:
        """The plain module; its parameters hold W*M."""

    @property
    def scope(self) -> tuple[str, ...]:
        """Names that the strategy masks."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Dense W, read-only; to be read outside of `perturbed`."""

    @property
    def grads(self) -> Mapping[str, Tensor]:
        """dL/d(W*M) of the last `compute`: dense, mean over micro-batches and ranks, unscaled,
        unclipped, without penalties beside those of the batch; copies, to be kept as you like.
        Zeros where nothing flowed, and before the first `compute`."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks in force, bool, True = kept; parameters that no strategy masks have none."""

    @property
    def generator(self) -> torch.Generator:
        """CPU generator, a function of (seed, step, strategy), equal on all ranks."""

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """The mean of `x` over the ranks; `x` itself in one process."""

    def perturbed(self, values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The model computes with other weights inside, and with its own after, bit for bit.

        Args:
            values: what parameters are to hold, by name, of their shapes; masks stay in force, so a
                pruned weight is 0 whatever stands here.
        """

    def set_grads(self, values: Mapping[str, Tensor]) -> None:
        """Put others in the place of the gradients that the last `compute` left, by name."""
