"""Which images could not be read and were passed over, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prunekit.data.pixels import Part
from prunekit.data.stream.reader import StreamedPart
from prunekit.foundation.warn import LOG

TOLD = 5
"""So many are warned of one by one."""


class Skipped:
    """The broken images of a set that this process met.

    Args:
        parts: of the set.
    """

    def __init__(self, parts: Mapping[Part, StreamedPart]) -> None:
        self._parts, self._found = parts, dict[tuple[Part, int], None]()

    def add(self, part: Part, broken: Iterable[tuple[int, str]]) -> None:
        """Note some, each once, and warn of the first."""
        for place, message in broken:
            if (part, place) not in self._found:
                self._found[part, place] = None
                if len(self._found) <= TOLD:
                    more = "; no more are told" if len(self._found) == TOLD else ""
                    LOG.warning("skipped: %s%s", message, more)

    def __len__(self) -> int:
        return len(self._found)
