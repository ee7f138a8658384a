"""Code that others wrote, run where it may fail in any way of its own. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from prunekit.errors import PluginError


class ForeignCode:
    """While the block runs, what goes wrong in it is told as a fault of that code.

    That is also a `sys.exit()`, which is not its to call, and what is no Exception though somebody
    raised it, as the panic of an extension in Rust (`pyo3_runtime.PanicException`). Python's own
    ways to end something, a Ctrl-C above all, are none of its faults and pass.
    """

    def __init__(self, told: Callable[[BaseException], str]) -> None:
        """Nothing is run yet.

        Args:
            told: makes the message of what went wrong: a line that names the code.
        """
        self.told = told

    def __enter__(self) -> None:
        """Begin it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell what went wrong.

        Raises:
            PluginError: something did.
        """
        if error is not None and not isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise PluginError(self.told(error)) from error


def reason(error: BaseException) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
