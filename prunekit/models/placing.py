"""One entry of a recipe in all blocks of a model: slot `blocks.*`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from prunekit.errors import RecipeError
from prunekit.models.slots import attach, slots
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import EVERY_BLOCK, CompressorConfig


def attach_all(
    model: nn.Module, config: CompressorConfig, input_shape: Sequence[int] | None = None
) -> None:
    """Put the compressor of a recipe's entry into its slot, or one into each block.

    Args:
        model: see `attach`.
        config: of the entry.
        input_shape: [C, H, W] of the images.

    Raises:
        RecipeError: see `attach`.
    """
    for one in in_each_block(model, config):
        attach(model, one.slot, COMPRESSORS.create(one), input_shape)


def in_each_block(model: nn.Module, config: CompressorConfig) -> Iterator[CompressorConfig]:
    """The settings of each compressor that an entry stands for."""
    if config.slot != EVERY_BLOCK:
        yield config
        return
    blocks = [slot for slot in slots(model) if slot.startswith("blocks.")]
    if not blocks:
        raise RecipeError(f"slot: {type(model).__name__} has no slots blocks.N: name another one")
    for index, slot in enumerate(blocks):
        yield config.in_block(slot, index, len(blocks))
