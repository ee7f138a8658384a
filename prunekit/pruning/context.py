"""What a strategy or probe sees at one moment, and what it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.errors import PluginError, UsageError
from prunekit.foundation.modules import called_with
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.timeline import Clock
from prunekit.pruning.learning import Learning
from prunekit.pruning.masks import MaskSet
from prunekit.pruning.optimizer_state import held_state
from prunekit.pruning.strategies.base import Masks

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> mean loss."""
LossOfImages = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(images, logits, labels) -> mean loss, as one that asks a teacher."""
Anchor = Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]]
"""Dense weights at the anchor step by name, or a function that gives them."""


class Ranks(Protocol):
    """What pruning needs of the other processes."""

    @property
    def world(self) -> int:
        """How many there are, this one included."""

    def mean(self, x: Tensor) -> Tensor:
        """Mean of `x` over the ranks."""

    def all_equal(self, digest: bytes) -> bool:
        """Whether every rank has this digest (32 bytes)."""


class OneProcess:
    """`Ranks` of a single process."""

    world = 1

    def mean(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x

    def all_equal(self, digest: bytes) -> bool:
        """Always so."""
        return True


class Calibration(Protocol):
    """Where calibration samples come from; a `DataSet` is one."""

    def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of fixed, un-augmented training samples, the same on all ranks.

        Each is inputs and labels. Where a model takes more than one tensor, the inputs are a tuple,
        or a mapping from the names of its arguments.
        """


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the contexts of a run get what is not of the model."""

    seed: int = 0
    """Of every random draw."""
    loss_function: LossFunction = F.cross_entropy
    data: Calibration | None = None
    """Gives calibration samples, to the strategies that need them."""
    input_shape: tuple[int, ...] | None = None
    """[C, H, W] of one input."""
    ranks: Ranks = OneProcess()  # noqa: RUF009 - it holds nothing
    """The other processes."""
    anchor: Anchor | None = None
    """The dense weights of the anchor step, to look back at."""
    loss_of_images: LossOfImages | None = None
    """In place of `loss_function`."""

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of training over a batch.

        Raises:
            UsageError: the model gives two heads' logits, and no loss that takes them is known.
        """
        if self.loss_of_images is None:
            if isinstance(logits, tuple) and self.loss_function is F.cross_entropy:
                raise UsageError(
                    "the model gives the logits of two heads: give the Pruner your loss_function, "
                    "which takes them as (logits, distilled)"
                )
            return self.loss_function(logits, labels)
        return self.loss_of_images(images, logits, labels)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the contexts of a run share: the model with its masks, and the sources of the rest."""

    model: nn.Module
    """The plain module."""
    params: Mapping[str, nn.Parameter]
    mask_set: MaskSet
    sources: Sources
    learning: Learning

    def dense(self, name: str) -> Tensor:
        """Dense W of any parameter."""
        if name in self.mask_set.params:
            return self.mask_set.dense(name)
        return self.params[name].detach()

    def set_dense(self, name: str, value: Tensor) -> None:
        """Write dense W of any parameter; masks stay in force."""
        if name in self.mask_set.params:
            self.mask_set.set_dense(name, value)
        else:
            self.params[name].data.copy_(value)

    def anchor_weights(self, who: str) -> Mapping[str, Tensor]:
        """Dense weights of the model at the anchor step; `who` asks for them.

        Raises:
            UsageError: there are none, or they are the model's own tensors.
        """
        anchor = self.sources.anchor
        if anchor is None:
            raise UsageError(
                f"{who} needs the weights of the anchor: give the Pruner "
                "anchor=copy.deepcopy(model.state_dict())"
            )
        weights = anchor() if callable(anchor) else anchor
        for name, param in self.params.items():
            own = {tensor.data_ptr() for tensor in (param, self.dense(name)) if tensor.numel()}
            if name in weights and weights[name].data_ptr() in own:
                raise UsageError(
                    f"anchor: {name} is the model's own tensor, which training changes: give the "
                    "Pruner a copy, as copy.deepcopy(model.state_dict())"
                )
        return weights


@dataclass
class StepContext:
    """The `Context` of one strategy or probe at one moment: what it has read stays as it was."""

    around: Surroundings
    label: str
    names: tuple[str, ...]
    clock: Clock
    index: int

    @property
    def model(self) -> nn.Module:
        """The plain module."""
        return self.around.model

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Dense W of the scope."""
        return {name: self.around.dense(name) for name in sorted(self.names)}

    @cached_property
    def grads(self) -> Mapping[str, Tensor]:
        """dL/d(W*M) of the scope; zeros where nothing flowed."""
        params = ((name, self.around.params[name]) for name in sorted(self.names))
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params}

    @cached_property
    def masks(self) -> Masks:
        """The masks of the scope; parameters that no strategy masks have none."""
        mask_set = self.around.mask_set
        return {n: mask_set.mask(n) for n in sorted(self.names) if n in mask_set.params}

    def optimizer_state(self, name: str) -> Mapping[str, Tensor]:
        """What the attached optimizers hold of a parameter now."""
        if name not in self.around.params:
            raise PluginError(f"{self.label}: optimizer_state: the model has no {name!r}")
        return held_state(self.around.params[name], self.around.mask_set.optimizers)

    @cached_property
    def factors(self) -> Mapping[str, Tensor]:
        """What the weights of the scope are multiplied by."""
        mask_set = self.around.mask_set
        return {n: mask_set.factor(n) for n in sorted(self.names) if n in mask_set.params}

    @cached_property
    def anchor(self) -> Mapping[str, Tensor]:
        """Dense weights at the anchor step; a run reads them from its checkpoint."""
        return self.around.anchor_weights(self.label)

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator of (seed, step, strategy), fresh in each context; draws go on within it."""
        place = seed_for(self.around.sources.seed, "strategy", self.index, self.clock.step)
        return torch.Generator().manual_seed(place)

    @property
    def lr_scale(self) -> float:
        """The highest `lr_scale_of` of the scope."""
        return max(map(self.lr_scale_of, self.names), default=1.0)

    def lr_scale_of(self, name: str) -> float:
        """Learning rate of a parameter now over its highest, in [0, 1]."""
        return self.around.learning.scale_of(name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[C, H, W]."""
        if self.around.sources.input_shape is None:
            raise UsageError(f"{self.label} needs input_shape: give it to the Pruner")
        return self.around.sources.input_shape

    def calibration(self, samples: int, balanced: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration batches."""
        if self.around.sources.data is None:
            raise UsageError(f"{self.label} needs calibration data: give it to the Pruner")
        return self.around.sources.data.calibration(samples, balanced)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The training loss; flash attention has no second derivative, so attention is math."""
        with sdpa_kernel(SDPBackend.MATH):
            return self.loss_of(called_with(self.around.model, x), x, y)

    def loss_of(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The training loss of logits that are given."""
        return self.around.sources.loss(x, logits, y)

    def mean_over_ranks(self, x: Tensor) -> Tensor:
        """Mean over the ranks."""
        return self.around.sources.ranks.mean(x)
