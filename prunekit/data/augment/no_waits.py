"""Code of others on a device whose host waits for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prunekit.foundation.transfer import send

MAKERS = (torch.tensor, torch.as_tensor)
"""What makes a tensor of numbers of the host; the copy to a device waits there."""


class NoWaits(TorchFunctionMode):
    """Within, tensors that are made of numbers go to their device without a wait, and a number is
    put under a mask by `masked_fill_`. The same values come out, to the bit.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what was asked for."""
        settings = dict(kwargs or {})
        if function in MAKERS and settings.get("device") is not None and not _is_made(args):
            device = torch.device(settings.pop("device"))
            return send(function(*args, **settings), device)
        if function is Tensor.__setitem__ and _is_under_a_mask(*args):
            return args[0].masked_fill_(*args[1:])
        return function(*args, **settings)


def _is_made(args: Sequence[Any]) -> bool:
    return isinstance(args[0], Tensor)


def _is_under_a_mask(held: Tensor, index: Any, value: Any) -> bool:
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
    return is_mask and index.shape == held.shape and isinstance(value, Number)
