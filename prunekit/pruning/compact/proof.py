"""Whether a smaller model computes what the masked one does, in float64."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor
from prunekit.errors import ExportError, UsageError
from prunekit.foundation.devices import has_float64
from prunekit.foundation.modules import copy_on, plain_attention
from prunekit.pruning.compact.surgery import masked_copy
from prunekit.pruning.compact.values import Proof

IMAGES, AT_ONCE = 64, 16
"""How many images the two models are compared on, and how many go through at once."""
TOLERANCE = 1e-9
"""Of the largest logit."""


class MaskedReference:
    """The masked model in float64, and what it gives.

    Args:
        model: the plain module.
        masks: parameter -> bool, True = kept; by first names.
        images: [N, C, H, W], normalised; the first 64 count.
        outputs: weights whose rows are outputs of the model.

    Raises:
        UsageError: the model does not take the images.
        ExportError: it does not run in float64, or gives what is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        images: Tensor,
        outputs: Collection[str],
    ) -> None:
        self.model = _in_float64(model, masks)
        like = next(self.model.parameters(), torch.zeros(()))
        self.images = images[:IMAGES].to(like.device).to(torch.float64)
        self.tokens = any(isinstance(module, DataCompressor) for module in model.modules())
        self._drawn: dict[str, Tensor] = {}
        try:
            self.logits = logits_of(self.model, self.images)
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception as error:  # whatever a model says to what it cannot take
            raise ExportError(
                "compact: the model does not run in float64 on images of "
                f"{tuple(images.shape[1:])}, so nothing can be proved: {_first_line(error)}"
            ) from error
        if not bool(self.logits.isfinite().all()):
            raise ExportError("compact: the logits of the model are not finite: nothing is proved")
        if not bool(self.logits.abs().max()):  # a head of zeros hides what is before it
            self._drawn = _random_rows(self.model, outputs)
            self.logits = self._logits(self.model)

    def _logits(self, model: nn.Module) -> Tensor:
        named = dict(model.named_parameters())
        for name, values in self._drawn.items():
            if named[name].shape == values.shape:
                named[name].data = values.clone()
            else:
                named[name].data = values[:, : named[name].shape[1]].clone()
        return logits_of(model, self.images)

    def compare(self, model: nn.Module) -> tuple[Proof, bool]:
        """How far a smaller model is from the masked one, and whether that is within rounding.

        With tokens that are merged by their likeness, one image may take another path where two
        likenesses are equal but for the last bit.

        Args:
            model: the smaller one, in any precision; it is not changed.

        Raises:
            Exception: whatever it says to the images.
        """
        found = self._logits(_in_float64(model, {}))
        if found.shape != self.logits.shape:
            raise RuntimeError(f"gives {tuple(found.shape)}, not {tuple(self.logits.shape)}")
        largest = float(self.logits.abs().max()) or 1.0
        each = (found - self.logits).abs().flatten(1).amax(1) / largest
        far = int((~(each <= TOLERANCE)).sum())
        proof = Proof(len(each), float(each.max()))
        return proof, far <= int(self.tokens)


def _in_float64(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A masked copy in evaluation mode: on the model's device where that has float64."""
    like = next(model.parameters(), torch.zeros(()))
    if not has_float64(like.device):
        model, masks = copy_on(model, "cpu"), {name: mask.cpu() for name, mask in masks.items()}
    return masked_copy(model, masks, torch.float64).eval()


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a model gives for images, some at a time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), plain_attention():
        found = [model(images[at : at + AT_ONCE]) for at in range(0, len(images), AT_ONCE)]
    if not all(isinstance(one, Tensor) for one in found):
        raise UsageError("it gives no tensor of logits")
    return torch.cat(found)


def random_images(shape: tuple[int, ...]) -> Tensor:
    """Images [64, *shape] from N(0, 1), the same each time."""
    return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))


def _random_rows(model: nn.Module, outputs: Collection[str]) -> dict[str, Tensor]:
    named, generator = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            named[name].shape, generator=generator, dtype=torch.float64
        ).to(named[name].device)
        for name in outputs
    }  # fmt: skip


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
