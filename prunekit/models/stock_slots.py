"""The slots of stock vision transformers, and the head behind them that weighs by size.

torchvision's and timm's `VisionTransformer`, and ViT, DeiT and DINOv2 of Transformers, have a
module between patch embedding and encoder: `encoder.dropout`, `patch_drop`, `embeddings.dropout`.
An adapter takes its place, slot `tokens`, that keeps it and adds the compressor. Slots `blocks.N`
are seams between modules of a block (`seams.py`). Forward code and state-dict keys stay as they
are.

A head that averages, or pools in another way, must count a merged token as often as it has patches.
It is given each token that often (`read_by_size`), as many as there would be without merging, so
that its own code computes what it would have: exactly, where merged tokens are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from prunekit.compressors.base import CLASS_ATTENTION, DEPTH, KEYS, DataCompressor, TokenBatch
from prunekit.errors import RecipeError
from prunekit.models.attention_view import AttentionView, wanted_of
from prunekit.models.passage import FIRST, Passage
from prunekit.models.seams import possible_seams, shows_keys

PASSAGE = "token_passage"
"""The attribute of a stock model with compressors."""


class SlotAdapter(nn.Module):
    """What stood in a stock model's slot, and then a compressor."""

    def __init__(self, inner: nn.Module, compressor: DataCompressor, passage: Passage) -> None:
        super().__init__()
        self.inner = inner
        self.compressor = compressor
        self.passage = passage

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, protected + output_tokens(N - protected), C]."""
        x = self.inner(x)
        tokens = TokenBatch(x, self.passage.sizes_at(FIRST, x), self.passage.protected)
        return self.passage.compress(FIRST, tokens, AttentionView(wanted_of(self.compressor)))


def read_by_size(
    passage: Passage, head: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """What a head gives for tokens that are put back to as many as there were."""
    return head(passage.unmerged(x), *args, **kwargs)


def _given_by_size(passage: Passage, _: nn.Module, inputs: Any, x: Tensor) -> Tensor:
    return passage.unmerged(x)


@dataclass(frozen=True, slots=True)
class StockPlace:
    """Where a stock model takes a compressor, and what comes behind."""

    owner: nn.Module
    attribute: str
    blocks: nn.Module
    """The encoder: its children follow one another."""
    last: nn.Module | None = None
    """What gives the head its tokens, where the model has no `forward_head`."""

    @property
    def module(self) -> nn.Module:
        """What stands in the slot."""
        module: nn.Module = getattr(self.owner, self.attribute)
        return module

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, in their order."""
        return [*self.blocks.children()]


def slot_names(place: StockPlace) -> tuple[str, ...]:
    """`tokens`, `blocks.0`, `blocks.1`, ..."""
    return "tokens", *(f"blocks.{index}" for index in range(len(place.layers)))


def slot_index(slot: str) -> int:
    """The number of a slot's block; `FIRST` before them."""
    return FIRST if slot == "tokens" else int(slot.removeprefix("blocks."))


def passage_of(model: nn.Module) -> Passage | None:
    """What its places know of one another; None where there is no compressor."""
    passage: Passage | None = vars(model).get(PASSAGE)
    return passage


def stock_gives(model: nn.Module, place: StockPlace, slot: str) -> frozenset[str]:
    """What a compressor may read in a slot beside tokens and sizes."""
    if slot == "tokens":
        return frozenset({DEPTH})
    seam = next(possible_seams(place.layers[slot_index(slot)]), None)
    if seam is None or not shows_keys(getattr(place.layers[slot_index(slot)], seam.attention)):
        return frozenset({DEPTH})
    # of timm, of torchvision, of Transformers
    holders = ((model, "cls_token"), (model, "class_token"), (place.owner, "cls_token"))
    classes = any(isinstance(getattr(who, name, None), Tensor) for who, name in holders)
    return frozenset({DEPTH, KEYS} | ({CLASS_ATTENTION} if classes else set()))


def stock_place(model: Any) -> StockPlace | None:
    """The slot of a stock vision transformer; None for any other model."""
    if _is_a(model, "torchvision.models.vision_transformer"):
        return StockPlace(model.encoder, "dropout", model.encoder.layers)
    if _is_a(model, "timm.models.vision_transformer"):
        return StockPlace(model, "patch_drop", model.blocks)
    for kind in ("ViT", "DeiT", "Dinov2"):
        home = f"transformers.models.{kind.lower()}.modeling_{kind.lower()}"
        if _is_a(model, home, f"{kind}ForImageClassification"):
            base = getattr(model, kind.lower())
            blocks = base.encoder.layer if kind == "Dinov2" else base.layers
            return StockPlace(base.embeddings, "dropout", blocks, base.layernorm)
    return None


