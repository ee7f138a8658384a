"""What torchvision's and timm's models have in common: variants, first layer, fit to the data."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from prunekit.errors import DataError, RecipeError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.warn import LOG
from prunekit.models.fit import Stem, check_fits, reason_of, untiled
from prunekit.models.start_weights import PRETRAINED, head_starts_fresh, tell_of_timm
from prunekit.models.stock_kwargs import DATA, IMAGE_SIZE, Kwargs, check_kwargs
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
    own, fresh = model.state_dict(), []  # with the versions of its modules, which some ask for
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
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of its class, such as `{stochastic_depth_prob: 0.1}`."""

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
            settings["image_size"] = spec.height
        if variant in ("googlenet", "inception_v3"):
            settings |= {"aux_logits": False, "init_weights": True}
        own = {**dict.fromkeys(settings, "leave it out"), "num_classes": DATA}
        own |= {"image_size": IMAGE_SIZE}
        check_kwargs(self.kwargs, own, models.get_model, variant, self.name)
        try:
            model: nn.Module = models.get_model(variant, weights=None, **settings, **self.kwargs)
        except AssertionError as error:  # a size that the patches do not tile
            raise untiled(self.name, _patch_of(variant), spec) from error
        except (TypeError, ValueError, RuntimeError) as error:
            if not self.kwargs:
                raise
            raise RecipeError(
                f"model.kwargs: {self.name} cannot be built with them: {reason_of(error)}"
            ) from error
        if self.init == PRETRAINED:
            _load_stock_weights(model, variant, spec)
        adapt_channels(model, self.name, spec.channels)
        check_fits(model, self.name, spec)
        return model


def _patch_of(variant: str) -> tuple[int, int]:
    """The patches of a model of torchvision at the size that it was published for."""
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(variant, weights=None)
    side = models.get_model_weights(variant).DEFAULT.meta["min_size"][0]
    stem = Stem(side, side)
    stem.pass_through(model, (3, side, side))
    return stem.patch


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
    kwargs: Kwargs = Field(default_factory=dict)
    """Keyword arguments of its class, such as `{drop_path_rate: 0.1}`."""

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
        own = {"num_classes": DATA, "in_chans": DATA, "img_size": IMAGE_SIZE}
        own |= {
            "features_only": "a classifier is trained",
            "out_indices": "a classifier is trained",
        }
        check_kwargs(self.kwargs, own, timm.create_model, variant, self.name)
        stock = timm.get_pretrained_cfg(variant)
        model = self._fitting(variant, spec, stock is not None and stock.fixed_input_size)
        if self.init == PRETRAINED and stock is not None:
            tell_of_timm(stock.num_classes, stock.input_size[0], spec)
        return model

    def _fitting(self, variant: str, spec: DataSpec, one_size: bool) -> nn.Module:
        """A model that takes such images, whether it says that it has one size or not."""
        if one_size:
            return self._create(variant, spec, sized=True)
        try:
            return self._create(variant, spec, sized=False)
        except RecipeError:
            # some are made for one size and do not say so; others do not know the argument
            with suppress(RecipeError):
                return self._create(variant, spec, sized=True)
            raise

    def _create(self, variant: str, spec: DataSpec, *, sized: bool) -> nn.Module:
        """A model that takes such images, made for their size where `sized`."""
        import timm

        settings: dict[str, Any] = {"num_classes": spec.classes, "in_chans": spec.channels}
        if sized:
            settings["img_size"] = (spec.height, spec.width)
        try:
            model: nn.Module = timm.create_model(
                variant, pretrained=self.init == PRETRAINED, **settings, **self.kwargs
            )
        except OSError as error:
            raise DataError(
                f"model.init: the weights of {variant} could not be downloaded ({error}): check "
                "the network, or use model.init: null"
            ) from error
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise RecipeError(
                f"model.name: timm cannot build {variant} for {spec.height}x{spec.width} pixels: "
                f"{reason_of(error)}; set another data.image_size"
                f"{' or other model.kwargs' if self.kwargs else ''}"
            ) from error
        check_fits(model, self.name, spec, one_size=sized)
        return model
