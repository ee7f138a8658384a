"""Multiply-adds of one image, without running the model: on the meta device, where it can be.

Three numbers that are often mistaken for one another:

- dense: the model without compressor and without masks;
- executed: with the compressor; a masked weight costs as much as a kept one, as stock kernels
  multiply zeros. This is what runs;
- theoretical: as executed, less the multiply-adds by zeros of pruned weights, as a layer uses them:
  it may compute another weight of them first. What a perfect sparse kernel would do.

Matrix products, convolutions and attention count; biases, norms and activations do not. One
multiply-add is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from prunekit.compressors.base import DataCompressor, pass_all
from prunekit.errors import RecipeError
from prunekit.foundation.modules import plain_attention
from prunekit.foundation.operands import Trace, zero_macs
from prunekit.models.dry_pass import blank, on_a_copy, unseen


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-adds of the forward pass of one image."""

    dense: int
    executed: int
    theoretical: int


def count_macs(
    model: nn.Module,
    input_shape: Sequence[int],
    masks: Mapping[str, Tensor] | None = None,
    *,
    training: bool = False,
    dense: int | None = None,
) -> Macs:
    """Count the multiply-adds of one image, whatever the model's device; the model is not changed.

    Args:
        model: the plain module, with its compressors attached.
        input_shape: [C, H, W].
        masks: parameter name -> bool, True = kept.
        training: whether tokens are dropped and merged as in training or as in evaluation.
        dense: multiply-adds of the dense model where they are known, which then are not counted.
    """
    pruned = {name: ~mask for name, mask in (masks or {}).items() if not bool(mask.all())}
    executed, saved = _forward(model, input_shape, pruned, training, compress=True)
    if dense is None:
        dense = executed
        if any(isinstance(module, DataCompressor) for module in model.modules()):
            dense, _ = _forward(model, input_shape, {}, training, compress=False)
    return Macs(dense, executed, executed - saved)


def train_flops(macs: Macs, images: int, once: int = 0) -> int:
    """FLOPs of training on `images`: forward once, backward twice as much, two per multiply-add.

    Counts what is executed; optimizer, evaluation and mask updates are left out.

    Args:
        macs: of one image.
        images: that went forward and backward, each as often as it did.
        once: multiply-adds of an image that are only run forward, as those of a teacher.
    """
    return 2 * (3 * macs.executed + once) * images


def _forward(
    model: nn.Module,
    input_shape: Sequence[int],
    pruned: Mapping[str, Tensor],
    training: bool,
    *,
    compress: bool,
) -> tuple[int, int]:
    """Multiply-adds of a forward pass of one image, and those by zeros of pruned tensors."""

    def counted(own: nn.Module) -> tuple[int, int]:
        return _count(own, blank(own, input_shape, 1), pruned, compress)

    if training:
        try:  # stock models drop patches too, each in its own way
            return on_a_copy(model, lambda own: counted(_training(own, nn.Module)))
        except RecipeError:
            raise
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception:  # what cannot train on one image of zeros
            return on_a_copy(model, lambda own: counted(_training(own, DataCompressor)))
    return on_a_copy(model, lambda own: counted(own.eval()))


def _training(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Put the modules of a kind into training mode: no BatchNorm, which refuses a single value."""
    for module in model.eval().modules():
        module.training = isinstance(module, kind) and not isinstance(module, _BatchNorm)
    return model


class _ValuesNeededError(Exception):
    """A layer computes its weight: how many zeros that has is not seen on the meta device."""


def _count(
    model: nn.Module, image: Tensor, pruned: Mapping[str, Tensor], compress: bool
) -> tuple[int, int]:
    if not compress:
        pass_all(model)
    if not image.is_meta:
        named = dict(model.named_parameters(remove_duplicate=False))
        for name, entries in pruned.items():
            named[name].data.masked_fill_(entries.cpu(), 0)
    watch = Trace(model, pruned, image, values=not image.is_meta)
    flops = FlopCounterMode(display=False)
    with unseen(), plain_attention(), flops, watch:
        model(image)
    saved = zero_macs(watch.operands)
    if saved is None:
        raise _ValuesNeededError
    return flops.get_total_flops() // 2, saved
