"""What lies on the disk while something is at work, and goes with it: signals included. Torch-free.

A file or folder is written under another name (`part_for`), and a request to stop is meanwhile only
noted: it is obeyed where nothing is half done (`stop_if_asked`). What nobody wants once its block
ends (`scratch`) does not wait: it goes, and the signal ends the process as any other.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from types import FrameType

from prunekit.errors import StopRequestedError
from prunekit.foundation.parts import host_digits, is_at_work, part_beside, remove
from prunekit.foundation.signals import Ending, Handler, StopSignals

_there: dict[Path, Callable[[Path], None]] = {}
"""What is to go -> what takes it away, the newest last."""


class _Held(StopSignals):
    """Signals while something unfinished is there: one more than `patience` ends the process.

    Only where they would end it: a handler of others, as that of a trainer, stays.
    """

    leaves_nothing = True

    def __init__(self, written: str) -> None:
        super().__init__()
        self.written, self.patience = written, 1 if written else 0
        self._process = os.getpid()

    def _takes(self, handler: Handler) -> bool:
        ends = handler in (signal.SIG_DFL, signal.default_int_handler)
        return ends or isinstance(handler, Ending)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        mine = os.getpid() == self._process
        if mine:
            super()._ask(signum, frame)
            if self.times <= self.patience:
                return
            _take_all_away()
        self._give_back_all()  # a process that was forked has nothing of its own here
        signal.raise_signal(signum)


def _take_all_away() -> None:
    for path, takes_away in reversed(list(_there.items())):
        takes_away(path)


Ending.first = _take_all_away


def stop_if_asked() -> None:
    """A place where what is being written can be given up; else a signal waits for the end of it.

    Raises:
        StopRequestedError: a signal asked for a stop, and who holds signals is what is written.
    """
    held = StopSignals.innermost()
    if isinstance(held, _Held) and held.times:
        raise StopRequestedError(
            f"stopped before {held.written} was written: what was there is as it was, and the same "
            "command begins again"
        )


@contextmanager
def unfinished(
    path: Path, written: str = "", takes_away: Callable[[Path], None] = remove
) -> Iterator[None]:
    """A block after which `path` is gone, whatever ended it.

    Signals that ask for a stop are held, unless another block of `StopSignals` does that, or this
    is not the main thread. With `written` the first is noted, for `stop_if_asked` and for the end
    of the block; a second one, without `written` the first, takes `path` away and does what it did
    before.

    Args:
        path: a file or folder; it need not be there yet.
        written: what will be there, for the message.
        takes_away: removes `path`; raises nothing.

    Raises:
        StopRequestedError: a signal asked for a stop.
    """
    if StopSignals.innermost() or threading.current_thread() is not threading.main_thread():
        stop_if_asked()
        with noted(path, takes_away):
            yield
        return
    with _Held(written) as held, noted(path, takes_away):
        yield
    if held.times and written:
        raise StopRequestedError(f"stopped once {written} was written: nothing after it was begun")


@contextmanager
def noted(path: Path, takes_away: Callable[[Path], None] = remove) -> Iterator[None]:
    """A block after which `path` is gone, also where `Ending` ends it; holds no signal."""
    _there[path] = takes_away
    try:
        yield
    finally:
        takes_away(path)
        _there.pop(path, None)


def go_early(path: Path) -> None:
    """Take away now what goes at the end of its block anyway, if a block of this process has it."""
    if takes_away := _there.get(path):
        takes_away(path)


@contextmanager
def part_for(path: Path, written: str = "") -> Iterator[Path]:
    """A name beside `path` to write under, which is renamed in the block; what is left of it goes.

    Args:
        path: what is written.
        written: as it is called, where that is not `path`.

    Raises:
        StopRequestedError: a signal asked for a stop.
    """
    part = part_beside(path)
    with unfinished(part, written or str(path)):
        if os.path.lexists(part):  # of a process that had the number of this one
            remove(part)
        yield part


SCRATCH = re.compile(r"prunekit-([0-9a-f]{8})-([0-9]+)-")


@contextmanager
def scratch(folder: str | Path | None = None) -> Iterator[Path]:
    """A folder for the length of the block, `prunekit-<host>-<process>-...`.

    Those that killed processes of this user left beside it go.

    Args:
        folder: where it is made; None = where temporary files are.
    """
    where = Path(gettempdir() if folder is None else folder)
    _clear(where)
    prefix = f"prunekit-{host_digits()}-{os.getpid()}-"
    made = Path(mkdtemp(prefix=prefix, dir=where))
    with unfinished(made):
        yield made


def _clear(where: Path) -> None:
    """Delete scratch folders of this machine and user whose process is gone; follows no link."""
    with suppress(OSError), os.scandir(where) as entries:
        for entry in entries:
            named = SCRATCH.match(entry.name)
            if not named or named[1] != host_digits() or not entry.is_dir(follow_symlinks=False):
                continue
            user = entry.stat(follow_symlinks=False).st_uid
            if hasattr(os, "getuid") and user != os.getuid():
                continue
            if not is_at_work(int(named[2])):
                shutil.rmtree(entry.path, ignore_errors=True)
