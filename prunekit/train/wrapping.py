"""What stands around the model while it runs: `torch.compile`, and DDP on several ranks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

NO_GRAPHS = (True, "max-autotune-no-cudagraphs")
"""The modes that launch each kernel for itself; the others replay CUDA graphs on a GPU."""
ONLY_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Modules whose buffers training writes and only evaluation reads; classes derived from them may
do otherwise."""
BUFFERS_AT_EACH_PASS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)
"""What DDP calls it here: later torch warns of the older name, in each process."""


class Compiled:
    """A model through `torch.compile` in two graphs: of training and of evaluation.

    A batch of another size would be another graph, seconds to minutes of compilation for a single
    batch. In training it runs uncompiled, as BatchNorm would see what it is filled up with; in
    evaluation it is filled up with its own images, whose logits are cut off.

    Args:
        model: the plain module.
        mode: of the recipe; False = not compiled at all.
        training: samples of a micro-batch.
        evaluation: samples of a batch of evaluation.
    """

    def __init__(
        self, model: nn.Module, mode: bool | str, *, training: int, evaluation: int
    ) -> None:
        self.is_compiled, self.has_graphs = mode is not False, mode and mode not in NO_GRAPHS
        self.training, self.evaluation = training, evaluation
        self.fills_up = not any(map(_normalises_by_batch, model.modules()))
        self.module = model
        """What is to be called."""
        if self.is_compiled:
            compiled = torch.compile(model, mode=None if mode is True else cast(str, mode))
            self.module = cast(nn.Module, compiled)

    def train_batch(self, images: Tensor) -> AbstractContextManager[object]:
        """Around the forward pass of a micro-batch of training."""
        self._begin(images)
        return self._run(as_graph=len(images) == self.training)

    def logits(self, images: Tensor) -> Tensor:
        """Of a batch of evaluation."""
        count, size = len(images), self.evaluation
        if self.is_compiled and self.fills_up and count < size:
            images = torch.cat([images] * -(-size // count))[:size]
        self._begin(images)
        with self._run(as_graph=len(images) == size):
            logits: Tensor = self.module(images)
        return logits[:count]

    def _begin(self, images: Tensor) -> None:
        if self.is_compiled:  # that training and evaluation differ in size makes neither dynamic
            torch._dynamo.mark_static(images, 0)
        if self.has_graphs:  # what the last pass gave may be written over
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def _run(self, *, as_graph: bool) -> AbstractContextManager[object]:
        if as_graph or not self.is_compiled:
            return nullcontext()
        eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return eager

    def own_gradients(self, params: Iterable[nn.Parameter]) -> None:
        """Move gradients out of the memory of a CUDA graph, where the next pass writes over them.

        Between micro-batches: what is added to them later is added in place.
        """
        if self.has_graphs:
            for param in params:
                if param.grad is not None:
                    param.grad = param.grad.clone()


def _normalises_by_batch(module: nn.Module) -> bool:
    """Whether it does so in evaluation, where a sample then changes what the others give."""
    return isinstance(module, _BatchNorm) and module.running_mean is None


def shared_out(module: nn.Module, plain: nn.Module) -> DistributedDataParallel:
    """The module under DDP: gradients are means over the ranks, held once.

    Buffers go from the main rank to the others at each forward pass only where one of them may be
    of use there: the statistics of BatchNorm are sent before they are read, in evaluation and at
    updates of masks (`ProcessGroup.share_buffers`), and no step depends on them.

    Args:
        module: what is called, compiled or not.
        plain: the model itself.
    """
    sent = not all(
        type(one) in ONLY_STATISTICS
        for one in plain.modules()
        if next(one.buffers(recurse=False), None) is not None
    )
    settings: dict[str, Any] = {"gradient_as_bucket_view": True, BUFFERS_AT_EACH_PASS: sent}
    return DistributedDataParallel(module, **settings)
