"""The settings that the components of each kind have, and what they build. Imports no torch."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from prunekit.foundation.parameters import Scope
from prunekit.foundation.values import ComponentConfig, NewKey, RunPath
from prunekit.registry.augmentations import Augmentation, check_together

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "test"]


def _unit(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"is for pixel values of 0 .. 1: give pixel values over 255, not {value}")
    return value


UnitValue = Annotated[float, AfterValidator(_unit)]


@dataclass(frozen=True, slots=True)
class Samples:
    """A decoded split."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N], in 0 .. len(classes) - 1."""
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a run warns of: what was left out, and why."""


class DatasetConfig(ComponentConfig, abc.ABC):
    """The settings of a data set, and how batches are made of it."""

    paper: ClassVar[str] = ""
    root: str | None = None
    """The folder that holds the files; not needed by a set that ships in the package."""
    download: bool = False
    """Whether missing files may be fetched from the network."""
    image_size: int | None = Field(default=None, ge=1)
    """Side in pixels to which a batch is resized on the training device; null = as decoded."""
    batch_size: int = Field(default=128, ge=1, le=2**31)
    """Samples an optimizer step, over all ranks."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Samples a forward pass on one rank; null = the rank's whole share."""
    eval_batch: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=1)
    """Samples a forward pass of evaluation on one rank; null = the rank's share, or `micro_batch`
    where that is smaller."""
    augment: tuple[Augmentation, ...] = ()
    """What is done to training images, in an order of its own: `flip`, `crop`, `rand_augment`, ...;
    one with settings is `{name: rand_augment, ops: 2}`."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Stratified share of the training split that is held out."""
    train_limit: int | None = Field(default=None, ge=1)
    """Use a stratified part of this many training samples."""
    test_limit: int | None = Field(default=None, ge=1)
    """Use a stratified part of this many test samples."""
    eval_resize: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=1)
    """Side in pixels to which the shorter side of an image is resized in evaluation, of which the
    middle `image_size` square is then taken; null = the middle square of the image is resized."""
    mean: Annotated[tuple[UnitValue, ...] | None, NewKey(3, before=None)] = None
    """What is subtracted of each channel, for pixel values of 0 .. 1, such as [0.485, 0.456,
    0.406]; null = the mean of the training samples."""
    std: Annotated[tuple[UnitValue, ...] | None, NewKey(3, before=None)] = None
    """What is then divided by, for pixel values of 0 .. 1; null = the standard deviation of the
    training samples."""

    @field_validator("augment")
    @classmethod
    def _augmentations_fit(
        cls, augment: tuple[Augmentation, ...], info: ValidationInfo
    ) -> tuple[Augmentation, ...]:
        check_together(augment, info.data.get("batch_size"), info.data.get("micro_batch"))
        return augment

    @field_validator("std")
    @classmethod
    def _divides(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std is not None and min(std, default=1) <= 0:
            raise ValueError("is divided by: must be more than 0")
        return std

    @field_validator("eval_resize")
    @classmethod
    def _leaves_the_square(cls, eval_resize: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("image_size")
        if eval_resize is not None and (side is None or eval_resize < side):
            wanted = "set data.image_size" if side is None else f"at least image_size, {side}"
            raise ValueError(f"is the side of which image_size is taken: {wanted}")
        return eval_resize

    @property
    def kept_side(self) -> int | None:
        """Side of the squares to which `load` cuts images of different sizes; None = `image_size`.

        Only a data set that reads images of any size has another one.
        """
        return None

    @abc.abstractmethod
    def load(self, split: Split) -> Samples:
        """Decode a split.

        Raises:
            DataError: missing or unreadable files, with the path and the remedy.
        """


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What a model takes from its data."""

    channels: int
    height: int
    width: int
    classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of one image."""
        return self.channels, self.height, self.width


class ModelConfig(ComponentConfig, abc.ABC):
    """The settings of a model."""

    paper: ClassVar[str] = ""
    sized: ClassVar[bool] = False
    """Whether the settings say how large it is: then it is built once more, on the `meta` device
    and without values, and refused before it is made where it does not fit into memory."""
    init: RunPath | None = None
    """Start weights: a run directory, a .safetensors, .pth, .pt or .bin file, or `pretrained` for a
    stock model. A head for another number of classes starts fresh."""

    @abc.abstractmethod
    def build(self, spec: DataSpec) -> nn.Module:
        """A freshly initialised model for this data; reads the global random state.

        Raises:
            RecipeError: the data does not fit, such as a patch size that does not divide.
        """

    def sized_as(self, model: nn.Module) -> Self:
        """The config that builds `model`: one of its own models that units were removed from.

        Itself, unless the architecture has its widths in its config.
        """
        return self


EVERY_BLOCK = "blocks.*"
"""The slot of an entry that stands for a compressor in each block."""


class CompressorConfig(ComponentConfig):
    """The settings that every compressor has."""

    slot: str = "tokens"
    """Where: `tokens` = between patch embedding and encoder, `blocks.N` = between attention and MLP
    of block N, `blocks.*` = one in each block."""

    def in_block(self, slot: str, index: int, count: int) -> Self:
        """The settings in one block, of an entry with slot `blocks.*`.

        Args:
            slot: of the block.
            index: of the block, from 0.
            count: of all blocks.
        """
        return self.model_copy(update={"slot": slot})


Mode = Literal["ste", "masked", "hard"]
"""How pruned weights live: dense behind a straight-through mask, shelved, or gone."""


class StrategyConfig(ComponentConfig):
    """The settings that every strategy has."""

    scope: Scope = Scope()
    """Which parameters this strategy may mask; empty = its own default."""
    mode: Mode = "hard"
    """`ste`: forward sees W*M, the optimizer moves the dense W. `hard`: pruned weights are zero.
    `masked`: as hard, but a pruned value is kept on a shelf until it comes back."""
    during: tuple[str, ...] = ()
    """Names of the phases in which the strategy works; empty = all."""


class ProbeConfig(ComponentConfig):
    """The settings that every probe has."""


class LossConfig(ComponentConfig):
    """The settings that every loss has."""


class LoggerConfig(ComponentConfig):
    """The settings that every logger has."""
