"""What torchvision's and timm's models have in common: variants, first layer, fit to the data."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from prunekit.errors import DataError, RecipeError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.warn import LOG
from prunekit.models.start_weights import PRETRAINED, head_starts_fresh, tell_of_timm
from prunekit.registry.configs import DataSpec, ModelConfig


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

    Weights that the model has no place for (auxiliary classifiers) are left out. Both are told.

    Raises:
        RecipeError: another tensor is missing or has another shape; nothing is loaded.
    """
    own, fresh = dict(model.state_dict()), []
    for name, tensor in own.items():
        stock = weights.get(name)
        if stock is not None and stock.shape == tensor.shape:
            own[name] = stock
        elif stock is None or stock.shape != (stock_classes, *tensor.shape[1:]):
            raise RecipeError(f"model.init: the stock weights do not fit at {name}: use null")
        else:
            fresh.append(name)
    model.load_state_dict(own)
    if fresh:
        LOG.warning(head_starts_fresh(", ".join(fresh), stock_classes, len(own[fresh[0]])))
    if left := [name for name in weights if name not in own]:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        LOG.warning(f"model.init: left out of the stock weights: {left[0]}{more}")


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
        if self.init == PRETRAINED and stock is not None:
            tell_of_timm(stock.num_classes, stock.input_size[0], spec)
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
