"""Data sets: decoded once, kept on the device, turned into batches there.

Knows images, labels and ranks, nothing of models or pruning. The rooms above may import it.
"""

from prunekit.data.batches import Batch, DataSet, EvalSplit
from prunekit.data.load import check_shares, open_dataset

__all__ = ["Batch", "DataSet", "EvalSplit", "check_shares", "open_dataset"]
