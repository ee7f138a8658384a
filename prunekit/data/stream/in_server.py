"""Imported by the server that reading processes are forked from, and nowhere else."""

from prunekit.data.stream.processes import be_deaf
from prunekit.data.stream.reader import Reader

__all__ = ["Reader"]

be_deaf()
