"""BatchNorm over the samples of all processes, for as long as a forward pass lasts.

Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1, with mean and variance of the whole batch.
torch's own SyncBatchNorm refuses a CPU and takes the place of modules; here each call of
`F.batch_norm` is seen on its way, so that any module of any kind is served and none is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from prunekit.train.distributed import ProcessGroup

SIGNATURE = inspect.signature(F.batch_norm)


class SyncedNorms(TorchFunctionMode):
    """Inside, BatchNorm in training normalises over all processes.

    Args:
        group: the processes; each has as many samples.
    """

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called in the place of each function of torch."""
        if func is F.batch_norm:
            call = SIGNATURE.bind(*args, **(kwargs or {}))
            call.apply_defaults()
            if call.arguments["training"]:
                return synced_batch_norm(self.group, **call.arguments)
        return func(*args, **(kwargs or {}))


def synced_batch_norm(  # noqa: PLR0913 - what `F.batch_norm` takes
    group: ProcessGroup,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """`F.batch_norm` in training over the samples of all processes.

    Raises:
        ValueError: there is one value a channel in all.
    """
    count = input.numel() // input.shape[1] * group.world
    if count < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got {tuple(input.shape)} on "
            f"each of {group.world} processes"
        )
    out, mean, variance = _Normalised.apply(input, group, count, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        if running_var is not None:
            unbiased = variance * (count / (count - 1))
            running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)
    if weight is not None:
        out = out * _along(weight, out)
    if bias is not None:
        out = out + _along(bias, out)
    normalised: Tensor = out
    return normalised.to(input.dtype)


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps), mean and variance [C] over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: ProcessGroup, count: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, C, ...] -> the same, normalised, float32 at least; mean and variance, each [C].

        Args:
            ctx: of autograd.
            x: the batch of this process; all have as many samples.
            group: the processes.
            count: values of a channel, over all of them.
            eps: is added to the variance.
        """
        x, dims = _wide(x), [d for d in range(x.ndim) if d != 1]
        own = torch.stack([x.mean(dims), x.var(dims, correction=0)])
        all_own = [torch.empty_like(own) for _ in range(group.world)]
        dist.all_gather(all_own, own)
        means, variances = torch.stack(all_own, 1).unbind()
        mean = means.mean(0)
        # within the processes and between them (Chan et al. 1982), as they have as many samples
        variance = variances.mean(0) + (means - mean).square().mean(0)
        scale = (variance + eps).rsqrt()
        out = (x - _along(mean, x)) * _along(scale, x)
        ctx.save_for_backward(out, scale)
        ctx.group, ctx.count = group, count
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        """The gradient of x, by sums over all processes (arXiv:1502.03167, section 3)."""
        out, scale = ctx.saved_tensors
        dims = [d for d in range(out.ndim) if d != 1]
        own = torch.stack([grad.sum(dims), (grad * out).sum(dims)])
        of_mean, of_scale = ctx.group.total(own) / ctx.count
        inner = grad - _along(of_mean, out) - out * _along(of_scale, out)
        return inner * _along(scale, out), None, None, None


def _wide(x: Tensor) -> Tensor:
    """In float32 at least, as statistics are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _along(channels: Tensor, x: Tensor) -> Tensor:
    """[C] as it is multiplied with x [B, C, ...]."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))
