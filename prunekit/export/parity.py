"""Whether what was written gives the logits of the model: in several batch sizes, image by image.

The reference runs once. Where tokens merge, a similarity that is equal but for rounding may go the
other way, and an image takes another path through the model: one such image is named and allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.errors import ExportError
from prunekit.foundation.unfinished import stop_if_asked

BATCHES = (1, 2, 7)
LIMIT = 1e-4
"""Largest difference of a logit, as a share of the largest logit of all images."""
REFERENCE_BATCH = 32


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the logits of a file are from those of the model."""

    images: int
    difference: float
    """Largest, as a share of the largest logit; without the images in `other`."""
    other: tuple[int, ...]
    """Images of the test split that take another path; at most one, and only with tokens."""


@torch.no_grad()
def reference(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of the model, [N, classes].

    Raises:
        ExportError: they are not finite, or all zero: no comparison would show anything.
    """
    logits = torch.cat([_stoppable(model, part) for part in torch.split(images, REFERENCE_BATCH)])
    if not bool(torch.isfinite(logits).all()):
        raise ExportError("the model gives logits that are not finite: there is nothing to compare")
    if not bool(logits.any()):
        raise ExportError("the model gives only zeros: there is nothing to compare")
    return logits


def _stoppable(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    stop_if_asked()
    return run(images)


@torch.no_grad()
def compare_logits(
    file: str, run: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor, *, tokens: bool
) -> Parity:
    """Run all images in each batch size.

    Args:
        file: for the message.
        run: [B, C, H, W] -> [B, classes].
        images: [N, C, H, W].
        expected: logits of the model.
        tokens: whether the model has compressors.

    Raises:
        ExportError: the logits differ.
    """
    largest = float(expected.abs().max())
    worst = torch.zeros(len(images))
    flipped = torch.zeros(len(images), dtype=torch.bool)
    for batch in BATCHES:
        logits = torch.cat([_stoppable(run, part) for part in torch.split(images, batch)])
        if logits.shape != expected.shape:
            raise ExportError(f"{file}: gives {tuple(logits.shape)}, not {tuple(expected.shape)}")
        apart = (logits - expected).abs().amax(-1) / largest
        worst = torch.maximum(worst, apart.nan_to_num(nan=torch.inf, posinf=torch.inf))
        flipped |= logits.argmax(-1) != expected.argmax(-1)
    bad = (flipped | (worst > LIMIT)).nonzero().flatten().tolist()
    if len(bad) > (1 if tokens else 0):
        raise ExportError(
            f"{file}: differs from the model on {len(bad)} of {len(images)} test images, first "
            f"number {bad[0]}: by {float(worst.max()):.1e} of the largest logit (at most "
            f"{LIMIT:.0e}), another class on {int(flipped.sum())}: nothing is written"
        )
    same = torch.ones(len(images), dtype=torch.bool)
    same[bad] = False
    return Parity(len(images), float(worst[same].max()), tuple(bad))
