"""What a data set is: a config that decodes a split once into a uint8 tensor."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from prunekit.foundation.values import ComponentConfig

Split = Literal["train", "test"]
Augmentation = Literal["flip", "crop"]


@dataclass(frozen=True, slots=True)
class Samples:
    """A decoded split."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N], in 0 .. len(classes) - 1."""
    classes: tuple[str, ...]


class DatasetConfig(ComponentConfig, abc.ABC):
    """The settings of a data set, and how batches are made of it."""

    paper: ClassVar[str] = ""
    root: str | None = None
    """The folder that holds the files; not needed by a set that ships in the package."""
    download: bool = False
    """Whether missing files may be fetched from the network."""
    image_size: int | None = Field(default=None, ge=1)
    """Side in pixels to which a batch is resized on the training device; null = as decoded."""
    batch_size: int = Field(default=128, ge=1)
    """Samples an optimizer step, over all ranks."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Samples a forward pass on one rank; null = the rank's whole share."""
    augment: tuple[Augmentation, ...] = ()
    """`flip`: left-right with probability 1/2; `crop`: shift by up to an eighth, zero padding."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Stratified share of the training split that is held out."""
    train_limit: int | None = Field(default=None, ge=1)
    """Use a stratified part of this many training samples."""
    test_limit: int | None = Field(default=None, ge=1)
    """Use a stratified part of this many test samples."""

    @abc.abstractmethod
    def load(self, split: Split) -> Samples:
        """Decode a split.

        Raises:
            DataError: missing or unreadable files, with the path and the remedy.
        """
