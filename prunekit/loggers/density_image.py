"""The density of each layer over a run as pixels; a quick run has no time to import matplotlib."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prunekit.runs.density_history import DensityHistory

WIDTH, ROW, SIZE = 480, 14, 11
"""Pixels of the time, of a layer, of its name."""
DEEP, PALE, NONE = (8, 48, 107), (247, 251, 255), (200, 200, 200)
"""All kept, nothing kept, not known: one hue, so that only how dark it is tells."""


def density_image(history: DensityHistory) -> np.ndarray:
    """A row a layer, its name at the left; steps run to the right.

    Returns:
        uint8 [H, W, 3].
    """
    font = ImageFont.load_default(SIZE)
    pairs = zip(history.names, history.shares[:, -1], strict=True)
    labels = [f"{name}  {100 * share:.1f}%" for name, share in pairs]
    left = 12 + max(round(font.getlength(label)) for label in labels)
    last = int(history.steps[-1])
    shares = np.repeat(history.every(WIDTH, last), ROW - 1, axis=0)
    whole = Image.new("RGB", (left + WIDTH + 8, ROW * (len(labels) + 2)), "white")
    draw = ImageDraw.Draw(whole)
    title = f"kept share from step 0 to {last}: dark = all, pale = none; in numbers: at the end"
    draw.text((left, 0), title, "black", font)
    for number, label in enumerate(labels):
        top = ROW * (number + 1)
        draw.text((left - 6 - font.getlength(label), top), label, "black", font)
        strip = _colours(shares[number * (ROW - 1) : (number + 1) * (ROW - 1)])
        whole.paste(Image.fromarray(strip), (left, top))
    return np.asarray(whole)


def _colours(shares: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] for shares 0 .. 1."""
    deep, pale = np.array(DEEP, float), np.array(PALE, float)
    known = np.sqrt(np.nan_to_num(shares).clip(0, 1))[
        ..., None
    ]  # what is nearly empty is told apart
    mixed = pale + (deep - pale) * known
    mixed[np.isnan(shares)] = NONE
    found: np.ndarray = mixed.round().astype(np.uint8)
    return found
