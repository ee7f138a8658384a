"""What torch raises anywhere in a run and a recipe can mend, in the words of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prunekit.errors import RecipeError, ResourceError

NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""What torch says after the name of an operation."""

NO_MEMORY = ("DefaultCPUAllocator: ", "std::bad_alloc")
"""What torch says where the host has no memory left; an accelerator's error has a class."""
TOO_LARGE = ("calculation overflowed", "multiplication overflow", "Overflow when unpacking long")
"""What torch says of sizes beyond 64 bits."""


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
            "out of memory: set data.micro_batch (of an evaluation data.eval_batch), or lower "
            "data.batch_size"
        ) from error
    except MemoryError as error:
        raise ResourceError("out of memory: lower data.batch_size or data.train_limit") from error
    except RuntimeError as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise ResourceError(
                "out of memory: make the model, data.batch_size or data.micro_batch smaller"
            ) from error
        if any(words in str(error) for words in TOO_LARGE):
            raise RecipeError(
                f"a tensor would have more entries than torch counts ({_first_line(error)}): make "
                "the model or data.batch_size smaller"
            ) from error
        operation, found, _ = str(error).partition(NOT_DETERMINISTIC)
        if not found:
            raise
        raise RecipeError(
            f"deterministic: {operation} has no algorithm that gives the same bits each time on "
            "this device: set deterministic to false, or leave out what needs it"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
