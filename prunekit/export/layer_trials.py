"""A finished model with one layer pruned at a time: what it then gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.data import DataSet
from prunekit.errors import CheckpointError, UsageError
from prunekit.foundation.modules import copy_into, tensors
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.context import Sources
from prunekit.pruning.engine import Engine
from prunekit.registry import STRATEGIES
from prunekit.registry.make import make

Split = Literal["train", "validation", "test"]
NO_STEP = Timeline.single(0)


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """One layer at one sparsity."""

    sparsity: float
    """That was asked for, of the units of the layer."""
    kept: int
    """Units."""
    top1: float
    """[0, 1]."""
    loss: float
    """Cross-entropy in nats."""


class LayerTrials:
    """A model that is pruned and put back as it was, again and again; `logits` is its pass."""

    def __init__(
        self,
        model: nn.Module,
        data: DataSet,
        split: Split,
        samples: int,
        logits: Callable[[Tensor], Tensor],
    ) -> None:
        self.model, self.data, self.split, self.logits = model, data, split, logits
        sizes = {"train": data.train_size, "validation": data.validation_size}
        there = sizes.get(split, data.test_size)
        if not there:
            raise UsageError(f"split {split}: the run held no samples out: use train or test")
        self.count = min(samples, there)
        self.as_it_was = {name: tensor.clone() for name, tensor in tensors(model).items()}

    def point(
        self, name: str, sparsity: float, strategy: str, structure: str
    ) -> tuple[LayerPoint, int]:
        """What the model gives with this layer pruned, and the units of the layer."""
        settings = {"sparsity": sparsity, "structure": structure, "scope": {"include": [name]}}
        made = make(STRATEGIES, strategy, settings)
        sources = Sources(data=self.data, input_shape=self.data.spec.input_shape)
        try:
            engine = Engine(self.model, [made], NO_STEP, sources=sources)
            engine.start()
            (units,) = engine.units()
            top1, loss = self.measure()
        finally:
            copy_into(self.model, self.as_it_was, "the model")
        return LayerPoint(sparsity, units.kept, top1, loss), units.total

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """Accuracy and loss."""
        hits, loss, seen = 0, 0.0, 0
        self.model.eval()
        for images, labels in self._batches():
            logits, seen = self.logits(images).float(), seen + len(labels)
            hits += int((logits.argmax(-1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        if loss != loss:
            raise CheckpointError("the model gives a loss that is not finite")
        return hits / seen, loss / seen

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.split == "train":
            yield from self.data.calibration(self.count)
            return
        left = self.count
        for images, labels in self.data.eval_batches(self.split):
            yield images[:left], labels[:left]
            left -= min(left, len(labels))
            if not left:
                return