def _is_a(model: nn.Module, module: str, name: str = "VisionTransformer") -> bool:
    # by name, so that no library is imported for a model that is not its own
    return any(cls.__module__ == module and cls.__name__ == name for cls in type(model).__mro__)


def usual_shapes(model: Any) -> Iterator[tuple[int, int, int]]:
    """Shapes [C, H, W] of images that a stock model may be made for: to be tried, not believed."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.weight.shape[1] * first.groups
    embed = getattr(model, "patch_embed", None)
    stock = getattr(model, "pretrained_cfg", None) or {}
    sizes = (
        getattr(model, "image_size", None),
        getattr(embed, "img_size", None),
        tuple(stock.get("input_size", ()))[1:],
        224,
    )
    for size in sizes:
        sides = (size, size) if isinstance(size, int) else size
        if isinstance(sides, tuple | list) and len(sides) == 2:
            yield channels, int(sides[0]), int(sides[1])


def check_place(
    who: str, slot: str, compressor: DataCompressor, passage: Passage, blocks: list[nn.Module]
) -> None:
    """Refuse what a slot, or the attention behind it, cannot give.

    Args:
        who: the model, for messages.
        slot: that of `compressor`.
        compressor: the one for it.
        passage: of the model, without it.
        blocks: of the model.

    Raises:
        RecipeError: no place between attention and MLP, attention that takes no bias, or tokens
            that are dropped behind a merge, so that a head that counts patches cannot.
    """
    where = slot_index(slot)
    if where != FIRST and passage.seams[where] is None:
        raise RecipeError(
            f"slot: {who} has no place between attention and MLP in block {where} "
            f"({type(blocks[where]).__name__}): use slot 'tokens', or another model, such as vit"
        )
    if compressor.needs_size_bias:
        for seam, block in zip(passage.seams[where + 1 :], blocks[where + 1 :], strict=True):
            if seam is None or seam.bias is None:
                raise RecipeError(
                    f"proportional_attention: {who} cannot give it: attention of "
                    f"{type(block).__name__} takes no bias on the logits; set it to false, or use "
                    "the model vit"
                )
    held = sorted((passage.held | {where: compressor}).items())
    merging = [place for place, one in held if one.conserves_mass]
    dropping = [place for place, one in held if not one.conserves_mass]
    if passage.weighs and merging and dropping and min(merging) < max(dropping):
        raise RecipeError(
            f"slot: {who} reads all tokens in its head, which cannot tell how many patches are "
            "left where merged tokens are dropped: drop before merging, or use a model with a "
            "class token"
        )


def put(model: Any, slot: str, compressor: DataCompressor, passage: Passage) -> Callable[[], None]:
    """Put a compressor into the slot of a stock model, and tell its head the sizes.

    `forward_head` is what timm's models call for their head, and what they offer to others.

    Args:
        model: one with a `stock_place`.
        slot: one that no compressor stands in.
        compressor: what is put there.
        passage: that of the model, or a new one where it has none.

    Returns:
        What takes it out again.

    Raises:
        AttributeError: the head reads patches, and the model has no such head.
    """
    place, where = stock_place(model), slot_index(slot)
    assert place is not None, "the caller looked"
    free = _tell_head(model, place, passage) if passage_of(model) is None else None
    if where == FIRST:
        inner = place.module
        adapter = SlotAdapter(inner, compressor, passage)
        adapter.training = inner.training
        setattr(place.owner, place.attribute, adapter)
    else:
        place.layers[where].compressor = compressor
    passage.put(where, compressor, place.layers)

    def undo() -> None:
        if where == FIRST:
            setattr(place.owner, place.attribute, inner)
        else:
            del place.layers[where].compressor
        passage.take(where, place.layers)
        if free is not None:
            free()

    return undo


def _tell_head(model: Any, place: StockPlace, passage: Passage) -> Callable[[], None]:
    """Give the model its passage, and the head its tokens by size -> what takes both away."""
    own = vars(model).get("forward_head")
    hook = None
    if passage.weighs and place.last is not None:
        hook = place.last.register_forward_hook(partial(_given_by_size, passage))
    elif passage.weighs:
        model.forward_head = partial(read_by_size, passage, model.forward_head)
    setattr(model, PASSAGE, passage)

    def free() -> None:
        delattr(model, PASSAGE)
        if hook is not None:
            hook.remove()
        elif passage.weighs:
            del model.forward_head
        if own is not None:
            model.forward_head = own

    return free
