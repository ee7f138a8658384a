"""Imported by the server that reading processes are forked from, and nowhere else."""

from torchvision.transforms.v2 import functional

from prunekit.data import images, own
from prunekit.data.stream.processes import be_deaf
from prunekit.data.stream.reader import Reader

__all__ = ["Reader", "functional", "images", "own"]

be_deaf()
