"""A vision transformer with slots for compressors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from prunekit.compressors.base import (
    CLASS_ATTENTION,
    DEPTH,
    KEYS,
    DataCompressor,
    Depth,
    TokenBatch,
)
from prunekit.compressors.passing import compressed
from prunekit.errors import RecipeError
from prunekit.foundation.values import NewKey
from prunekit.models.attention_view import AttentionView, wanted_of
from prunekit.models.layers import Width, nearest_divisors
from prunekit.models.slots import TokenCounts, count_through, taken_slot, unknown_slot
from prunekit.models.start_weights import OwnInit
from prunekit.models.vit_blocks import EncoderBlock, PatchEmbed
from prunekit.registry.configs import DataSpec, ModelConfig


class ViTConfig(ModelConfig):
    """A pre-norm vision transformer with learned positions."""

    name: Literal["vit"]
    init: OwnInit = None
    """Start weights: a run directory, or a .safetensors, .pth, .pt or .bin file."""
    patch_size: int = Field(default=16, ge=1)
    """Side of a patch in pixels; must divide the image."""
    depth: int = Field(default=4, ge=1, le=1000)
    """Encoder blocks."""
    embed_dim: int = Field(default=384, ge=1, le=2**20)
    """Width of a token."""
    heads: int = Field(default=3, ge=1, le=2**20)
    """Attention heads; must divide `embed_dim`."""
    mlp_ratio: float = Field(default=4.0, gt=0, le=1000)
    """Hidden width of each MLP over `embed_dim`."""
    qkv_bias: bool = True
    """Whether the projection to queries, keys and values has a bias."""
    head_counts: Annotated[tuple[Width, ...] | None, NewKey(3, before=None)] = None
    """Heads of each block, of `embed_dim` / `heads` units each; null = `heads` in all of them."""
    hidden: Annotated[tuple[Width, ...] | None, NewKey(3, before=None)] = None
    """Hidden units of the MLP of each block; null = `mlp_ratio` x `embed_dim` in all of them."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after the positions, after attention and inside each MLP."""
    drop_path: Annotated[float, NewKey(3, before=0.0), Field(ge=0, lt=1)] = 0.0
    """Stochastic depth (arXiv:1603.09382): chance that the last block's branches are left out for a
    sample in training; it rises linearly from 0 in the first block."""
    layer_scale: Annotated[float | None, NewKey(3, before=None), Field(gt=0)] = None
    """LayerScale (arXiv:2103.17239): first value of a learned factor of each channel of each
    branch; null = none."""
    pool: Annotated[Literal["cls", "mean"], NewKey(3, before="cls")] = "cls"
    """What the head reads: the class token, or the mean of the patches, a merged one as often as it
    has patches; then there is no class token."""
    distill_token: Annotated[bool, NewKey(3, before=False)] = False
    """A second token with a head of its own, for a teacher (DeiT, arXiv:2012.12877); evaluation
    takes the mean of both heads."""
    registers: Annotated[int, NewKey(3, before=0), Field(ge=0, le=2**20)] = 0
    """Learned tokens without a position that no head reads (arXiv:2309.16588)."""

    sized: ClassVar[bool] = True
    paper = "arXiv:2010.11929"

    @field_validator("heads")
    @classmethod
    def _heads_divide(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("embed_dim", heads)
        if width % heads:
            near = " or ".join(map(str, nearest_divisors(width, heads)))
            raise ValueError(f"{heads} heads do not divide embed_dim {width}: use {near}")
        return heads

    @field_validator("distill_token")
    @classmethod
    def _beside_a_class_token(cls, distill_token: bool, info: ValidationInfo) -> bool:
        if distill_token and info.data.get("pool") == "mean":
            raise ValueError("stands beside a class token: set pool to cls")
        return distill_token

    @field_validator("head_counts", "hidden")
    @classmethod
    def _one_each(
        cls, sizes: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        depth = info.data.get("depth", 0)
        if sizes is not None and depth and len(sizes) != depth:
            raise ValueError(
                f"{len(sizes)} sizes for the {depth} blocks of the model: give one each, or null"
            )
        return sizes

    def build(self, spec: DataSpec) -> nn.Module:
        """A freshly initialised model for this data.

        Raises:
            RecipeError: the patches do not tile the image, or the MLP has no unit.
        """
        common = math.gcd(spec.height, spec.width)
        if common % self.patch_size:
            near = " or ".join(map(str, nearest_divisors(common, self.patch_size)))
            raise RecipeError(
                f"model.patch_size: {self.patch_size} does not divide the image of "
                f"{spec.height}x{spec.width} pixels: use {near}, or another data.image_size"
            )
        if math.isinf(hidden := self.embed_dim * self.mlp_ratio):
            raise RecipeError(f"model.mlp_ratio: {self.mlp_ratio} is beyond all models")
        if int(hidden) < 1:
            raise RecipeError(
                f"model.mlp_ratio: {self.mlp_ratio} of embed_dim {self.embed_dim} leaves no hidden "
                f"unit: use at least {1 / self.embed_dim:.3g}"
            )
        return ViT(self, spec)

    def block_sizes(self) -> Iterator[tuple[int, int]]:
        """Heads, and hidden units, of each block."""
        heads = self.head_counts or repeat(self.heads, self.depth)
        hidden = self.hidden or repeat(int(self.embed_dim * self.mlp_ratio), self.depth)
        yield from zip(heads, hidden, strict=True)

    def sized_as(self, model: nn.Module) -> Self:
        """With the heads and hidden units that the blocks of `model` have."""
        blocks = [block for block in model.modules() if isinstance(block, EncoderBlock)]
        found = [(block.attn.num_heads, len(block.mlp.fc1.weight)) for block in blocks]
        if found == list(self.block_sizes()) or len(found) != self.depth:
            return self
        heads, hidden = zip(*found, strict=True)
        return self.model_copy(update={"head_counts": heads, "hidden": hidden})


class ViT(nn.Module):
    """Image -> class logits. Slots: `tokens` before the encoder, `blocks.N` inside block N.

    Parameter names follow timm's. The position is added before any compression, as it is lost
    after it. Protected are the class token, the distillation token and the registers, in this
    order.
    """

    def __init__(self, config: ViTConfig, spec: DataSpec) -> None:
        super().__init__()
        width, patch = config.embed_dim, config.patch_size
        self.patches = (spec.height // patch) * (spec.width // patch)
        self.patch_embed = PatchEmbed(spec.channels, width, patch)
        self.placed = [name for name, there in placed_tokens(config).items() if there]
        """The tokens beside the patches that have a position."""
        for name in self.placed:
            setattr(self, name, nn.Parameter(torch.zeros(1, 1, width)))
        self.reg_token = None
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, width))
        self.protected = len(self.placed) + config.registers
        self.pos_embed = nn.Parameter(torch.zeros(1, len(self.placed) + self.patches, width))
        self.pos_drop = nn.Dropout(config.dropout)
        self.compressor: DataCompressor | None = None
        common = (width // config.heads, config.qkv_bias, config.dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, hidden, *common) for heads, hidden in config.block_sizes()
        )
        for index, block in enumerate(self.blocks):
            assert isinstance(block, EncoderBlock)
            # of one block there is no rise: timm leaves it whole as well
            drop_path = config.drop_path * index / max(1, config.depth - 1)
            block.on_branches(width, config.layer_scale, drop_path)
            block.depth = Depth(index, config.depth)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, spec.classes)
        self.head_dist = nn.Linear(width, spec.classes) if config.distill_token else None
        self.distilled_training = False
        self._reset()

    def set_distilled_training(self, enable: bool = True) -> None:
        """Whether training gives the logits of both heads, as timm's distilled models offer it.

        Only a model with a `distill_token` heeds it: it then gives (class head, distillation head)
        in training mode, and the mean of the two in evaluation.
        """
        self.distilled_training = enable

    def _reset(self) -> None:
        tokens = [getattr(self, name) for name in self.placed]
        for parameter in (*tokens, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        if self.reg_token is not None:
            nn.init.trunc_normal_(self.reg_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def slots(self) -> Sequence[str]:
        """`tokens`, `blocks.0`, `blocks.1`, ..."""
        return tuple(slot for slot, _ in self._places())

    def attach(self, slot: str, compressor: DataCompressor) -> None:
        """Put a compressor into a slot.

        Raises:
            RecipeError: no such slot, or a taken one.
        """
        owner = dict(self._places()).get(slot)
        if owner is None:
            raise unknown_slot(self, slot)
        if owner.compressor is not None:
            raise taken_slot(slot)
        owner.compressor = compressor

    def gives(self, slot: str) -> frozenset[str]:
        """What a compressor may read in a slot: attention of blocks, where a class token reads."""
        if slot == "tokens":
            return frozenset({DEPTH})
        read_by_class = {CLASS_ATTENTION} if "cls_token" in self.placed else set()
        return frozenset({KEYS, DEPTH} | read_by_class)

    def token_counts(self) -> TokenCounts:
        """Tokens of one image through the slots, class token not counted."""
        held = [(slot, owner.compressor) for slot, owner in self._places()]
        return count_through(self.patches, [(s, c) for s, c in held if c is not None])

    def _places(self) -> Iterator[tuple[str, ViT | EncoderBlock]]:
        yield "tokens", self
        for index, block in enumerate(self.blocks):
            assert isinstance(block, EncoderBlock)
            yield f"blocks.{index}", block

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[B, channels, height, width] -> [B, classes]; see `set_distilled_training`."""
        tokens = self.embed(images)
        if self.compressor is not None:
            view = AttentionView(wanted_of(self.compressor))
            tokens = compressed(self.compressor, view.shown(tokens, Depth(0, len(self.blocks))))
        biased = needs_bias(self)
        for block in self.blocks:
            tokens = block(tokens, biased)
            biased = biased or needs_bias(block)
        return self._classified(tokens)

    def _classified(self, tokens: TokenBatch) -> Tensor | tuple[Tensor, Tensor]:
        """What the heads make of the tokens that come out of the blocks."""
        if "cls_token" not in self.placed:
            return self._logits(self.head, mean_of_patches(tokens))
        logits = self._logits(self.head, tokens.x[:, 0])
        if self.head_dist is None:
            return logits
        distilled = self._logits(self.head_dist, tokens.x[:, 1])
        if self.training and self.distilled_training:
            return logits, distilled
        return (logits + distilled) / 2

    def _logits(self, head: nn.Linear, token: Tensor) -> Tensor:
        logits: Tensor = head(self.norm(token))
        return logits

    def embed(self, images: Tensor) -> TokenBatch:
        """Patches and the tokens beside them with their positions; each token has size 1."""
        x = self.patch_embed(images)
        tokens = [getattr(self, name).expand(x.shape[0], -1, -1) for name in self.placed]
        x = torch.cat([*tokens, x], dim=1) + self.pos_embed
        if self.reg_token is not None:
            registers, placed = self.reg_token.expand(x.shape[0], -1, -1), len(self.placed)
            x = torch.cat([x[:, :placed], registers, x[:, placed:]], dim=1)
        x = self.pos_drop(x)
        size = x.new_ones((*x.shape[:2], 1), dtype=torch.float32)
        return TokenBatch(x, size, self.protected)


def placed_tokens(config: ViTConfig) -> dict[str, bool]:
    """The tokens with a position that may stand before the patches, and whether they do."""
    return {"cls_token": config.pool == "cls", "dist_token": config.distill_token}


def mean_of_patches(tokens: TokenBatch) -> Tensor:
    """[B, N, C] -> [B, C]: the mean over what is not protected, a token as often as its size."""
    x, size, protected = tokens
    weight = size[:, protected:] / size[:, protected:].sum(1, keepdim=True)
    return (x[:, protected:] * weight.to(x.dtype)).sum(1)


def needs_bias(place: nn.Module) -> bool:
    """Whether attention behind the compressor of this place must add log(size) to its logits."""
    compressor = getattr(place, "compressor", None)
    return isinstance(compressor, DataCompressor) and compressor.needs_size_bias
