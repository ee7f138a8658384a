"""Image classifiers of Transformers, made from a config."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.models.fit import check_fits, reason_of
from prunekit.models.start_weights import OwnInit
from prunekit.registry.configs import DataSpec, ModelConfig

OF_THE_DATA = {
    "image_size": "data.image_size",
    "num_channels": "the data",
    "num_labels": "the data",
    "id2label": "the data",
    "label2id": "the data",
}
"""Keys of its config that the data decides, and where they come from."""

OF_TIMM = "TimmWrapperForImageClassification"
"""Its config can name any file or folder of a hub, and model files from elsewhere hold configs."""


def with_lists(tree: Any) -> Any:
    """Each tuple turned into a list, at every depth: what JSON has."""
    if isinstance(tree, dict):
        return {key: with_lists(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [with_lists(item) for item in tree]
    return tree


class TransformersConfig(ModelConfig):
    """A classifier of Transformers, sized to the data: `transformers:ViTForImageClassification`.

    Made from its config, with fresh weights; nothing is downloaded. Needs the extra `integrations`.
    """

    name: str = Field(pattern=r"^transformers:[A-Za-z0-9]+$")
    """`transformers:` and one of its classes, `...ForImageClassification`."""
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors or .pth file of a `state_dict`."""
    config: Annotated[dict[str, JsonValue], BeforeValidator(with_lists)] = Field(
        default={}, examples=[{"hidden_size": 192, "num_hidden_layers": 4}]
    )
    """Keys of the class's config; others have its defaults."""

    def build(self, spec: DataSpec) -> nn.Module:
        """The model, which gives logits for images.

        Raises:
            RecipeError: Transformers is not installed, no such class, a key that its config does
                not have, or images that the model cannot take.
        """
        if importlib.util.find_spec("transformers") is None:
            raise RecipeError(
                f"model.name: {self.name} needs transformers, which is not installed: "
                "pip install 'prunekit[integrations]'"
            )
        kind = _class_of(self.name)
        settings = _checked(self.config, kind.config_class)
        settings |= {"num_channels": spec.channels, "num_labels": spec.classes}
        if "image_size" in _keys(kind.config_class):
            square = spec.height == spec.width
            settings["image_size"] = spec.height if square else [spec.height, spec.width]
        try:
            model: nn.Module = _giving_logits(kind)(kind.config_class(**settings))
        except Exception as error:  # whatever a third-party class does
            raise RecipeError(
                f"model.config: transformers cannot build {kind.__name__} for {spec.height}x"
                f"{spec.width} pixels: {reason_of(error)}"
            ) from error
        check_fits(model, self.name, spec, one_size="image_size" in settings)
        return model


def _class_of(name: str) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as FOUND,
    )

    known = sorted(
        {one for names in FOUND.values() for one in ([names] if isinstance(names, str) else names)}
    )
    variant = name.partition(":")[2]
    if variant == OF_TIMM:
        raise RecipeError(f"model.name: {variant} only holds a model of timm: write timm:NAME")
    if variant not in known:
        raise RecipeError(
            f"model.name: transformers has no image classifier {variant!r}."
            f"{did_you_mean(variant, known)}"
        )
    return getattr(transformers, variant)


def _keys(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config) if not field.name.startswith("_")]


def _checked(given: Mapping[str, JsonValue], config: Any) -> dict[str, Any]:
    for key in given:
        if key in OF_THE_DATA:
            raise RecipeError(f"model.config.{key}: comes from {OF_THE_DATA[key]}: leave it out")
        if key not in (known := _keys(config)):
            raise RecipeError(
                f"model.config: {config.__name__} has no key {key!r}.{did_you_mean(key, known)}"
            )
    return dict(given)


@cache
def _giving_logits(kind: Any) -> Any:
    """The class, with a forward from images to logits; parameter names stay as they are.

    One for each: models of one config are of one class.
    """

    def forward(self: Any, images: Tensor) -> Tensor:
        logits: Tensor = kind.forward(self, pixel_values=images).logits
        return logits

    space = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), space)
