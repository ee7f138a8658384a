"""Real images for a first run: they come with the package."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import numpy as np
import torch

from prunekit.registry.configs import DatasetConfig, Samples, Split


class DigitsConfig(DatasetConfig):
    """Handwritten digits, 8x8, 10 classes: 1,437 training and 360 test images, no download.

    A part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998,
    doi:10.24432/C50P49, CC BY 4.0: see DIGITS-LICENSE.txt). The split is fixed and stratified. The
    test split is small: one image is 0.28 points, so it does not rank methods.
    """

    name: Literal["digits"]

    def load(self, split: Split) -> Samples:
        """The images of a split; the ink counts 0 .. 16 become round(255 * count / 16)."""
        with (
            files("prunekit.data").joinpath("digits.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            chosen = arrays["test"] == (split == "test")
            counts, labels = arrays["images"][chosen], arrays["labels"][chosen]
        images = (counts.astype(np.uint16) * 255 + 8) // 16
        return Samples(
            torch.from_numpy(images.astype(np.uint8)).unsqueeze(1),
            torch.from_numpy(labels.astype(np.int64)),
            tuple("0123456789"),
        )
