"""Slots: the places of a model that take a compressor, also in stock models.

A model of ours, or of a third party, declares its slots (the protocol `Slotted`). Stock vision
transformers have one already (`stock_slots.py`); that they can do with fewer tokens is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from prunekit.compressors.auxiliary import who_is
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import RecipeError
from prunekit.foundation.modules import training_mode_kept
from prunekit.foundation.returned import counts_returned
from prunekit.models.attention_view import check_reads
from prunekit.models.base import GivesReads, Slotted
from prunekit.models.dry_pass import blank, on_a_copy, unseen, unwatched
from prunekit.models.slot_trial import protected_tokens, tried_passage, try_sizes
from prunekit.models.stock_slots import (
    check_place,
    passage_of,
    put,
    slot_index,
    slot_names,
    stock_gives,
    stock_place,
    usual_shapes,
)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one image, without class token and other protected ones."""

    before: int
    """Patches that the patch embedding gives."""
    after: int
    """Tokens that reach the last block."""
    slots: Mapping[str, tuple[int, int]]
    """Tokens entering and leaving each slot that holds a compressor, in the order of the model."""


@runtime_checkable
class CountsTokens(Protocol):
    """A model that knows its token counts without running."""

    def token_counts(self) -> TokenCounts:
        """The counts in train or eval mode as the model is."""


def slots(model: nn.Module) -> Sequence[str]:
    """The names of the model's slots; empty where it has none."""
    if isinstance(model, Slotted):
        return model.slots
    place = stock_place(model)
    return slot_names(place) if place else ()


def put_into(
    model: nn.Module,
    slot: str,
    compressor: DataCompressor,
    input_shape: Sequence[int] | None = None,
) -> Callable[[], None]:
    """Put a compressor into one slot of the model -> what takes it out of a stock model again.

    See `placing.attach`.
    """
    if slot not in slots(model):
        raise unknown_slot(model, slot)
    check_reads(model, slot, compressor, _given(model, slot))
    if compressor.config.slot != slot:
        compressor.config = compressor.config.model_copy(update={"slot": slot})
    if isinstance(model, Slotted):
        model.attach(slot, compressor)
        _check_ratios(model, input_shape)
        undo = _stays
    else:
        undo = _attach_stock(model, slot, compressor, input_shape)
        try:
            _check_ratios(model, input_shape)
        except Exception:
            undo()
            raise
    for module in model.modules():
        if isinstance(module, DataCompressor):
            module.train(model.training)
    return undo


def _stays() -> None:
    """A model that declares its slots has no way to give a compressor back."""


def _given(model: nn.Module, slot: str) -> frozenset[str]:
    """What a compressor may read in a slot beside tokens and sizes."""
    if isinstance(model, GivesReads):
        return model.gives(slot)
    place = None if isinstance(model, Slotted) else stock_place(model)
    return stock_gives(model, place, slot) if place else frozenset()


def _check_ratios(model: nn.Module, input_shape: Sequence[int] | None) -> None:
    with training_mode_kept(model):
        for training in (False, True):
            for module in model.modules():
                module.training = training
            token_counts(model, input_shape)


def _attach_stock(
    model: nn.Module,
    slot: str,
    compressor: DataCompressor,
    input_shape: Sequence[int] | None,
) -> Callable[[], None]:
    """Attach to a model that passes the trial -> what takes the compressor out again."""
    place, who = stock_place(model), type(model).__name__
    assert place is not None, "put_into() looked"
    passage = passage_of(model)
    if passage is not None and slot_index(slot) in passage.held:
        raise taken_slot(slot)
    shape = input_shape or _usual_shape(model)
    if shape is None:
        raise RecipeError(f"slot: {who}: no image that it takes is known: say its size")
    if passage is None:
        passage = tried_passage(model, place, shape)
    check_place(who, slot, compressor, passage, place.layers)
    if passage.weighs:
        try_sizes(model, compressor, passage.patches)
    return put(model, slot, compressor, passage)


