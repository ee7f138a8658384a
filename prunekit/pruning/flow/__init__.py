"""What follows what in a model, found from one forward pass and tried: norms, biases, heads."""

from __future__ import annotations

from prunekit.pruning.flow.attention import AttentionHeads
from prunekit.pruning.flow.known import (
    Channels,
    Heads,
    Removable,
    channels,
    heads,
    note_input,
    removable,
)
from prunekit.pruning.flow.removable import RowUnit

__all__ = [
    "AttentionHeads",
    "Channels",
    "Heads",
    "Removable",
    "RowUnit",
    "channels",
    "heads",
    "note_input",
    "removable",
]
