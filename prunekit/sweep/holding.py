"""Who is at work in a sweep directory: one call on all of it, or shards side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prunekit.errors import ResourceError, UsageError
from prunekit.foundation.files import read_json
from prunekit.foundation.locks import lock
from prunekit.sweep.plan import Plan

SHARD_WAITS = 60.0
"""Seconds for other shards to write the plan, one after the other."""


@contextmanager
def held(
    folder: Path, plan: Plan, shard: str = "", write: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a sweep, or one shard of it beside others, for as long as the block runs.

    Every shard has a lock of its own, `shards/2-of-8/.lock`. All of them are taken and looked at
    under that of the directory, which a call on the whole sweep keeps.

    Args:
        folder: the sweep directory; it must be there.
        plan: of the whole sweep.
        shard: `2/8`; empty: the whole sweep.
        write: what to do first, while nobody else looks at the plan.

    Raises:
        ResourceError: another call holds it, or it cannot be written.
        UsageError: other shards are at work in it on another plan, or of another count.
    """
    with ExitStack() as own:
        with lock(folder, SHARD_WAITS if shard else 0.0):
            if shard:
                mine = folder / "shards" / _folder_name(shard)
                mine.mkdir(parents=True, exist_ok=True)
                own.enter_context(lock(mine))
                _check_beside(mine, plan, shard)
            else:
                for other in _shards(folder):
                    with lock(other):
                        pass
            write()
            if not shard:
                yield
                return
        yield


def _folder_name(shard: str) -> str:
    return shard.replace("/", "-of-")


def _told(shard: Path) -> str:
    return shard.name.replace("-of-", "/")


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*-of-*"))


def _check_beside(mine: Path, plan: Plan, shard: str) -> None:
    """Shards that are at work at the same time must be parts of one whole."""
    folder, count = mine.parents[1], shard.partition("/")[2]
    for other in _shards(folder):
        if other == mine or not _is_at_work(other):
            continue
        if not other.name.endswith(f"-of-{count}"):
            raise UsageError(
                f"{folder}: shard {_told(other)} is at work in it: wait until it ends, or share "
                f"the sweep out by the same number, not by {count}"
            )
        if not (written := folder / "plan.json").is_file():
            continue  # it looks whether it may begin, as this one does
        if {**read_json(written), "words": None} != {**plan.as_json(), "words": None}:
            raise UsageError(
                f"{folder}: shard {_told(other)} is at work in it on another plan: give all shards "
                "the same sweep and words, or another --out"
            )


def _is_at_work(shard: Path) -> bool:
    try:
        with lock(shard):
            return False
    except ResourceError:
        return True
