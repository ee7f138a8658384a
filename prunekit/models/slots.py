"""Slots: the places of a model that take a compressor, also in stock models.

A model of ours, or of a third party, declares its slots (the protocol `Slotted`). The stock vision
transformers have one already, between patch embedding and encoder: torchvision's `encoder.dropout`
and timm's `patch_drop`. The module there is replaced by an adapter that keeps it and adds the
compressor, so that forward code and state-dict keys stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import RecipeError
from prunekit.models.base import Slotted


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
    return ("tokens",) if _stock_place(model) else ()


def attach(model: nn.Module, slot: str, compressor: DataCompressor) -> None:
    """Put a compressor into a slot of the model.

    Raises:
        RecipeError: no such slot, a taken one, a ratio that leaves no token in train or eval mode,
            or proportional attention that the model cannot give.
    """
    if slot not in slots(model):
        raise unknown_slot(model, slot)
    if isinstance(model, Slotted):
        model.attach(slot, compressor)
    else:
        _attach_stock(model, compressor)
    held = [module for module in model.modules() if isinstance(module, DataCompressor)]
    for training in (not model.training, model.training):
        for module in held:
            module.train(training)
        token_counts(model)


def token_counts(model: nn.Module) -> TokenCounts | None:
    """Tokens of one image before and after compression, in train or eval mode as the model is.

    From the compressors' `output_tokens`, without data. None where the model has no slot, or does
    not know its patches (`CountsTokens`).

    Raises:
        RecipeError: a compressor leaves no token.
    """
    if isinstance(model, CountsTokens):
        return model.token_counts()
    place = _stock_place(model)
    if place is None:
        return None
    held = place.module
    found = [("tokens", held.compressor)] if isinstance(held, SlotAdapter) else []
    return count_through(place.patches, found)


def count_through(patches: int, compressors: Iterable[tuple[str, DataCompressor]]) -> TokenCounts:
    """Send `patches` tokens through compressors, given with their slots in the model's order."""
    left, per_slot = patches, {}
    for slot, compressor in compressors:
        per_slot[slot] = (left, compressor.output_tokens(left))
        left = per_slot[slot][1]
    return TokenCounts(patches, left, per_slot)


def unknown_slot(model: nn.Module, slot: str) -> RecipeError:
    """The error for a slot that the model does not have."""
    who = type(model).__name__
    known = ", ".join(slots(model))
    if not known:
        return RecipeError(f"slot: {who} has no slot for a compressor: take it out")
    return RecipeError(f"slot: {who} has no slot {slot!r}: its slots are {known}")


def taken_slot(slot: str) -> RecipeError:
    """The error for a second compressor in one slot."""
    return RecipeError(f"slot: {slot!r} holds a compressor already: give it only one")


class SlotAdapter(nn.Module):
    """What stood in a stock model's slot, and then a compressor."""

    def __init__(self, inner: nn.Module, compressor: DataCompressor, protected: int) -> None:
        super().__init__()
        self.inner = inner
        self.compressor = compressor
        self.protected = protected

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, protected + output_tokens(N - protected), C]."""
        x = self.inner(x)
        size = x.new_ones((*x.shape[:2], 1), dtype=torch.float32)
        compressed: TokenBatch = self.compressor(TokenBatch(x, size, self.protected))
        return compressed.x


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a stock model takes a compressor."""

    owner: nn.Module
    attribute: str
    protected: int
    patches: int

    @property
    def module(self) -> nn.Module:
        module: nn.Module = getattr(self.owner, self.attribute)
        return module


def _stock_place(model: Any) -> _Place | None:
    if _is_a(model, "torchvision.models.vision_transformer"):
        return _Place(model.encoder, "dropout", 1, model.seq_length - 1)
    if _is_a(model, "timm.models.vision_transformer"):
        patches = model.patch_embed.num_patches
        return _Place(model, "patch_drop", model.num_prefix_tokens, patches)
    return None


def _is_a(model: nn.Module, module: str) -> bool:
    # by name, so that neither library is imported for a model that is not its own
    return any(
        cls.__module__ == module and cls.__name__ == "VisionTransformer"
        for cls in type(model).__mro__
    )


def _attach_stock(model: nn.Module, compressor: DataCompressor) -> None:
    place = _stock_place(model)
    assert place is not None, "attach() looked"
    if isinstance(place.module, SlotAdapter):
        raise taken_slot("tokens")
    if compressor.needs_size_bias:
        raise RecipeError(
            f"proportional_attention: {type(model).__name__} cannot give it: its attention takes "
            "no bias on the logits; set it to false, or use the model vit"
        )
    adapter = SlotAdapter(place.module, compressor, place.protected)
    setattr(place.owner, place.attribute, adapter)
