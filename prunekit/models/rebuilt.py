"""A model built again from what its file tells of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from prunekit.errors import RecipeError
from prunekit.models.bounds import no_larger_than, without_values
from prunekit.models.resized import Sizes, fill_in, resize_model

if TYPE_CHECKING:
    from prunekit.registry.configs import CompressorConfig, ModelConfig

NOT_BUILT = (
    RecipeError, ValueError, LookupError, TypeError, RuntimeError,
    ArithmeticError, AssertionError, AttributeError, MemoryError,
)  # fmt: skip
"""What is raised where no model can be built, such as one with a layer without units."""


def built_with(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The model that a file tells of, with its weights, in evaluation mode.

    Args:
        settings: what the metadata of the file holds.
        weights: its tensors by name.
    """
    if "sizes" in settings:
        sizes = Sizes.model_validate(settings["sizes"])
        sizes.check(weights)
        model = built_as(settings, weights, sizes)
    else:
        with no_larger_than(weights):
            model = built_as(settings)
    _load(model, weights, strict=True)
    return model.eval()


def _load(model: nn.Module, weights: Mapping[str, Tensor], *, strict: bool) -> None:
    """Load what `write_model` wrote; torchvision's MNASNet asks which version that was."""
    versioned = OrderedDict(weights)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=strict)


def built_as(
    built: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    sizes: Sizes | None = None,
) -> nn.Module:
    """The model of some settings, on the CPU.

    Args:
        built: as in the metadata of a model file.
        weights: those that `sizes` were told of; None = the model begins as it is built.
        sizes: what is left of a model that lost units.
    """
    from prunekit.models.placing import attach_all
    from prunekit.registry import COMPRESSORS, MODELS
    from prunekit.registry.configs import DataSpec

    # as of before all formats: every key that there was is written out in the file
    # start weights would only be overwritten, and may be gone
    config = cast("ModelConfig", MODELS.parse({**built["model"], "init": None}, as_of=0))
    spec = DataSpec(**built["data"])
    with torch.random.fork_rng(devices=[]):
        # its tensors are the bound of its size, which building it on `meta` first would not know
        if sizes is None or weights is None:
            model = config.build(spec)
        else:
            with without_values(weights):
                model = config.build(spec)
            resize_model(model, sizes)
            fill_in(model, weights)
            _load(model, weights, strict=False)  # a compressor is tried on the model
    for value in built.get("compressors", ()):
        entry = cast("CompressorConfig", COMPRESSORS.parse(value, as_of=0))
        attach_all(model, entry, spec.input_shape)
    return model
