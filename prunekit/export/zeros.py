"""Whether the zeros of the pruned tensors are in a file, entry by entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from prunekit.errors import ExportError


def count_zeros(
    file: str, pruned: Mapping[str, Tensor], written: Iterable[tuple[str, Tensor]]
) -> int:
    """Zeros of the pruned tensors, after a look whether the file has each of them in its place.

    An exporter may turn a matrix around under another name, or fold the factor of a BatchNorm into
    a convolution: zeros stay zeros. What is all zeros, as the shift of an empty layer, it may leave
    out.

    Args:
        file: for the message.
        pruned: name -> tensor of the model.
        written: names and tensors of the file.

    Raises:
        ExportError: a tensor is not in the file with these zeros.
    """
    there = dict(written)
    turned = {_pattern(t.T) for t in there.values() if t.ndim == 2}
    turned |= {_pattern(tensor) for tensor in there.values()}
    lost = [
        name
        for name, tensor in pruned.items()
        if not _holds(tensor, there.get(name))
        and _pattern(tensor) not in turned
        and (name in there or bool(tensor.any()))
    ]
    if lost:
        raise ExportError(
            f"{file}: {lost[0]} is not in it with the zeros of the run"
            + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else "")
            + ": the exporter computed something else from the weights alone: leave such tensors "
            "out by scope.exclude of the strategy"
        )
    return sum(int((tensor == 0).sum()) for tensor in pruned.values())


def _holds(tensor: Tensor, written: Tensor | None) -> bool:
    if written is None or written.shape != tensor.shape:
        return False
    return not bool(written[tensor == 0].any())


def _pattern(tensor: Tensor) -> tuple[tuple[int, ...], str]:
    """The shape, and a digest of which entries are zero."""
    zero = np.packbits((tensor == 0).numpy())
    return tuple(tensor.shape), hashlib.sha256(zero.data).hexdigest()
