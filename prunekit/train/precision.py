"""The numbers that a run computes with, and the watch that they stay finite."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.errors import DivergedError, RecipeError
from prunekit.foundation.autocast import DTYPES, autocast, unscale_again
from prunekit.foundation.devices import has_float64
from prunekit.pruning.origins import Origins

PATIENCE = 40
"""fp16 steps in a row that may overflow: from 2^16 the scale has then fallen below 2^-23."""


LATER = (
    "; nothing was saved since the last checkpoint: lower optimizer.lr, set optimizer.clip_norm, "
    "or use precision fp32 or bf16"
)
FROM_THE_START = (
    ", before a weight has changed: look at the model's own forward pass, its start weights "
    "(model.init), the loss and data.mean and data.std, or use precision fp32"
)


class Precision:
    """Autocast, the loss scale of fp16, and a flag that a gradient was not finite.

    On a GPU the host does not wait for the flag: it is read before anything is logged, decided or
    saved.
    """

    def __init__(self, name: str, device: torch.device, origins: Origins | None = None) -> None:
        self.origins = origins or Origins()
        """Told of each pass; knows the hook that gave the first number that is not finite."""
        self.dtype, self.device = DTYPES[name], device
        # torch takes the reciprocal of the loss scale in float64 on all devices but Apple's
        if name == "fp16" and not has_float64(device) and device.type != "mps":
            raise RecipeError(
                f"precision: fp16 needs float64 for its loss scale, which {device.type} has not: "
                "use bf16"
            )
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self._bad = torch.zeros((), dtype=torch.bool, device=device)
        self._overflows, self._unscaled = 0, False
        self._norm: Tensor | None = None  # of the gradients that `_looked_at` were
        self._looked_at: list[tuple[Tensor, int]] = []  # each with the count of its writes

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes in this precision."""
        return autocast(self.dtype, self.device)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the scaled loss."""
        torch.autograd.backward(self.scaler.scale(loss))

    def accepts(self, model: nn.Module, optimizer: Optimizer, step: int) -> bool:
        """Unscale the gradients of a pass and look at them: the same on all ranks, being means.

        Returns:
            False after an overflow in fp16: the scale is lower now, and the batch is to run again.

        Raises:
            DivergedError: not finite.
        """
        if self._unscaled:
            unscale_again(self.scaler)
        self.scaler.unscale_(optimizer)
        self._unscaled = True
        if self.scaler.is_enabled():
            self._overflows = 0 if bool(self._norm_of(model).isfinite()) else self._overflows + 1
            if 0 < self._overflows <= PATIENCE:
                self._update()
                self.origins.forget()
                return False
        self.look(model, step)
        return True

    def look(self, model: nn.Module, step: int) -> None:
        """Note whether a gradient is not finite.

        Raises:
            DivergedError: one is; on a GPU `stop_if_bad` says so.
        """
        bad = ~self._norm_of(model).isfinite()
        self._bad |= bad
        self.origins.spoil(bad)
        if self.device.type == "cpu":
            self.stop_if_bad(step)

    def stop_if_bad(self, step: int) -> None:
        """Stop where a gradient was not finite so far.

        Raises:
            DivergedError: one was.
        """
        if bool(self._bad):
            self.origins.refuse(step)
            remedy = FROM_THE_START if step == 0 else LATER
            raise DivergedError(f"the loss or its gradient is not finite at step {step}{remedy}")

    def clip(self, model: nn.Module, most: float) -> None:
        """Gradients of a norm of `most`, or less: as `nn.utils.clip_grad_norm_`."""
        nn.utils.clip_grads_with_norm_(model.parameters(), most, self._norm_of(model))

    def _norm_of(self, model: nn.Module) -> Tensor:
        """Of all gradients, measured again only where one was written since."""
        grads = [param.grad for param in model.parameters() if param.grad is not None]
        now = [(grad, grad._version) for grad in grads]
        same = len(now) == len(self._looked_at) and all(
            a is b and version == then
            for (a, version), (b, then) in zip(now, self._looked_at, strict=True)
        )
        if self._norm is None or not same:
            self._norm, self._looked_at = nn.utils.get_total_norm(grads), now
        return self._norm

    def step(self, optimizer: Optimizer, take: bool) -> None:
        """`optimizer.step()`, if one is to be taken; the scale may rise again either way."""
        if take and getattr(optimizer, "_step_supports_amp_scaling", False):
            self.scaler.step(optimizer)
        elif take:  # its gradients were looked at: the scaler would have the host wait once more
            optimizer.step()
        self._update()

    def _update(self) -> None:
        self.scaler.update()
        self._unscaled = False
        self.let_go()

    def let_go(self) -> None:
        """Forget the gradients that were looked at, so that no pass holds those of the last."""
        self._norm, self._looked_at = None, []
