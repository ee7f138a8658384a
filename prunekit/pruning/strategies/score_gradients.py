"""The gradients that scores are made of, and what becomes of weights that none reaches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from prunekit.errors import RecipeError
from prunekit.foundation.warn import warn_once

CHECKPOINT = "a checkpoint of torch with use_reentrant=True"


class ScoreGradients:
    """Takes gradients with respect to a scope; no `.grad` is written.

    A weight without a gradient gets zeros, which is right of one that no sample came by, as an
    expert that was not chosen; and wrong of one that the model computes with unrecorded.
    """

    def __init__(self, strategy: str, params: Mapping[str, Tensor]) -> None:
        """Nothing is taken yet.

        Args:
            strategy: its name, for what is told.
            params: the scope by name.
        """
        self.strategy, self.params = strategy, params
        self._unreached = set(params)

    def of(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss, each of the shape of its parameter, in their order.

        Raises:
            RecipeError: the model has a checkpoint that gives no gradients of single parameters.
        """
        params = [*self.params.values()]
        found: Iterable[Tensor | None] = [None] * len(params)
        if loss.requires_grad:
            try:
                found = torch.autograd.grad(loss, params, allow_unused=True)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                raise RecipeError(
                    f"strategy {self.strategy}: the model has {CHECKPOINT}, which gives no "
                    "gradients of single parameters: set that to False"
                ) from error
        named = dict(zip(self.params, found, strict=True))
        self._unreached -= {name for name, grad in named.items() if grad is not None}
        return [
            torch.zeros_like(param) if grad is None else grad
            for param, grad in zip(params, named.values(), strict=True)
        ]

    def total(self, losses: Iterable[Tensor]) -> list[Tensor]:
        """The gradient of the sum of `losses`; one graph lives at a time."""
        totals = [torch.zeros_like(param) for param in self.params.values()]
        for loss in losses:
            for total, grad in zip(totals, self.of(loss), strict=True):
                total += grad
        return totals

    def check(self, forward: Callable[[], object]) -> None:
        """Look at the weights that no gradient has reached, where there are any.

        One that no loss depends on is told of: it scores 0, and goes first.

        Args:
            forward: passes a batch once more.

        Raises:
            RecipeError: the model computes with one where no gradient is recorded.
        """
        left = [name for name in self.params if name in self._unreached]
        if not left:
            return
        with _Unrecorded([self.params[name] for name in left]) as unrecorded:
            forward()
        if hidden := [name for name in left if id(self.params[name]) in unrecorded.seen]:
            raise RecipeError(
                f"strategy {self.strategy}: {_first(hidden)} has no gradient to be scored by, as "
                f"the model computes with it where none is recorded: under torch.no_grad(), or in "
                f"{CHECKPOINT}: set that to False, or leave it out with scope.exclude"
            )
        warn_once(
            f"strategy {self.strategy}: {_first(left)} has no part in the loss of the calibration "
            "samples: it scores 0 and is pruned first; scope.exclude leaves it out"
        )


class _Unrecorded(TorchFunctionMode):
    """Which of some tensors operations take while no gradient is recorded."""

    def __init__(self, watched: Collection[Tensor]) -> None:
        super().__init__()
        self._watched, self.seen = {id(tensor) for tensor in watched}, set[int]()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() and func.__name__ != "__get__":  # a shape is no use of it
            self.seen |= self._watched & {id(one) for one in tree_leaves((args, kwargs))}
        return func(*args, **kwargs)


def _first(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
