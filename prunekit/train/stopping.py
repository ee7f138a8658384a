"""A run that is told to stop: after the step in hand, on all ranks at the same one."""

from __future__ import annotations

from prunekit.foundation.signals import StopSignals
from prunekit.train.distributed import ProcessGroup

EVERY = 8
"""Steps from one question to the other ranks to the next."""


class Stopping:
    """Whether this run is to stop."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.requests = StopSignals()
        """SIGTERM, SIGINT and SIGHUP ask for a stop; a second one for one at once, unsaved."""

    def agreed(self, step: int) -> bool:
        """Whether all ranks stop at this step; asking costs, so several ask every few steps."""
        if self.group.world > 1 and step % EVERY:
            return False
        return self.group.any(self.requests.times > 0)

    def look(self) -> None:
        """Between batches: whether this rank is not to wait for the end of its step.

        Raises:
            KeyboardInterrupt: a stop was asked for twice.
        """
        if self.requests.times > 1:
            raise KeyboardInterrupt
