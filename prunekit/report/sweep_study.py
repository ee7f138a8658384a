"""A sweep directory as a study: arms and axes are as planned, what failed is told. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prunekit.errors import CheckpointError
from prunekit.report.facts import RunFacts, clean, read_facts
from prunekit.report.recipes import settings
from prunekit.report.study import (
    Cell,
    Study,
    absent_seeds,
    rank,
    unfinished_line,
    with_named_sources,
)
from prunekit.sweep.directory import Cell as Planned, Sweep, open_sweep


def sweep_study(path: Path) -> Study:
    """Read a sweep, finished or not.

    Raises:
        CheckpointError: its plan is corrupt.
    """
    sweep = open_sweep(path)
    facts, missing = _read(sweep)
    seed_axis = _seed_axis(sweep, facts)
    cells: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, RunFacts]] = {}
    for planned in sweep.cells:
        for labels in (planned.axes, *planned.also):
            place = tuple((clean(a), clean(v)) for a, v in labels.items() if a != seed_axis)
            at = cells.setdefault((clean(planned.arm), place), {})
            if planned.id in facts:
                run = facts[planned.id]
                at[run.seed] = run
    table = [Cell(arm, dict(place), dict(sorted(at.items()))) for (arm, place), at in cells.items()]
    axes = {
        clean(axis): tuple(clean(label) for label in labels)
        for axis, labels in sweep.axes.items()
        if axis != seed_axis
    }
    arms = tuple(dict.fromkeys(clean(arm) for arm in (*sweep.arms, *(cell.arm for cell in table))))
    table.sort(key=lambda cell: rank(cell, arms, axes))
    return Study(
        name=clean(sweep.name),
        arms=arms,
        axes=axes,
        cells=tuple(table),
        recipes=with_named_sources(_recipes(sweep, facts)),
        missing=tuple(missing) or tuple(absent_seeds(table)),
    )


def _read(sweep: Sweep) -> tuple[dict[str, RunFacts], list[str]]:
    """Cell id -> its finished run; and a line for each cell without one."""
    facts, missing = {}, []
    for cell in sweep.cells:
        run, problem = _facts(cell)
        if run is not None and run.finished:
            facts[cell.id] = run
        else:
            missing.append(f"{clean(cell.id)}: {problem}")
    return facts, missing


def _facts(cell: Planned) -> tuple[RunFacts | None, str]:
    if cell.status == "failed" or cell.run is None:
        what = "failed" if cell.status == "failed" else "not run yet"
        return None, what + (f": {clean(cell.error)}" if cell.error else "")
    try:
        run = read_facts(cell.run)
    except CheckpointError as error:
        return None, clean(str(error))
    return run, unfinished_line(run)


def _seed_axis(sweep: Sweep, facts: Mapping[str, RunFacts]) -> str | None:
    """The axis that sets the seed: it is called so, or its labels are the runs' seeds."""
    for axis in sweep.axes:
        pairs = {
            (cell.axes.get(axis), str(facts[cell.id].seed))
            for cell in sweep.cells
            if cell.id in facts
        }
        same = bool(pairs) and all(label == seed for label, seed in pairs)
        if axis.rsplit(".", 1)[-1] == "seed" or (same and len(pairs) > 1):
            return axis
    return None


def _recipes(sweep: Sweep, facts: Mapping[str, RunFacts]) -> dict[str, dict[str, object]]:
    """Arm -> the settings of its first finished run."""
    first: dict[str, dict[str, object]] = {}
    for cell in sweep.cells:
        if cell.id in facts and clean(cell.arm) not in first:
            first[clean(cell.arm)] = settings(facts[cell.id].recipe)
    return first
