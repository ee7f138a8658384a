"""What torch raises anywhere in a run and a recipe can mend, in the words of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prunekit.errors import RecipeError, ResourceError

NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""What torch says after the name of an operation."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """What torch raises anywhere in a run and a recipe can mend.

    Raises:
        ResourceError: there was no memory left.
        RecipeError: an operation cannot be deterministic as the recipe wants it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "out of memory: set data.micro_batch, or lower data.batch_size"
        ) from error
    except MemoryError as error:
        raise ResourceError("out of memory: lower data.batch_size or data.train_limit") from error
    except RuntimeError as error:
        operation, found, _ = str(error).partition(NOT_DETERMINISTIC)
        if not found:
            raise
        raise RecipeError(
            f"deterministic: {operation} has no algorithm that gives the same bits each time on "
            "this device: set deterministic to false, or leave out what needs it"
        ) from error
