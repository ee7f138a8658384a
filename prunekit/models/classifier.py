"""Which tensors of a model are its head: one row a class, told by what the model computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prunekit.foundation.modules import evaluating
from prunekit.registry.configs import DataSpec

IMAGES = 2
CLASSES_TRIED = 16


@torch.enable_grad()
def class_rows(model: nn.Module, names: Sequence[str], spec: DataSpec) -> set[str]:
    """The parameters of `names` whose row k moves the logit of class k, and no other.

    Found by differentiating logits of random images: with respect to such a parameter, the gradient
    of logit k is exactly zero outside of row k. A layer further down moves every logit with each of
    its rows, however many it has.

    Args:
        model: a classifier that takes images of `spec`; neither it nor the random state changes.
        names: parameters to look at.
        spec: the data of the model.
    """
    params = dict(model.named_parameters(remove_duplicate=False))
    looked = [name for name in names if name in params and params[name].requires_grad]
    if not looked:
        return set()
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, spec.channels, spec.height, spec.width)
    device = next(model.parameters()).device
    images = torch.randn(shape, generator=generator).to(device)
    with evaluating(model), torch.random.fork_rng(devices=[]):
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.shape != (IMAGES, spec.classes):
        return set()
    tried = range(0, spec.classes, max(1, -(-spec.classes // CLASSES_TRIED)))
    elsewhere, moved = dict.fromkeys(looked, False), dict.fromkeys(looked, False)
    for k in tried:
        grads = torch.autograd.grad(
            logits[:, k].sum(), [params[n] for n in looked], retain_graph=True, allow_unused=True
        )
        for name, grad in zip(looked, grads, strict=True):
            rows = _rows_moved(grad, spec.classes)
            moved[name] |= k in rows
            elsewhere[name] |= bool(rows - {k})
    return {name for name in looked if moved[name] and not elsewhere[name]}


def _rows_moved(grad: Tensor | None, classes: int) -> set[int]:
    if grad is None or grad.shape[:1] != (classes,):
        return set()
    return set(grad.reshape(classes, -1).any(1).nonzero().flatten().tolist())
