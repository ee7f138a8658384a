"""The slot `tokens` of stock vision transformers, and the head behind it that weighs by size.

torchvision's and timm's `VisionTransformer`, and ViT, DeiT and DINOv2 of Transformers, have a
module between patch embedding and encoder: `encoder.dropout`, `patch_drop`, `embeddings.dropout`.
An adapter takes its place that keeps it and adds the
compressor, so that forward code and state-dict keys stay as they are.

A head that averages, or pools in another way, must count a merged token as often as it has patches.
It is given each token that often (`read_by_size`), as many as there would be without merging, so
that its own code computes what it would have: exactly, where merged tokens are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor, Depth, TokenBatch
from prunekit.errors import UsageError
from prunekit.models.attention_view import AttentionView, wanted_of


class SlotAdapter(nn.Module):
    """What stood in a stock model's slot, and then a compressor."""

    def __init__(
        self,
        inner: nn.Module,
        compressor: DataCompressor,
        protected: int,
        *,
        blocks: int,
        weighs: bool,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.compressor = compressor
        self.protected = protected
        self.blocks = blocks
        self.weighs = weighs
        """Whether the head reads patches, and needs `size`."""
        self.patches = 0
        """Tokens that came into the compressor in the last pass, protected ones not counted."""
        self.size: Tensor | None = None
        """[B, N, 1] of the tokens that went out in the last pass."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, protected + output_tokens(N - protected), C]."""
        x = self.inner(x)
        size = x.new_ones((*x.shape[:2], 1), dtype=torch.float32)
        view = AttentionView(wanted_of(self.compressor))
        tokens = view.shown(TokenBatch(x, size, self.protected), Depth(0, self.blocks))
        compressed: TokenBatch = self.compressor(tokens)
        if self.weighs:
            self.patches = x.shape[1] - self.protected
            self.size = compressed.size.detach()
        return compressed.x

    def unmerged(self, x: Tensor) -> Tensor:
        """[B, protected + k, C] of the last pass -> each token as often as it has patches.

        Raises:
            UsageError: other tokens than those of the last pass.
        """
        if self.size is None or self.size.shape[:2] != x.shape[:2]:
            raise UsageError(
                "forward_head: these are not the tokens of the model's last forward_features, "
                "whose sizes are known: call the model, or one right behind the other"
            )
        left = x.shape[1] - self.protected
        if left == self.patches or not self.compressor.conserves_mass:
            return x
        return repeat_by_size(x, self.size, self.protected, self.patches)


def repeat_by_size(x: Tensor, size: Tensor, protected: int, patches: int) -> Tensor:
    """Put each token as often as its size says, the protected ones once.

    Args:
        x: [B, protected + k, C].
        size: [B, protected + k, 1], whole numbers that add up to `patches` behind the protected.
        protected: leading tokens.
        patches: tokens to give.

    Returns:
        [B, protected + patches, C].
    """
    ends = size[:, protected:, 0].cumsum(1)
    places = torch.arange(patches, device=x.device, dtype=ends.dtype)
    # the token of a place: how many end before it; searchsorted would do, but is not in ONNX
    tokens = (ends.unsqueeze(1) <= places.view(1, -1, 1)).sum(-1)
    rows = (protected + tokens).unsqueeze(-1).expand(-1, -1, x.shape[2])
    return torch.cat([x[:, :protected], x.gather(1, rows)], dim=1)


def read_by_size(
    adapter: SlotAdapter, head: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """What a head gives for tokens that are put back to as many as there were."""
    return head(adapter.unmerged(x), *args, **kwargs)


def _given_by_size(adapter: SlotAdapter, _: nn.Module, inputs: Any, x: Tensor) -> Tensor:
    return adapter.unmerged(x)


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


def put(
    model: Any, compressor: DataCompressor, protected: int, *, weigh: bool
) -> Callable[[], None]:
    """Put a compressor into the slot of a stock model, and tell its head the sizes.

    `forward_head` is what timm's models call for their head, and what they offer to others.

    Args:
        model: one with a `stock_place` that no adapter stands in.
        compressor: what is put there.
        protected: leading tokens that are no patches.
        weigh: whether the head reads the others.

    Returns:
        What takes it out again.

    Raises:
        AttributeError: `weigh`, and the model has no such head.
    """
    place = stock_place(model)
    assert place is not None, "the caller looked"
    count = len([*place.blocks.children()])
    adapter = SlotAdapter(place.module, compressor, protected, blocks=count, weighs=weigh)
    adapter.training = place.module.training
    own = vars(model).get("forward_head")
    hook = None
    if weigh and place.last is not None:
        hook = place.last.register_forward_hook(partial(_given_by_size, adapter))
    elif weigh:
        model.forward_head = partial(read_by_size, adapter, model.forward_head)
    setattr(place.owner, place.attribute, adapter)

    def undo() -> None:
        setattr(place.owner, place.attribute, adapter.inner)
        if hook is not None:
            hook.remove()
        elif weigh:
            del model.forward_head
        if own is not None:
            model.forward_head = own

    return undo
