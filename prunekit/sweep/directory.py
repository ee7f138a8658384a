"""Sweep directories: `<out>/<sweep>/` with the plan, the state of each cell and the runs.

`sweep.yaml` (as given), `reference.csv` if it names one, `plan.json`, `resolved/<key>.yaml`,
`cells/<key>.json`, `logs/<key>.txt`, `runs/<recipe>/<stamp>/` and a lock. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from prunekit.errors import CheckpointError
from prunekit.foundation.files import read_json, write_json
from prunekit.foundation.values import RECIPE_FORMAT
from prunekit.runs.directory import RunDir
from prunekit.runs.documents import CellDocument, PlanDocument, checked

FORMAT = 1
Status = Literal["done", "failed", "pending"]


@dataclass(frozen=True, slots=True)
class CellState:
    """How a cell ended."""

    status: Literal["done", "failed"]
    run: str | None
    """The run directory, relative to the sweep's; None where the cell did not get that far."""
    error: str | None = None
    exit_code: int = 0
    """That of the run."""
    seconds: float = 0.0
    """Wall time of the cell in the call that ended it."""
    resumed: bool = False
    """Whether an earlier call had begun it."""


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One run of a sweep: an arm at one label of each axis that it has."""

    id: str
    """`arm/axis=label,...`, without the axes that the arm does not have or collapses."""
    arm: str
    axes: Mapping[str, str]
    """Axis -> label; without the axes that the arm does not have."""
    also: tuple[Mapping[str, str], ...]
    """Further labels that the same run serves."""
    key: str
    """64 hexadecimal digits: equal for cells that must give the same run."""
    needs: Mapping[str, str]
    """Recipe key -> the cell whose run it takes."""
    status: Status
    run: RunDir | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep on the disk."""

    path: Path
    name: str
    axes: Mapping[str, tuple[str, ...]]
    """Axis -> its labels."""
    arms: tuple[str, ...]
    cells: tuple[SweepCell, ...]
    """In the order of the plan: what a cell needs stands before it."""
    others: tuple[Path, ...] = ()
    """Further directories of the same sweep, as shards on other machines made them."""


def open_sweep(path: str | Path) -> Sweep:
    """Open a sweep directory, finished or not.

    Raises:
        CheckpointError: there is no sweep at `path`, or its plan is corrupt or of a newer version.
    """
    folder = Path(path).resolve()
    plan_file = folder / "plan.json"
    if not plan_file.is_file():
        raise CheckpointError(
            f"{path}: not a sweep directory: give the folder that `prunekit sweep` made, with "
            "plan.json in it"
        )
    plan = _read_plan(plan_file)
    return Sweep(
        path=folder,
        name=plan["name"],
        axes={axis: tuple(labels) for axis, labels in plan["axes"].items()},
        arms=tuple(plan["arms"]),
        cells=tuple(_cell(folder, entry) for entry in plan["cells"]),
    )


def open_sweeps(paths: Sequence[str | Path]) -> Sweep:
    """Open directories of one sweep as one: of each cell the run that is done, wherever it is.

    Raises:
        CheckpointError: one cannot be opened, or they have not the same cells.
    """
    first, *others = (open_sweep(path) for path in dict.fromkeys(map(Path, paths)))
    for other in others:
        if _design(other) != _design(first):
            raise CheckpointError(
                f"{other.path}: another sweep than {first.path}, so they are not one: give the "
                "`runs` in them to compare all their runs, or make a report of each"
            )
    beside = zip(*(sweep.cells for sweep in (first, *others)), strict=True)
    cells = tuple(max(same, key=lambda cell: RANKED.index(cell.status)) for same in beside)
    return replace(first, cells=cells, others=tuple(other.path for other in others))


RANKED: tuple[Status, ...] = ("pending", "failed", "done")
"""What is told of a cell: the last of these that one of the directories says."""


def _design(sweep: Sweep) -> object:
    cells = [(c.id, c.arm, c.key, dict(c.axes), c.also, dict(c.needs)) for c in sweep.cells]
    return dict(sweep.axes), sweep.arms, cells


def _read_plan(path: Path) -> dict[str, Any]:
    return checked(path, _of_this_format(path), PlanDocument)


def _of_this_format(path: Path) -> dict[str, Any]:
    plan = read_json(path)
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise CheckpointError(f"{path}: corrupt, or of another version of prunekit")
    return plan


def begun_with(folder: Path) -> int | None:
    """The earlier format of recipes that the sweep in `folder` was begun with; None = today's.

    Raises:
        CheckpointError: the plan in it is corrupt.
    """
    if not is_sweep(folder):
        return None
    plan = _of_this_format(folder / "plan.json")  # a newer one may have another shape
    begun = plan.get("recipe_format", 1)
    if type(begun) is not int or not 1 <= begun <= RECIPE_FORMAT:
        raise CheckpointError(
            f"{folder / 'plan.json'}: corrupt, or of a newer version of prunekit: go on with that "
            "version, or give another --out"
        )
    return begun if begun < RECIPE_FORMAT else None


def begun_with_code(folder: Path) -> Any:
    """Name and SHA-256 of the user's own file that the sweep was last planned with; None = none."""
    return _read_plan(folder / "plan.json").get("code") if is_sweep(folder) else None


def is_sweep(path: Path) -> bool:
    """Whether a folder looks like a sweep directory."""
    return (path / "plan.json").is_file()


def read_state(folder: Path, key: str) -> CellState | None:
    """How the cell with this key ended; None where it did not.

    Raises:
        CheckpointError: its file is corrupt.
    """
    path = state_path(folder, key)
    if not path.is_file():
        return None
    try:
        return CellState(**checked(path, read_json(path), CellDocument))
    except CheckpointError as error:
        raise CheckpointError(f"{error}: delete it to run the cell again") from error


def write_state(folder: Path, key: str, state: CellState) -> None:
    """Record how a cell ended, in one piece.

    Raises:
        WriteError: the disk is full or the folder cannot be written.
    """
    document = {name: getattr(state, name) for name in CellState.__slots__}
    write_json(state_path(folder, key), document)


def state_path(folder: Path, key: str) -> Path:
    """The file with the state of a cell."""
    return folder / "cells" / f"{key}.json"


def resolved_path(folder: Path, key: str) -> Path:
    """The file with the resolved recipe of a cell; `cell:<key>` stands for another's run."""
    return folder / "resolved" / f"{key}.yaml"


def log_path(folder: Path, key: str) -> Path:
    """The file with what a cell printed."""
    return folder / "logs" / f"{key}.txt"


def _cell(folder: Path, entry: dict[str, Any]) -> SweepCell:
    try:
        state = read_state(folder, entry["key"])
    except CheckpointError as error:  # the others can be read
        state = CellState("failed", None, str(error))
    run = state.run if state else None
    return SweepCell(
        id=entry["id"],
        arm=entry["arm"],
        axes=dict(entry["axes"]),
        also=tuple(dict(labels) for labels in entry["also"]),
        key=entry["key"],
        needs=dict(entry["needs"]),
        status=state.status if state else "pending",
        run=RunDir(folder / run) if run else None,
        error=state.error if state else None,
    )
