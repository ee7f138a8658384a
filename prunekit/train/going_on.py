"""Whether a recipe was begun before, and what of that run is left to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from prunekit.errors import CheckpointError, DivergedError
from prunekit.foundation.files import cannot_write
from prunekit.foundation.locks import lock
from prunekit.foundation.ranks import launch_id, was_restarted
from prunekit.recipe.identity import NOT_HASHED, NOT_HASHED_DATA, recipe_hash
from prunekit.recipe.schema import Recipe
from prunekit.runs.checkpoint import checkpoints
from prunekit.runs.directory import RunDir, newest_of
from prunekit.train.distributed import ProcessGroup

Left = Literal["nothing", "rest", "all", "no use"]
"""It is done; it has a checkpoint; it has none yet; it diverged, and would again."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that an earlier call began."""

    path: Path
    left: Left


def begun_run(recipe: Recipe, out: Path, group: ProcessGroup, *, asked: bool) -> Begun | None:
    """The run to go on with: where it is `asked` for, or where torchrun began the processes again.

    The newest run of the recipe decides, by its hash. After a restart only runs of the same launch
    count, so that two launches of one recipe stay two runs. The main rank looks, for all.

    Raises:
        DivergedError: it diverged.
    """
    # each machine counts its own restarts: that of the process that failed has counted this one
    if not asked and not group.any(was_restarted()):
        return None
    told = ""
    if group.is_main and (path := newest_of(out, recipe, None if asked else launch_id())):
        told = f"{_left(path)}|{path.resolve()}"
    left, _, where = group.share(told).partition("|")
    if not where:
        return None
    if left == "no use":
        raise DivergedError(f"{where}: the run diverged, and would again: change the recipe")
    return Begun(Path(where), next(one for one in get_args(Left) if one == left))


def beginning_folder(recipe: Recipe, out: Path) -> Path:
    """What a call holds that begins a recipe."""
    return out / recipe.name / f".begun-{recipe_hash(recipe)[:8]}"


@contextmanager
def beginning(recipe: Recipe, out: Path, group: ProcessGroup) -> Iterator[None]:
    """Begin a recipe that has no run yet: of calls that find none at the same time, one begins.

    Raises:
        ResourceError: another call is at it; the message names it.
    """
    if not group.is_main:
        yield
        return
    folder = beginning_folder(recipe, out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with lock(folder):
        yield


def status_of(path: Path) -> str:
    """How the run says it ended; empty where its `status.json` is damaged or was not written."""
    with suppress(CheckpointError):
        return str(RunDir(path).status().get("status", ""))
    return ""


def _left(path: Path) -> Left:
    status = status_of(path)
    if status == "done":
        return "nothing"
    if status == "diverged":
        return "no use"
    return "rest" if checkpoints(path) else "all"


def as_begun(begun: Recipe, now: Recipe | None) -> tuple[Recipe, list[str]]:
    """The recipe to go on with, and a sentence for what of `now` it does not take.

    Both give the same result. A run keeps what it logs, probes and saves; its data may have moved,
    and it may go on on another device.
    """
    if now is None:
        return begun, []
    moved = {key: getattr(now.data, key) for key in NOT_HASHED_DATA if hasattr(now.data, key)}
    keys = (key for key in NOT_HASHED if key != "device")
    kept = [key for key in keys if getattr(begun, key) != getattr(now, key)]
    told = [f"{', '.join(kept)}: as the run began, not as the recipe has it now"] if kept else []
    update = {"device": now.device, "data": begun.data.model_copy(update=moved)}
    return begun.model_copy(update=update), told