def token_counts(model: nn.Module, input_shape: Sequence[int] | None = None) -> TokenCounts | None:
    """Tokens of one image before and after compression, in train or eval mode as the model is.

    Those that a forward pass shows, made without data on a copy; a model that knows them
    (`CountsTokens`) is asked.

    Args:
        model: on any device; it is not changed.
        input_shape: [C, H, W] of the images; None = those that a stock model is made for.

    Returns:
        None where the model has no slot, or where that is not known: of a third party's model
        without a compressor in it or without `input_shape`.

    Raises:
        RecipeError: a compressor leaves no token.
    """
    if isinstance(model, CountsTokens):
        return model.token_counts()
    if not slots(model):
        return None
    if isinstance(model, Slotted) and not any(
        isinstance(m, DataCompressor) for m in model.modules()
    ):
        return None
    shape = input_shape or _usual_shape(model)
    if shape is None:
        return None
    try:
        return on_a_copy(model, partial(_counted, input_shape=shape))
    except RecipeError:
        raise
    except Exception:  # a third party's that takes something else than images
        return None


def _counted(model: nn.Module, input_shape: Sequence[int]) -> TokenCounts | None:
    """The counts of a pass through `model`, which is changed."""
    passed: dict[str, tuple[int, int]] = {}
    whole: list[tuple[int, int]] = []
    for module in unwatched(model).modules():
        if isinstance(module, DataCompressor):
            module.register_forward_hook(partial(_note_compressor, passed))
    place, passage = stock_place(model), passage_of(model)
    if place is not None:
        protected = passage.protected if passage else protected_tokens(model, place, input_shape)
        if protected is None:
            return None
        place.module.register_forward_hook(partial(_note_slot, whole, protected))
    with unseen():
        model(blank(model, input_shape, 2))
    counts = [*whole, *passed.values()]
    if not counts:
        return None
    return TokenCounts(counts[0][0], counts[-1][1], passed)


def _note_compressor(
    passed: dict[str, tuple[int, int]],
    compressor: nn.Module,
    inputs: tuple[TokenBatch],
    output: TokenBatch,
) -> None:
    assert isinstance(compressor, DataCompressor)
    came, left = (batch.x.shape[1] - batch.protected for batch in (inputs[0], output))
    passed[compressor.config.slot] = (came, left)


def _note_slot(
    whole: list[tuple[int, int]],
    protected: int,
    _: nn.Module,
    inputs: tuple[Tensor],
    output: Tensor,
) -> None:
    whole.append((inputs[0].shape[1] - protected, output.shape[1] - protected))


def _usual_shape(model: nn.Module) -> Sequence[int] | None:
    """The first of the shapes that a stock model may be made for which it takes."""
    for shape in usual_shapes(model):
        try:
            on_a_copy(model, partial(_counted, input_shape=shape))
        except RecipeError:  # of a compressor: it takes the image
            return shape
        except Exception:
            continue
        return shape
    return None


def count_through(patches: int, compressors: Iterable[tuple[str, DataCompressor]]) -> TokenCounts:
    """Send `patches` tokens through compressors, given with their slots in the model's order."""
    left, per_slot = patches, {}
    for slot, compressor in compressors:
        found = compressor.output_tokens(left)
        (out,) = counts_returned(found, 1, f"{who_is(compressor)}: output_tokens")
        per_slot[slot] = (left, out)
        left = out
    return TokenCounts(patches, left, per_slot)


def unknown_slot(model: nn.Module, slot: str) -> RecipeError:
    """The error for a slot that the model does not have."""
    who = type(model).__name__
    known = ", ".join(slots(model))
    if not known:
        return RecipeError(
            f"slot: {who} has no slot for a compressor: take it out, or use vit, torchvision:vit_* "
            "or a model of timm's VisionTransformer, or Transformers' ViT, DeiT or Dinov2"
        )
    return RecipeError(f"slot: {who} has no slot {slot!r}: its slots are {known}")


def taken_slot(slot: str) -> RecipeError:
    """The error for a second compressor in one slot."""
    return RecipeError(f"slot: {slot!r} holds a compressor already: give it only one")
