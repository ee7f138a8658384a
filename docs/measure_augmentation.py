"""Measure what augmentation costs, for docs/performance.md: `python docs/measure_augmentation.py`.

A batch through prunekit's two functions, draws included, over torchvision's own transform called on
each image, in one process on one thread, in turns.
"""

from __future__ import annotations

import argparse

import torch
from torchvision.transforms import v2

from prunekit.bench.measure import AGAIN, in_turn, one_thread, timed
from prunekit.data.augment import Augmenter
from prunekit.registry import DATASETS
from prunekit.registry.configs import DataSpec

CLASSES = 10
OF_PIXELS = {
    "flip": v2.RandomHorizontalFlip(),
    "random_resized_crop": lambda side: v2.RandomResizedCrop(side, antialias=True),
    "rand_augment": v2.RandAugment(),
    "trivial_augment": v2.TrivialAugmentWide(),
    "color_jitter": v2.ColorJitter(0.4, 0.4, 0.4),
}
OF_INPUTS = {"random_erasing": v2.RandomErasing(0.25)}
OF_BATCHES = {
    "mixup": v2.MixUp(alpha=0.8, num_classes=CLASSES),
    "cutmix": v2.CutMix(num_classes=CLASSES),
}


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    print("| | side | ours, a batch | torchvision, a batch | ratio | null |")
    print("|---|---|---|---|---|---|")
    for side in asked.sides:
        for name in (*OF_PIXELS, *OF_INPUTS, *OF_BATCHES):
            print(row(name, asked.batch, side, asked.rounds), flush=True)


def row(name: str, batch: int, side: int, rounds: int) -> str:
    """One augmentation at one size."""
    spec = DataSpec(3, side, side, CLASSES)
    augment = DATASETS.parse({"name": "digits", "augment": (name,)}).augment
    augmenter = Augmenter(augment, spec, (side, side))
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    inputs, labels = torch.randn(batch, 3, side, side), torch.randint(0, CLASSES, (batch,))
    theirs = (OF_PIXELS | OF_INPUTS | OF_BATCHES)[name]
    if name == "random_resized_crop":
        theirs = theirs(side)

    def ours() -> None:
        draws = augmenter.draw(batch, 0, 0)
        augmenter.pixels(images, draws)
        augmenter.inputs(inputs, labels, draws)

    def by_image() -> None:
        if name in OF_BATCHES:  # torchvision's own work on batches
            theirs(inputs, labels)
        else:
            torch.stack([theirs(image) for image in (images if name in OF_PIXELS else inputs)])

    with one_thread():
        work = {"torchvision": timed(by_image), AGAIN: timed(by_image), "ours": timed(ours)}
        found = in_turn(work, rounds, rounds)
    ratio, null = found.ratio("ours"), found.null
    return (
        f"| `{name}` | {side} | {found.median_ms('ours'):.3g} ms | "
        f"{found.median_ms('torchvision'):.3g} ms | {ratio.median:.2f} ({ratio.low:.2f} to "
        f"{ratio.high:.2f}) | {null.median:.2f} ({null.low:.2f} to {null.high:.2f}) |"
    )


if __name__ == "__main__":
    main()
