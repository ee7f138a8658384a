"""A compressor in a slot of a model, or one in each of its blocks: slot `blocks.*`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import nn

from prunekit.compressors.base import DataCompressor
from prunekit.errors import RecipeError
from prunekit.models.slots import put_into, slots
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import EVERY_BLOCK, CompressorConfig


def attach(
    model: nn.Module,
    slot: str,
    compressor: DataCompressor,
    input_shape: Sequence[int] | None = None,
) -> None:
    """Put a compressor into a slot of the model; where that is refused, a stock model is as it was.

    In `blocks.*`, one of its kind into each block, with the settings that it has there and the
    parameters of `compressor`, which itself stays outside.

    Args:
        model: on any device.
        slot: its name.
        compressor: goes into the mode of the model; its settings say this slot from now on.
        input_shape: [C, H, W] of the images; None = those that a stock model is made for.

    Raises:
        RecipeError: no such slot, a taken one, a ratio that leaves no token in train or eval mode,
            proportional attention or something to read that the model cannot give, or a stock model
            whose blocks or head cannot do with merged tokens.
        PluginError: the compressor gave something else than its contract says.
    """
    if slot != EVERY_BLOCK:
        put_into(model, slot, compressor, input_shape)
        return
    config = compressor.config.model_copy(update={"slot": slot})
    _place(model, config, partial(_alike, compressor), input_shape)


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
    _place(model, config, COMPRESSORS.create, input_shape)


def _place(
    model: nn.Module,
    config: CompressorConfig,
    make: Callable[[CompressorConfig], DataCompressor],
    input_shape: Sequence[int] | None,
) -> None:
    """Put what `make` gives into all places of an entry, or into none of a stock model."""
    undo: list[Callable[[], None]] = []
    try:
        for one in in_each_block(model, config):
            undo.append(put_into(model, one.slot, make(one), input_shape))
    except Exception:
        for take_out in reversed(undo):
            take_out()
        raise


def _alike(compressor: DataCompressor, config: CompressorConfig) -> DataCompressor:
    """Another one with these settings and the same parameters."""
    made = type(compressor)(config)
    made.load_state_dict(compressor.state_dict())
    return made


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
