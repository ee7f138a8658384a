"""Augmentation of training images: each in two functions, one file each.

One, `draw_...`, makes the random choices for a global batch on the host, from (seed, step) and the
place of a sample in the batch; the other does them to any part of the batch on the device. Neither
knows where the images come from.
"""

from prunekit.data.augment.pipeline import Augmenter, Draws

__all__ = ["Augmenter", "Draws"]
