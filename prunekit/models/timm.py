"""Any image classifier of timm."""

from __future__ import annotations

import importlib.util
from typing import Any

from pydantic import Field
from torch import nn

from prunekit.errors import DataError, RecipeError
from prunekit.models.init import PRETRAINED
from prunekit.models.stock import check_fits, check_patches, variant_of
from prunekit.registry.configs import DataSpec, ModelConfig


class TimmConfig(ModelConfig):
    """A classifier of timm, sized to the data: `timm:vit_tiny_patch16_224`.

    A model made for one image size gets that of the data. Needs the extra `timm`.
    """

    name: str = Field(pattern=r"^timm:[A-Za-z0-9_.]+$")
    """`timm:` and a name of `timm.list_models()`, with or without the tag of its weights."""

    def build(self, spec: DataSpec) -> nn.Module:
        """The model, with stock weights where `init` is `pretrained`.

        Raises:
            RecipeError: timm is not installed, no such model, or it cannot take such images.
            DataError: the stock weights cannot be downloaded.
        """
        if importlib.util.find_spec("timm") is None:
            raise RecipeError(
                f"model.name: {self.name} needs timm, which is not installed: "
                "pip install 'prunekit[timm]'"
            )
        import timm

        variant = variant_of(self.name, timm.list_models() + timm.list_pretrained(), "timm")
        if self.init == PRETRAINED and not timm.is_model_pretrained(variant):
            raise RecipeError(f"model.init: timm has no weights for {variant}: use null")
        settings: dict[str, Any] = {"num_classes": spec.classes, "in_chans": spec.channels}
        stock = timm.get_pretrained_cfg(variant)
        if stock is not None and stock.fixed_input_size:
            settings["img_size"] = (spec.height, spec.width)
        model = self._create(variant, settings)
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        if patch is not None:  # timm would cut off the rest of the image
            check_patches(self.name, patch, spec)
        check_fits(model, self.name, spec)
        return model

    def _create(self, variant: str, settings: dict[str, Any]) -> nn.Module:
        import timm

        try:
            model: nn.Module = timm.create_model(
                variant, pretrained=self.init == PRETRAINED, **settings
            )
        except OSError as error:
            raise DataError(
                f"model.init: the weights of {variant} could not be downloaded ({error}): check "
                "the network, or use model.init: null"
            ) from error
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise RecipeError(
                f"model.name: timm cannot build {variant} for this data: {error}"
            ) from error
        return model
