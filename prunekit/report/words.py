"""Keys of the log in words, for headings and axes. Torch-free."""

from __future__ import annotations

import re

WORDS = (
    (r"train/loss", "training loss"),
    (r"train/accuracy", "training accuracy"),
    (r"train/lr", "learning rate"),
    (r"train/images_per_second", "images per second"),
    (r"eval/(\w+)_top1", r"\1 accuracy"),
    (r"eval/(\w+)_loss", r"\1 loss"),
    (r"sparsity/achieved", "sparsity"),
    (r"sparsity/target", "target sparsity"),
    (r"density/(.+)", r"density of \1"),
    (r"flips/(.+)", r"flips of \1"),
    (r"tokens/in", "tokens before compression"),
    (r"tokens/out", "tokens after compression"),
)


def in_words(key: str) -> str:
    """`eval/test_top1` -> `test accuracy`; a key of a probe, or an unknown one, as it is."""
    for pattern, words in WORDS:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, words, key)
    return key


def heading(text: str) -> str:
    """With a capital, unless it is a key."""
    return text if "/" in text else text[:1].upper() + text[1:]
