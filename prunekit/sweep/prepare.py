"""The directory of a sweep before anything runs in it: its plan, and what is done already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.files import cannot_write, read_bytes, write_json, write_text
from prunekit.foundation.plain import flow
from prunekit.recipe.load import read_text, read_text_document
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.runs.links import refuse_link
from prunekit.sweep.command_line import SweepRequest
from prunekit.sweep.directory import CellState, read_state, resolved_path, state_path
from prunekit.sweep.holding import held
from prunekit.sweep.plan import Plan, PlannedCell
from prunekit.sweep.published import COPY


def unique_cells(plan: Plan) -> dict[str, PlannedCell]:
    """Key -> the first cell that has it: one run each."""
    cells: dict[str, PlannedCell] = {}
    for cell in plan.cells:
        cells.setdefault(cell.key, cell)
    return cells


def states_of(plan: Plan, folder: Path) -> dict[str, CellState]:
    """Key -> how it ended, of the cells that did."""
    states = {key: state_of(folder, key) for key in unique_cells(plan)}
    return {key: state for key, state in states.items() if state is not None}


def left_out(plan: Plan, folder: Path) -> int:
    """Cells of an earlier, larger plan that ended: their runs stay, but no report shows them."""
    known = unique_cells(plan)
    return sum(path.stem not in known for path in (folder / "cells").glob("*.json"))


def state_of(folder: Path, key: str) -> CellState | None:
    """How a cell ended, if it did; a run that was deleted counts as never made."""
    state = read_state(folder, key)
    lost = state is not None and state.status == "done" and not (folder / str(state.run)).is_dir()
    return None if lost else state


def check_data(plan: Plan, folder: Path, states: Mapping[str, CellState]) -> None:
    """A finished run stands for a cell wherever its data lies, so it must lie where it lay.

    Raises:
        UsageError: the recipes of what is done have another `data.root`.
    """
    done = next((cell for cell in plan.cells if cell.key in states), None)
    if done is None or not (path := resolved_path(folder, done.key)).is_file():
        return
    before = read_text_document(read_text(path), str(path)).at(("data", "root"))
    now = done.recipe.data.root
    if before != now:
        raise UsageError(
            f"{folder}: its finished runs have data.root {flow(before)}, this sweep has "
            f"{flow(now)}: give another --out for other data, or the old data.root (a link will do)"
        )


def check_free(folder: Path, plan: Plan, shard: str = "") -> None:
    """Find out before steps are timed, not after.

    Raises:
        ResourceError, UsageError: as `held`.
    """
    if folder.is_dir():
        with held(folder, plan, shard):
            return


@contextmanager
def prepared(
    plan: Plan,
    folder: Path,
    request: SweepRequest,
    *,
    retry_failed: bool,
    part: Plan | None = None,
    shard: str = "",
) -> Iterator[None]:
    """Hold a sweep directory with its plan written for as long as the block runs.

    Args:
        plan: of the whole sweep.
        folder: its directory.
        request: where the plan comes from.
        retry_failed: whether cells that failed are forgotten, to be tried again.
        part: the plan of the cells that are run; None = all of them.
        shard: which part that is, as in `held`.

    Raises:
        ResourceError, UsageError: as `held`.
    """
    refuse_links_of_sweep(folder)
    try:
        for name in ("cells", "resolved", "logs", "runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error

    def write() -> None:
        _write(folder / "sweep.yaml", request.text)
        if request.reference:
            _write(folder / COPY, request.reference)
        else:
            (folder / COPY).unlink(missing_ok=True)
        for key, cell in unique_cells(plan).items():
            _write(resolved_path(folder, key), dump_yaml(cell.recipe))
        write_json(folder / "plan.json", {**plan.as_json(), "words": list(request.words)})

    with held(folder, plan, shard, write):
        for key, state in states_of(part or plan, folder).items() if retry_failed else ():
            if state.status == "failed":
                state_path(folder, key).unlink(missing_ok=True)
        yield


def refuse_links_of_sweep(folder: Path) -> None:
    """A sweep writes in its own folder alone; its runs are looked at when they go on.

    Raises:
        CheckpointError: something in it that is written to is a link.
    """
    parts = [folder / name for name in ("cells", "resolved", "logs", "runs", "shards")]
    within = [path for part in parts if part.is_dir() for path in part.iterdir()]
    for path in (*folder.glob("*"), *within, *(folder / "runs").glob("*/tb")):
        refuse_link(path)


def _write(path: Path, text: str) -> None:
    """Write what the next call writes again, should this one be killed.

    What is there already stays as it is, as another shard may be reading it.
    """
    try:
        if not path.is_file() or read_bytes(path) != text.encode():
            write_text(path, text)
    except OSError as error:
        raise cannot_write(path, error) from error
