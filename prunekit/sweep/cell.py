"""One cell: run it, go on with it, or find it done. Imports torch when it runs."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from prunekit.errors import (
    CheckpointError,
    PluginError,
    PrunekitError,
    ResourceError,
    StopRequestedError,
    WriteError,
)
from prunekit.foundation.text import printable
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import read_written_out
from prunekit.recipe.schema import Recipe
from prunekit.registry.faults import authors_traceback
from prunekit.runs.directory import RunDir, events_dir
from prunekit.sweep.directory import CellState, read_state, resolved_path, write_state

Left = Literal["nothing", "rest", "all"]
PICTURE = "report.png"
UNFINISHED = ("running", "stopped")
"""Of these a killed or stopped run is."""


Draw = Callable[[Path], object]
"""Draws a run that is done into its directory."""


def run_cell(
    folder: Path, key: str, sources: Mapping[str, str], draw: Draw | None = None
) -> CellState | None:
    """Bring a cell to its end and record it; None where it was stopped and saved.

    Args:
        folder: the sweep directory.
        key: the cell.
        sources: recipe key -> the cell whose run it takes, which is done.
        draw: makes its picture; what it raises is only printed, as the run is done all the same.

    Raises:
        WriteError: the disk is full or may not be written; nothing is recorded.
    """
    began, recipe, resumed = time.monotonic(), None, False
    try:
        recipe = with_sources(folder, key, sources)
        run, left = _begun(folder / "runs", recipe)
        resumed = left != "all"
        state = CellState("done", _relative(_finished(folder / "runs", recipe, run, left), folder))
    except (StopRequestedError, KeyboardInterrupt):
        return None
    except WriteError:  # not the fault of this cell
        raise
    except PrunekitError as error:
        sys.stderr.write(printable(authors_traceback(error)))
        state = _failed(folder, recipe, str(error), error.exit_code)
    except MemoryError:
        state = _failed(folder, recipe, "out of memory", ResourceError.exit_code)
    except Exception as error:
        sys.stderr.write(printable(authors_traceback(error)))
        state = _failed(folder, recipe, f"{type(error).__name__}: {error}", 1)
    finally:
        _free_memory()
    state = replace(state, seconds=time.monotonic() - began, resumed=resumed)
    write_state(folder, key, state)
    if draw is not None and state.status == "done" and state.run is not None:
        _draw(draw, folder / state.run)
    return state


def _draw(draw: Draw, run: Path) -> None:
    """Of a run that an earlier call drew the picture stays."""
    if (run / PICTURE).is_file():
        return
    try:
        draw(run)
    except Exception:
        sys.stderr.write(printable(traceback.format_exc()))


def with_sources(folder: Path, key: str, sources: Mapping[str, str]) -> Recipe:
    """The recipe of a cell, with the paths of the runs that it takes.

    Raises:
        CheckpointError: one of them is not done.
    """
    overrides = []
    for path, source in sources.items():
        state = read_state(folder, source)
        if state is None or state.run is None:
            raise CheckpointError(f"{folder}: the cell {source[:8]} is not done: run it first")
        overrides.append(f"{path}={json.dumps(str(folder / state.run))}")
    return read_written_out(resolved_path(folder, key), overrides)


def _begun(runs: Path, recipe: Recipe) -> tuple[RunDir | None, Left]:
    """The run of this recipe that an earlier call began, if one did, and what is left of it."""
    run = _newest_run(runs, recipe)
    return run, _left_to_do(run) if run else "all"


def _finished(runs: Path, recipe: Recipe, run: RunDir | None, left: Left) -> Path:
    from prunekit.train.launch import resume_run, run_recipe

    if run is None or left == "all":
        return run_recipe(recipe, out=runs)
    return run.path if left == "nothing" else resume_run(run.path, device=recipe.device)


def _left_to_do(run: RunDir) -> Left:
    """A run that only lacked time, space or memory goes on; one that failed is made anew."""
    from prunekit.runs.checkpoint import newest_checkpoint

    try:
        status = run.status()
        if status["status"] == "done":
            return "nothing"
        if status["status"] not in UNFINISHED and status["exit_code"] != ResourceError.exit_code:
            return "all"
        newest_checkpoint(run.path)
    except (CheckpointError, KeyError):  # it was killed before anything was whole
        shutil.rmtree(events_dir(run.path), ignore_errors=True)
        shutil.rmtree(run.path)
        return "all"
    return "rest"


def _newest_run(runs: Path, recipe: Recipe) -> RunDir | None:
    """The newest run of exactly this recipe, wherever it was computed.

    A killed sweep had no time to note it down.
    """
    stamp = f"*-{recipe_hash(recipe)[:8]}*"
    for path in sorted((runs / recipe.name).glob(stamp), reverse=True):
        run = RunDir(path)
        with suppress(CheckpointError, PluginError):  # what cannot be read is not this recipe
            if run.recipe().model_copy(update={"device": recipe.device}) == recipe:
                return run
    return None


def _failed(folder: Path, recipe: Recipe | None, error: str, exit_code: int) -> CellState:
    run = _newest_run(folder / "runs", recipe) if recipe else None
    line = " ".join(error.split()) or "no message"
    return CellState("failed", _relative(run.path, folder) if run else None, line, exit_code)


def _relative(run: Path, folder: Path) -> str:
    return run.resolve().relative_to(folder).as_posix()


def _free_memory() -> None:
    """A worker lives on: what the run held must not stay."""
    gc.collect()
    if "torch" in sys.modules:
        from prunekit.foundation.devices import give_memory_back

        give_memory_back()
