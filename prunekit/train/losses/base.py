"""What a loss is: one number of a batch, whose targets are classes or shares of them."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import PluginError
from prunekit.registry import LOSSES
from prunekit.registry.configs import DataSpec, LossConfig
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError


@dataclass(frozen=True, slots=True)
class LossBatch:
    """What a loss is computed of."""

    images: Tensor
    """Float [B, C, H, W], as the model was given them: augmented and normalised."""
    logits: Tensor
    """Float32 [B, classes]."""
    targets: Tensor
    """Int64 [B], classes; or float [B, classes], shares of them, as mixed images have."""
    distilled: Tensor | None = None
    """Float32 [B, classes], the logits of a distillation token; None = the model has none."""


@dataclass(frozen=True, slots=True)
class LossSetting:
    """What a loss may have to know of its run."""

    spec: DataSpec
    preprocessing: Preprocessing
    """How images are normalised, and what the classes are called."""
    device: torch.device


class Loss(abc.ABC):
    """Compute the mean loss of a batch.

    No `nn.Module`, and owns no parameter that learns. Only `value` is required. Order over a run:
    `prepare -> value, ... -> release`. `prunekit.testing.check_loss` checks what must hold.
    """

    Config: ClassVar[type[LossConfig]]
    paper: ClassVar[str] = ""
    """Where it comes from: `arXiv:NNNN.NNNNN`."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def prepare(self, model: nn.Module, setting: LossSetting) -> None:  # noqa: B027 - optional hook
        """Read what is needed beside the model, as a teacher; also in a run that is resumed.

        Args:
            model: the plain module on its device, before compile and DDP.
            setting: of the run.

        Raises:
            RecipeError, CheckpointError: it does not fit the run, or is not to be had.
        """

    @abc.abstractmethod
    def value(self, batch: LossBatch) -> Tensor:
        """The mean over the samples, a scalar; micro-batches are weighed by their samples.

        It can be differentiated twice, and draws no random number.
        """

    def extra_macs(self) -> int:
        """Multiply-adds of a sample beside those of the model, as of a teacher's forward pass."""
        return 0

    def identity(self) -> str:
        """What it depends on beside its settings, as the digest of a teacher; told by the manifest.

        A run is resumed only where it is the same, and all ranks must have the same.
        """
        return ""

    def release(self) -> None:  # noqa: B027 - optional hook
        """Take back what was done to the model; after the last step."""

    def state_dict(self) -> dict[str, Any]:
        """What the next values depend on beside the batch: tensors, numbers, strings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional hook
        """Take back what `state_dict` gave."""


def batch_of(images: Tensor, output: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> LossBatch:
    """What a loss is given; a model with a distillation token gives a pair of logits."""
    if isinstance(output, tuple):
        logits, distilled = output
        return LossBatch(images, logits.float(), targets, distilled.float())
    return LossBatch(images, output.float(), targets)


def labels_of(targets: Tensor) -> Tensor:
    """Int64 [B]: the class of each sample, the one with the largest share where it has several."""
    return targets.argmax(-1) if targets.is_floating_point() else targets


def shares_of(targets: Tensor, classes: int) -> Tensor:
    """Float32 [B, classes]: the share of each class."""
    if targets.is_floating_point():
        return targets.float()
    return F.one_hot(targets, classes).float()


def checked_value(loss: Loss, batch: LossBatch) -> Tensor:
    """The loss of a batch.

    Raises:
        PluginError: it is no scalar; whose loss it is and what came.
    """
    found = loss.value(batch)
    if not isinstance(found, Tensor):
        raise PluginError(f"{_origin(loss)}: value gives a {type(found).__name__}, not a tensor")
    if found.ndim or not found.is_floating_point():
        dtype = str(found.dtype).removeprefix("torch.")
        raise PluginError(
            f"{_origin(loss)}: value gives {dtype} {list(found.shape)}, where one number is "
            "wanted: return the mean over the batch"
        )
    if torch.is_grad_enabled() and not found.requires_grad:
        raise PluginError(
            f"{_origin(loss)}: the value does not depend on the logits, so nothing would be learned"
        )
    return found


def _origin(loss: Loss) -> str:
    """The loss with its distribution, or with its class where no one registered it."""
    name, cls = loss.config.name, type(loss)
    try:
        if LOSSES.load(name) is cls:
            return str(LOSSES.component(name))
    except (UnknownNameError, AmbiguousNameError, PluginError):  # this name loads no class
        pass
    return f"loss {name!r} ({cls.__module__}.{cls.__qualname__})"
