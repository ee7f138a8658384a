"""A file of a user's own, and what is run with it."""

import hashlib
from pathlib import Path

from prunekit.recipe.load import load_recipe
from prunekit.registry.own_code import use_code
from prunekit.train.launch import run_recipe

SOURCE = '''
"""A module and a data set, as a user writes them."""

import torch
from torch import nn


class TinyNet(nn.Module):
    """A hidden layer."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int = 8):
        super().__init__()
        self.hidden = nn.Linear(in_channels * image_size**2, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.hidden(images.flatten(1)).relu())


def stripes(count: int = 40, size: int = 4):
    """Two classes: light above, or light below."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, size, size)
    for image, label in zip(images, labels):
        image[0, label * (size // 2) :][: size // 2] = 1.0
    return (images[:-16], labels[:-16]), (images[-16:], labels[-16:])
'''
RECIPE = """
name: own
data: {name: stripes, batch_size: 8}
model: {name: TinyNet}
strategies: [{name: magnitude, sparsity: 0.5, schedule: constant}]
optimizer: {name: sgd, lr: 0.1}
phases: [{name: train, length: 4st}]
"""


def written(folder: Path, source: str = SOURCE, name: str = "mine.py") -> Path:
    """A file of code in a folder."""
    path = folder / name
    path.write_text(source)
    return path


def own_recipe(folder: Path, text: str = RECIPE) -> Path:
    """A recipe file in a folder."""
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def own_run(folder: Path) -> Path:
    """A finished run of `RECIPE` in `folder / runs`, with its recipe and `mine.py` in `folder`."""
    with use_code(written(folder)):
        return run_recipe(load_recipe(own_recipe(folder)), out=folder / "runs")


def sha256_of(path: Path) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
