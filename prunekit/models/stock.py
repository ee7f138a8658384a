"""What torchvision's and timm's models have in common: variants, first layer, fit to the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunekit.errors import RecipeError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry.configs import DataSpec


def variant_of(name: str, known: Iterable[str], source: str) -> str:
    """The part of `source:variant` behind the colon.

    Raises:
        RecipeError: no such variant; says what is near.
    """
    known, variant = list(known), name.partition(":")[2]
    if variant not in known:
        raise RecipeError(
            f"model.name: {source} has no image classifier {variant!r}."
            f"{did_you_mean(variant, known)} See {source}'s list of {len(known)} models"
        )
    return variant


def check_patches(name: str, patch: tuple[int, int], spec: DataSpec) -> None:
    """Refuse an image that the patches of a stock model do not tile.

    Raises:
        RecipeError: names the nearest sizes that fit.
    """
    if spec.height % patch[0] or spec.width % patch[1]:
        step = math.lcm(*patch)
        below = spec.height // step * step
        near = " or ".join(str(size) for size in (below, below + step) if size)
        raise RecipeError(
            f"model.name: {name} cuts images into patches of {patch[0]}x{patch[1]} pixels, which "
            f"do not tile {spec.height}x{spec.width}: set data.image_size to {near}"
        )


def check_fits(model: nn.Module, name: str, spec: DataSpec) -> None:
    """Send shapes without data through a model.

    Raises:
        RecipeError: the model cannot take such images, or does not give one logit a class.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    shapes = {key: tensor.detach().to("meta") for key, tensor in tensors.items()}
    images = torch.zeros(2, spec.channels, spec.height, spec.width, device="meta")
    size = f"{spec.channels}x{spec.height}x{spec.width}"
    mode = model.training
    try:
        logits = functional_call(model.eval(), shapes, (images,))
    except NotImplementedError:  # an operation without shapes only: nothing is known
        return
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"model.name: {name} cannot take images of {size}: {reason}; set another "
            "data.image_size"
        ) from error
    finally:
        model.train(mode)
    if not isinstance(logits, Tensor) or logits.shape != (2, spec.classes):
        raise RecipeError(
            f"model.name: {name} does not give {spec.classes} logits for an image of {size}: use "
            "another model"
        )


def adapt_channels(model: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution of a model made for three channels.

    Raises:
        RecipeError: the first convolution takes another number of channels.
    """
    if channels == 3:
        return
    found = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if found is None or found[1].in_channels != 3 or found[1].groups != 1:
        raise RecipeError(
            f"model.name: {name} takes images of 3 channels, the data has {channels}, and it is "
            "not clear which layer to replace: use another model"
        )
    path, old = found
    owner, _, attribute = path.rpartition(".")
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    setattr(model.get_submodule(owner), attribute, new)


def copy_all_but_classifier(
    model: nn.Module, weights: Mapping[str, Tensor], stock_classes: int
) -> None:
    """Load stock weights; a tensor with one row a class stays as it is where the classes differ.

    Weights that the model has no place for (auxiliary classifiers) are left out.

    Raises:
        RecipeError: another tensor is missing or has another shape; nothing is loaded.
    """
    own = dict(model.state_dict())
    for name, tensor in own.items():
        stock = weights.get(name)
        if stock is not None and stock.shape == tensor.shape:
            own[name] = stock
        elif stock is None or stock.shape != (stock_classes, *tensor.shape[1:]):
            raise RecipeError(f"model.init: the stock weights do not fit at {name}: use null")
    model.load_state_dict(own)
