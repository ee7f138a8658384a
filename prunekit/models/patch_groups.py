"""Which patches of an image became one token on the way through a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.compressors.positions import composed, unmerge
from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import UsageError
from prunekit.foundation.devices import random_states_kept
from prunekit.runs.merged_patches import PatchGroups


class TokenWatch:
    """Notes, within a `with`, where each compressor of a model puts the tokens of the last pass.

    with TokenWatch(model) as watch:
        features = model(images)  # [B, M, C]
    everywhere = watch.unmerge(features)  # [B, N, C]

    Each compressor is asked for its `groups` before it runs, in the random state that it then runs
    in; so all is done twice. It hears nothing of a compiled or exported model: ask the compressors
    in the model's own forward there.

    Args:
        model: the module; None: it lies in a file that computes without torch.
        who: what messages call it.

    Raises:
        UsageError: the model has no compressor, or lies in such a file.
    """

    def __init__(self, model: nn.Module | None, who: object = "the model") -> None:
        if model is None:
            raise UsageError(
                f"{who}: does not show what becomes of patches: give the run or its safetensors "
                "file"
            )
        self.compressors = [m for m in model.modules() if isinstance(m, DataCompressor)]
        if not self.compressors:
            raise UsageError(f"{who}: has no compressor: no patch is merged")
        self.path = who
        self.protected = 0
        self.group: Tensor | None = None
        """int64 [B, N] of the last pass: place of each first token among the last; -1 = dropped."""
        self._handles: list[RemovableHandle] = []
        self._passed: list[nn.Module] = []

    def unmerge(self, x: Tensor, *, dropped: float | Tensor = 0.0) -> Tensor:
        """[B, M, C] that the model gives of its last tokens -> [B, N, C], at each first position.

        Args:
            x: of the last pass, protected tokens first.
            dropped: what a position without a token gets; see `prunekit.unmerge`.

        Raises:
            UsageError: there was no pass, or `x` is of another batch.
        """
        if self.group is None:
            raise UsageError(f"{self.path}: no pass was watched: call it within the `with`")
        return unmerge(x, self.group, dropped=dropped)

    def __enter__(self) -> Self:
        self.group, self._passed = None, []
        self._handles = [m.register_forward_pre_hook(self._note) for m in self.compressors]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, compressor: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(compressor, DataCompressor)
        tokens: TokenBatch = inputs[0]
        if any(compressor is other for other in self._passed):  # another pass
            self.group, self._passed = None, []
        self._passed.append(compressor)
        with random_states_kept([tokens.x.device]), torch.no_grad():
            places = compressor.groups(tokens)
        if places is None:
            raise UsageError(
                f"{self.path}: the compressor {compressor.config.name!r} does not tell where it "
                "puts tokens: it has no method `groups`"
            )
        self.protected = tokens.protected
        self.group = places if self.group is None else composed([self.group, places])


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


def merged_patches(model: nn.Module, batch: Tensor, prepared: Preprocessing) -> list[PatchGroups]:
    """What becomes of the patches of a few images; none where that is not to be known.

    Args:
        model: in evaluation.
        batch: its input, float32 [B, C, H, W].
        prepared: what made it.
    """
    try:
        watch = TokenWatch(model, "the model")
        with watch, torch.no_grad():
            model(batch)
        return [*patch_groups(watch, batch, prepared)] if watch.group is not None else []
    except UsageError:  # no compressor, or one that does not tell, or no grid of patches
        return []
