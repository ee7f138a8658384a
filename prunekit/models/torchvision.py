"""Any image classifier of torchvision."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import nn

from prunekit.errors import DataError, RecipeError
from prunekit.models.init import PRETRAINED
from prunekit.models.stock import (
    adapt_channels,
    check_fits,
    check_patches,
    copy_all_but_classifier,
    variant_of,
)
from prunekit.registry.configs import DataSpec, ModelConfig


class TorchvisionConfig(ModelConfig):
    """A classifier of torchvision, sized to the data: `torchvision:resnet18`.

    A vision transformer gets the image size of the data. Auxiliary classifiers are left out.
    """

    name: str = Field(pattern=r"^torchvision:[a-z0-9_]+$")
    """`torchvision:` and a name of `torchvision.models`."""

    def build(self, spec: DataSpec) -> nn.Module:
        """The model, with stock weights where `init` is `pretrained`.

        Raises:
            RecipeError: no such model, or it cannot take such images.
            DataError: the stock weights cannot be downloaded.
        """
        from torchvision import models

        variant = variant_of(self.name, models.list_models(module=models), "torchvision")
        settings: dict[str, Any] = {"num_classes": spec.classes}
        if variant.startswith("vit_"):
            if spec.height != spec.width:
                raise RecipeError(
                    f"model.name: {self.name} takes square images, not {spec.height}x{spec.width}"
                )
            patch = int(variant.rpartition("_")[2])
            check_patches(self.name, (patch, patch), spec)
            settings["image_size"] = spec.height
        if variant in ("googlenet", "inception_v3"):
            settings |= {"aux_logits": False, "init_weights": True}
        model: nn.Module = models.get_model(variant, weights=None, **settings)
        if self.init == PRETRAINED:
            _load_stock_weights(model, variant, spec)
        adapt_channels(model, self.name, spec.channels)
        check_fits(model, self.name, spec)
        return model


def _load_stock_weights(model: nn.Module, variant: str, spec: DataSpec) -> None:
    from torchvision import models

    if spec.channels != 3:
        raise RecipeError(
            f"model.init: the stock weights of {variant} are for 3 channels, the data has "
            f"{spec.channels}: use model.init: null"
        )
    stock = models.get_model_weights(variant).DEFAULT
    try:
        weights = models.get_model(variant, weights=stock, progress=False).state_dict()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"model.init: the weights {stock} could not be downloaded from {stock.url} ({error}): "
            "check the network, or use model.init: null"
        ) from error
    if isinstance(model, models.VisionTransformer):
        weights = models.vision_transformer.interpolate_embeddings(
            model.image_size, model.patch_size, weights
        )
    copy_all_but_classifier(model, weights, len(stock.meta["categories"]))
