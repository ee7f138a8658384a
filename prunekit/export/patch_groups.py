"""Which patches of an image became one token on the way through a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import UsageError
from prunekit.export.served import ServedModel


@dataclass(frozen=True, slots=True)
class PatchGroups:
    """An image as the model took it, and the token that each of its patches ended in."""

    pixels: np.ndarray
    """uint8 [H, W, C]."""
    groups: np.ndarray
    """int64 [rows, columns]: equal numbers are one token; -1 = dropped."""

    @property
    def tokens(self) -> int:
        """How many were left."""
        return len(np.unique(self.groups[self.groups >= 0]))


class TokenWatch:
    """Notes, within a `with`, where each compressor of a model puts the tokens of a pass.

    Raises:
        UsageError: the model has no compressor, or lies in a file that computes without torch.
    """

    def __init__(self, served: ServedModel) -> None:
        if served.module is None:
            raise UsageError(
                f"{served.path}: does not show what becomes of patches: give the run or its "
                "safetensors file"
            )
        self.compressors = [m for m in served.module.modules() if isinstance(m, DataCompressor)]
        if not self.compressors:
            raise UsageError(f"{served.path}: has no compressor: no patch is merged")
        self.path = served.path
        self.protected = 0
        self.group: Tensor | None = None
        """int64 [B, N] of the last pass: place of each first token among the last; -1 = dropped."""
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        self.group = None
        self._handles = [m.register_forward_pre_hook(self._note) for m in self.compressors]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, compressor: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(compressor, DataCompressor)
        tokens: TokenBatch = inputs[0]
        places = compressor.groups(tokens)
        if places is None:
            raise UsageError(
                f"{self.path}: the compressor {compressor.config.name!r} does not tell where it "
                "puts tokens: it has no method `groups`"
            )
        self.protected = tokens.protected
        if self.group is None:
            self.group = places
        else:
            kept = places.gather(1, self.group.clamp(min=0))
            self.group = torch.where(self.group < 0, self.group, kept)


def patch_groups(
    watch: TokenWatch, batch: Tensor, prepared: Preprocessing
) -> Iterator[PatchGroups]:
    """What was noted of the last pass, image by image.

    Args:
        watch: after the pass.
        batch: what went in, float32 [B, C, H, W].
        prepared: what made it.

    Raises:
        UsageError: the tokens are no grid of square patches.
    """
    assert watch.group is not None, "there was a pass"
    groups = watch.group[:, watch.protected :].cpu()
    height, width = batch.shape[2:]
    patches = groups.shape[1]
    side = math.isqrt(height * width // patches)
    if side * side * patches != height * width or height % side or width % side:
        raise UsageError(
            f"{watch.path}: {patches} tokens of an image of {height}x{width} pixels are no grid of "
            "square patches: there is no picture of them"
        )
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (prepared.mean, prepared.std))
    pixels = (batch.cpu() * std + mean).round().clamp(0, 255).to(torch.uint8)
    for image, group in zip(pixels, groups, strict=True):
        grid = group.reshape(height // side, width // side)
        yield PatchGroups(image.permute(1, 2, 0).numpy(), grid.numpy())
