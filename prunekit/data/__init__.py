"""Data sets: decoded once, kept on the device, turned into batches there."""

from prunekit.data.batches import Batch, DataSet, EvalSplit
from prunekit.data.opening import open_dataset

__all__ = ["Batch", "DataSet", "EvalSplit", "open_dataset"]
