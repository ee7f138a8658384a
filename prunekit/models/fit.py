"""Whether a stock model takes the images of the data, and looks at all of each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunekit.errors import RecipeError
from prunekit.foundation.modules import copy_on
from prunekit.foundation.warn import warn_once
from prunekit.registry.configs import DataSpec


def check_fits(model: nn.Module, name: str, spec: DataSpec, *, one_size: bool = False) -> None:
    """Send shapes without data through a model.

    Args:
        model: on any device.
        name: as the recipe has it.
        spec: of the data.
        one_size: whether the model is built for one size of images, so that one that its patches do
            not tile is a mistake; others are only warned of.

    Raises:
        RecipeError: the model cannot take such images, cuts their edge off, or does not give one
            logit a class.
    """
    size = f"{spec.channels}x{spec.height}x{spec.width}"
    mode, stem = model.training, Stem(spec.height, spec.width)
    try:
        logits = stem.pass_through(model.eval(), spec.input_shape)
    except NotImplementedError:  # an operation without shapes only: nothing is known
        return
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        if one_size and stem.lost:
            raise untiled(name, stem.patch, spec) from error
        raise RecipeError(
            f"model.name: {name} cannot take images of {size}: {reason_of(error)}; set another "
            "data.image_size"
        ) from error
    finally:
        model.train(mode)
    if not isinstance(logits, Tensor) or logits.shape != (2, spec.classes):
        raise RecipeError(
            f"model.name: {name} does not give {spec.classes} logits for an image of {size}: use "
            "another model"
        )
    if stem.lost and one_size:
        raise untiled(name, stem.patch, spec)
    if stem.lost:
        rows, columns = stem.lost
        warn_once(
            f"model.name: {name} never looks at the last {rows} rows and {columns} columns of "
            f"images of {size}: a multiple of {math.lcm(*stem.patch)} pixels is looked at whole"
        )


def untiled(name: str, patch: tuple[int, int], spec: DataSpec) -> RecipeError:
    """The error for an image that the patches of a model do not tile; names sizes that fit."""
    step = math.lcm(*patch)
    below = spec.height // step * step
    near = " or ".join(str(size) for size in (below, below + step) if size)
    return RecipeError(
        f"model.name: {name} cuts images into patches of {patch[0]}x{patch[1]} pixels, which do "
        f"not tile {spec.height}x{spec.width}: set data.image_size to {near}"
    )


def reason_of(error: Exception) -> str:
    """What an error says in one line; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class Stem(TorchFunctionMode):
    """Watch how a model cuts an image into patches: by a convolution on it without overlap.

    Args:
        height: of the image.
        width: of the image.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width
        self.patch = (1, 1)
        """Height and width of a patch; 1 where the image is not cut so."""

    @property
    def lost(self) -> tuple[int, int] | None:
        """Rows and columns at the end that are in no patch; None where all are in one."""
        rows, columns = (side % step for side, step in zip(self.size, self.patch, strict=True))
        return (rows, columns) if rows or columns else None

    def pass_through(self, model: nn.Module, input_shape: Sequence[int]) -> Any:
        """What a model gives for two images, on the meta device; it is not changed."""
        there = copy_on(model, "meta")
        self.images = torch.zeros(2, *input_shape, device="meta")
        with self:
            return there(self.images)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.conv2d and args[0] is self.images:
            given = CONVOLUTION.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            kernel = tuple(given.arguments["weight"].shape[2:])
            stride, padding, dilation = (
                _pair(given.arguments[key]) for key in ("stride", "padding", "dilation")
            )
            if stride == kernel and padding == (0, 0) and dilation == (1, 1):
                self.patch = kernel
        return func(*args, **(kwargs or {}))


def _convolution(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> None: ...  # fmt: skip


CONVOLUTION = inspect.signature(_convolution)
"""Of `F.conv2d`, which has none that can be read."""


def _pair(value: Any) -> tuple[Any, Any]:
    return (value, value) if isinstance(value, int | str) else tuple(value)
