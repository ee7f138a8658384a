"""Warnings from places that know no run: said once in a run, on the screen and in its report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prunekit.foundation.text import printable

LOG = logging.getLogger("prunekit")
"""What it and its children (`prunekit.<plugin>`) warn of lands in the report of a run."""


class _Printable(logging.Filter):
    """Escapes what a terminal would obey: outside of a run Python writes what is logged itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True


LOG.addFilter(_Printable())
_said: set[str] = set()


def warn_once(text: str) -> None:
    """Warn, unless the same was said since the run began."""
    if text not in _said:
        _said.add(text)
        LOG.warning(text)


class WarningRelay(logging.Handler):
    """Hands warnings on for as long as a run takes.

    Args:
        tell: called with each text.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one, without what a terminal would obey: it may hold a name from a file."""
        self.tell(printable(record.getMessage()))

    def listen(self) -> None:
        """Begin, with nothing said so far."""
        _said.clear()
        LOG.addHandler(self)

    def stop(self) -> None:
        """End."""
        LOG.removeHandler(self)


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Keep what is warned of inside the block, for a report that is not open yet."""
    kept: list[str] = []
    relay = WarningRelay(kept.append)
    LOG.addHandler(relay)
    try:
        yield kept
    finally:
        LOG.removeHandler(relay)
