"""What torch raises anywhere in a run and a recipe can mend, in the words of a recipe."""

from __future__ import annotations

from types import TracebackType

import torch

from prunekit.errors import PrunekitError, RecipeError, ResourceError
from prunekit.registry.faults import plugin_fault
from prunekit.train.distributed import is_lost_peer

NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""What torch says after the name of an operation."""

NO_MEMORY = ("DefaultCPUAllocator: ", "std::bad_alloc")
"""What torch says where the host has no memory left; an accelerator's error has a class."""
TOO_LARGE = ("calculation overflowed", "multiplication overflow", "Overflow when unpacking long")
"""What torch says of sizes beyond 64 bits."""
DEVICE_FAILS = ("CUDA error", "cuDNN error")
"""How it says that a device failed, also where that has no class."""


class ToldPlainly:
    """A block of which is told what a recipe can mend, and whose code failed.

    Raises:
        ResourceError: there was no memory left.
        RecipeError: an operation cannot be deterministic as the recipe wants it.
        PluginRaisedError: a component that others wrote raised something, `sys.exit()` included.
    """

    def __enter__(self) -> None:
        """Begin it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell what went wrong; see above."""
        if error is not None and (plain := explained(error)):
            raise plain from error


def explained(error: BaseException) -> PrunekitError | None:
    """What is told of an error of torch, Python or a plugin; None = nothing but what it says.

    A device that is gone and a process that is lost come up in any code that waits for them.
    """
    if plain := in_plain_words(error):
        return plain
    gone = isinstance(error, torch.AcceleratorError) or str(error).startswith(DEVICE_FAILS)
    return None if gone or is_lost_peer(error) else plugin_fault(error)


def in_plain_words(error: BaseException) -> ResourceError | RecipeError | None:
    """What is told of an error of torch or Python that a recipe can mend; None = of any other."""
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            "out of memory: set data.micro_batch (of an evaluation data.eval_batch), or lower "
            "data.batch_size"
        )
    if isinstance(error, MemoryError):
        return ResourceError("out of memory: lower data.batch_size or data.train_limit")
    if not isinstance(error, RuntimeError):
        return None
    said = str(error)
    if any(words in said for words in NO_MEMORY):
        return ResourceError(
            "out of memory: make the model, data.batch_size or data.micro_batch smaller"
        )
    if any(words in said for words in TOO_LARGE):
        return RecipeError(
            f"a tensor would have more entries than torch counts ({_first_line(said)}): make the "
            "model or data.batch_size smaller"
        )
    operation, found, _ = said.partition(NOT_DETERMINISTIC)
    if found:
        return RecipeError(
            f"deterministic: {operation} has no algorithm that gives the same bits each time on "
            "this device: set deterministic to false, or leave out what needs it"
        )
    return None


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
