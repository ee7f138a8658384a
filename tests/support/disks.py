"""Files of tests need outlive no loss of power, and a third of a small run is waiting for disks."""

import os
from typing import Any


def wait_for_no_disk() -> None:
    """In this process, `os.fsync` only looks whether a handle is one."""

    def looked_at(handle: Any) -> None:
        os.fstat(handle if isinstance(handle, int) else handle.fileno())

    os.fsync = looked_at
