"""Imported by the server that reading processes are forked from, and nowhere else."""

from torchvision.transforms.v2 import functional

from prunekit.data import folder_source, images, own, packed_source
from prunekit.data.stream.processes import be_deaf
from prunekit.data.stream.reader import Reader

__all__ = ["Reader", "folder_source", "functional", "images", "own", "packed_source"]

be_deaf()
