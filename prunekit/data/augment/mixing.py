"""Mixup and cutmix of neighbours in a batch: sample 2i with 2i + 1, and 2i + 1 with 2i.

For a pair it is what torchvision's `MixUp` and `CutMix` do to a batch of two. Where both are asked
for, a pair takes either with the same chance, as timm has it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.data.split import generator
from prunekit.foundation.seeding import seed_for
from prunekit.foundation.transfer import send
from prunekit.registry.augmentations import CutMix, MixUp

PLAIN, MIXED, CUT = 0, 1, 2
"""What becomes of a pair."""


def draw_mixing(
    mixup: MixUp | None, cutmix: CutMix | None, count: int, seed: int, step: int
) -> Tensor:
    """What becomes of each pair of `count` samples; `count` is even.

    Args:
        mixup: None = it is not asked for.
        cutmix: as `mixup`.
        count: samples.
        seed: of the run.
        step: optimizer steps done.

    Returns:
        float64 [count, 4], both samples of a pair alike: which of the two, or neither; the share of
        the image itself; the middle of the rectangle, in [0, 1), down and across.
    """
    pairs = count // 2
    shares, happens = {}, {}
    for name, config in (("mixup", mixup), ("cutmix", cutmix)):
        if config is not None:
            source = np.random.default_rng(seed_for(seed, name, step))
            shares[name] = torch.from_numpy(source.beta(config.alpha, config.alpha, pairs))
            happens[name] = torch.from_numpy(source.random(pairs)) < config.probability
    coin = torch.rand(pairs, dtype=torch.float64, generator=generator(seed, "mix", step))
    middle = torch.rand(pairs, 2, dtype=torch.float64, generator=generator(seed, "cut", step))
    cuts = coin < (0.5 if len(shares) == 2 else float(cutmix is not None))
    nothing = torch.zeros(pairs, dtype=torch.float64)
    share = shares.get("cutmix", nothing).where(cuts, shares.get("mixup", nothing))
    never = torch.zeros(pairs, dtype=torch.bool)
    mixed = happens.get("cutmix", never).where(cuts, happens.get("mixup", never))
    kind = torch.where(mixed, torch.where(cuts, CUT, MIXED), PLAIN)
    return torch.cat([torch.stack([kind, share], 1), middle], 1).repeat_interleave(2, 0)


def pasted_rectangles(draws: Tensor, size: tuple[int, int]) -> Tensor:
    """Top, bottom, left and right of what is pasted, int64 [B, 4]; empty where nothing is."""
    height, width = size
    half = 0.5 * (1 - draws[:, 1]).clamp(min=0).sqrt()
    edges = []
    for length, middle in ((height, draws[:, 2]), (width, draws[:, 3])):
        at, reach = (middle * length).floor(), (half * length).floor()
        edges += [(at - reach).clamp(min=0), (at + reach).clamp(max=length)]
    return torch.stack(edges, dim=1).long() * (draws[:, :1] == CUT)


def own_shares(draws: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of the image itself in each sample, float64 [B]: of cutmix, what is left of it."""
    top, bottom, left, right = pasted_rectangles(draws, size).unbind(1)
    left_over = 1 - ((bottom - top) * (right - left)).double() / (size[0] * size[1])
    return torch.where(draws[:, 0] == MIXED, draws[:, 1], left_over)


def mix(inputs: Tensor, labels: Tensor, draws: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mix each pair.

    Args:
        inputs: float [B, C, h, w], B even.
        labels: int64 [B].
        draws: float64 [B, 4], on the host.
        classes: how many there are.

    Returns:
        The images, and float32 [B, classes]: the share of each class.
    """
    size = (inputs.shape[2], inputs.shape[3])
    kinds, pixels, other = draws[:, 0], inputs, _neighbours(inputs)
    if bool((kinds == CUT).any()):
        pixels = torch.where(_inside(pasted_rectangles(draws, size), inputs), other, pixels)
    if bool((kinds == MIXED).any()):
        there = send(kinds == MIXED, inputs.device).view(-1, 1, 1, 1)
        pixels = torch.where(there, _blend(inputs, other, draws[:, 1]), pixels)
    own = own_shares(draws, size)
    targets = F.one_hot(labels, classes).float()
    return pixels, _blend(targets, _neighbours(targets), own)


def _inside(rectangles: Tensor, like: Tensor) -> Tensor:
    """Bool [B, 1, h, w]: which pixels lie in the rectangle of their sample."""
    top, bottom, left, right = send(rectangles, like.device)[..., None].unbind(1)
    rows, columns = (torch.arange(length, device=like.device) for length in like.shape[2:])
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def _neighbours(batch: Tensor) -> Tensor:
    """The other sample of each pair in the place of each."""
    pairs = batch.view(-1, 2, *batch.shape[1:])
    return pairs.flip(1).flatten(0, 1)


def _blend(batch: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """The sum share * batch + (1 - share) * other, in torchvision's order of operations."""
    shape = (-1,) + (1,) * (batch.ndim - 1)
    first, second = (send(s.to(batch.dtype), batch.device).view(shape) for s in (share, 1 - share))
    return other.mul(second).add_(batch.mul(first))
