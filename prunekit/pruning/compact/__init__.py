"""What is empty leaves the model: whole heads, channels and hidden units, exactly."""

from __future__ import annotations

from prunekit.pruning.compact.compacting import compact
from prunekit.pruning.compact.values import Compacted, Proof, Removed, Stayed

__all__ = ["Compacted", "Proof", "Removed", "Stayed", "compact"]
