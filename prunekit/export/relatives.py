"""The runs beside a run in its sweep: the other arms at its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunekit.errors import CheckpointError
from prunekit.sweep.directory import SweepCell, is_sweep, open_sweep


@dataclass(frozen=True, slots=True)
class Relative:
    """Another arm of the sweep, at the same labels and seed."""

    arm: str
    report: Mapping[str, Any]


def relatives(run_dir: Path) -> tuple[Relative, ...]:
    """The finished ones; none where the run is not of a sweep.

    A sweep whose plan cannot be read is none: a card can do without.

    Args:
        run_dir: a run directory, resolved.
    """
    sweep_dir = next(filter(is_sweep, list(run_dir.parents)[:3]), None)
    if sweep_dir is None:
        return ()
    try:
        cells = open_sweep(sweep_dir).cells
    except CheckpointError:
        return ()
    own = [cell for cell in cells if cell.run is not None and cell.run.path == run_dir]
    found: dict[str, Relative] = {}
    for cell in cells:
        if own and cell.arm != own[0].arm and cell.run is not None and _beside(cell, own[0]):
            try:
                found.setdefault(cell.arm, Relative(cell.arm, cell.run.report()))
            except CheckpointError:  # it did not finish
                continue
    return tuple(found.values())


def _beside(cell: SweepCell, own: SweepCell) -> bool:
    """Whether some labels of both agree wherever both have an axis."""
    return any(
        all(mine[axis] == theirs[axis] for axis in mine.keys() & theirs.keys())
        for mine in (own.axes, *own.also)
        for theirs in (cell.axes, *cell.also)
    )
