"""A plain `nn.Module` of a user's own as a model: its signature is its settings."""

from __future__ import annotations

import inspect
from typing import Any, Self

import torch
from torch import Tensor, nn

from prunekit.errors import PluginError, PrunekitError, RecipeError
from prunekit.registry.configs import DataSpec, ModelConfig
from prunekit.registry.signature import (
    SignatureConfig,
    gives,
    place_of,
    settings_from,
    told_with_line,
)

CLASSES = ("num_classes",)
CHANNELS = ("in_channels", "in_chans")
SIZE = ("image_size", "img_size")
"""Parameters that the data fills in."""


class OwnModelConfig(SignatureConfig, ModelConfig):
    """The settings of a plain `nn.Module`, or of a function that says it gives one."""

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Whether a class or function of a file is a model."""
        return _is_module(gives(value) if inspect.isfunction(value) else value)

    @classmethod
    def is_meant(cls, value: Any, part: bool) -> bool:
        """Whether it is a network, and not a block of one: no other of its file uses it."""
        return not part

    @classmethod
    def of(cls, value: Any, name: str) -> type[Self]:
        """The settings of one.

        Raises:
            PluginError: its signature cannot be settings.
        """
        if getattr(value, "__init__", None) is nn.Module.__init__:  # takes nothing
            return settings_from(value, cls, name, bare=True)
        return settings_from(value, cls, name, (*CLASSES, *CHANNELS, *SIZE))

    def build(self, spec: DataSpec) -> nn.Module:
        """The module, tried on two blank images.

        Raises:
            RecipeError: it cannot be made with these settings, or does not take the images.
            PluginError: what is made is no module.
        """
        given = self._given(spec)
        try:
            model = self.signature.call(self, given)
        except PrunekitError:
            raise
        except Exception as error:
            raise RecipeError(
                f"model.name: {self.name} cannot be made: {told_with_line(error)}"
            ) from error
        if not isinstance(model, nn.Module):
            raise PluginError(
                f"{place_of(self.signature.made_by)}: gives a {type(model).__name__}, where a "
                "model is an nn.Module"
            )
        # without values it is about to be made smaller and filled from a file, which is tried there
        if not any(parameter.is_meta for parameter in model.parameters()):
            _check_logits(model, self.name, spec)
        return model

    def _given(self, spec: DataSpec) -> dict[str, Any]:
        square = spec.height == spec.width
        given: dict[str, Any] = dict.fromkeys(CLASSES, spec.classes)
        given |= dict.fromkeys(CHANNELS, spec.channels)
        for key in SIZE:
            asked = self.signature.parameters.get(key)
            if asked is not None and not square and asked.annotation in (int, "int"):
                raise RecipeError(
                    f"model.name: {self.name} takes one {key}, and the images are of "
                    f"{spec.height}x{spec.width} pixels: set data.image_size to make them square"
                )
            given[key] = spec.height if square else (spec.height, spec.width)
        return given


def _is_module(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _check_logits(model: nn.Module, name: str, spec: DataSpec) -> None:
    """Send two blank images through a model.

    Not through a copy on the meta device as stock models: code of a user's own may look at values,
    and lazy layers find their sizes here.

    Raises:
        RecipeError: it does not take them, or does not give one logit a class.
    """
    size = "x".join(map(str, spec.input_shape))
    mode = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = model.eval()(torch.zeros(2, *spec.input_shape))
    except Exception as error:
        raise RecipeError(
            f"model.name: {name} cannot take images of {size}: {told_with_line(error)}"
        ) from error
    finally:
        model.train(mode)
    if isinstance(logits, Tensor) and logits.shape == (2, spec.classes):
        return
    got = f"[{', '.join(map(str, logits.shape))}]" if isinstance(logits, Tensor) else None
    remedy = "" if got is None or len(logits.shape) != 2 else ": a parameter num_classes has them"
    raise RecipeError(
        f"model.name: {name} gives {got or f'a {type(logits).__name__}'} for two images of {size}, "
        f"where the logits of {spec.classes} classes are [2, {spec.classes}]{remedy}"
    )
