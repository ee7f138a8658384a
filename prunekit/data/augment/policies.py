"""RandAugment and TrivialAugment: a few random operations an image, batched by operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from prunekit.data.augment.no_waits import NoWaits
from prunekit.data.split import generator
from prunekit.foundation.transfer import send
from prunekit.registry.augmentations import STRENGTHS

ONE_THREAD = 32_767
"""So many values, torch goes through an element-wise operation in one piece; more are cut, at
places that depend on how many there are."""
VECTOR = 64
"""Images whose values are a multiple of this lie alike in the registers of a processor."""


def draw_operations(name: str, rounds: int, count: int, seed: int, step: int) -> Tensor:
    """The operations of `count` samples.

    Args:
        name: of the augmentation.
        rounds: operations a sample.
        count: samples.
        seed: of the run.
        step: optimizer steps done.

    Returns:
        int64 [count, rounds, 3]: operation 0 .. 13, strength 0 .. 30, whether it is negative.
    """
    found = torch.empty(count, rounds, 3, dtype=torch.int64)
    for column, high in enumerate((14, STRENGTHS, 2)):
        found[..., column].random_(0, high, generator=generator(seed, name, column, step))
    return found


def operate(images: Tensor, draws: Tensor, name: str, interpolation: str) -> Tensor:
    """Do each sample's operations to it, one after the other.

    Samples with the same operation at the same strength go through it together.

    Args:
        images: uint8 [B, 1 or 3, H, W].
        draws: int64 [B, rounds, 3], on the host.
        name: of the augmentation.
        interpolation: of shears, translations and rotations.

    Returns:
        uint8 [B, C, H, W].
    """
    from prunekit.data.augment.operations import OPERATIONS  # torchvision, which most do without

    known = list(OPERATIONS[name].values())
    strengths = [one.strengths(images.shape[2], images.shape[3]) for one in known]
    images = images.clone()
    for choices in draws.unbind(1):
        groups: defaultdict[tuple[int, float], list[int]] = defaultdict(list)
        for i, (number, level, negative) in enumerate(choices.tolist()):
            groups[number, strengths[number][level][negative]].append(i)
        for (number, strength), members in groups.items():
            if number == 0:  # the identity
                continue
            kernel = known[number].kernel
            for piece in _pieces(members, images):
                # one sample is a view: no copy of it is made
                one = slice(piece[0], piece[0] + 1)
                rows = one if len(piece) == 1 else send(torch.tensor(piece), images.device)
                with _no_waits(images.device):
                    done = kernel(images[rows], strength, interpolation)
                images[rows] = done
    return images


def _no_waits(device: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if device.type == "cpu" else NoWaits()


def _pieces(members: list[int], images: Tensor) -> Iterator[list[int]]:
    """Samples that may go through an operation together, so that none changes another's last bit.

    On a CPU the last values of a tensor are computed by other instructions, and a long one by
    several threads: so that it shows nowhere, calls are short and images fill registers.
    """
    values, many = images[0].numel(), len(members)
    if images.device.type == "cpu":
        many = max(1, ONE_THREAD // values) if values % VECTOR == 0 else 1
    for begin in range(0, len(members), many):
        yield members[begin : begin + many]
