"""Runs sorted into arms, axes, and cells whose runs differ in the seed alone. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunekit.errors import CheckpointError
from prunekit.foundation.number_text import counted
from prunekit.report.labels import in_order
from prunekit.report.read import (
    MARK,
    FoundRuns,
    RunRecord,
    clean,
    find_runs,
    read_record,
    side_by_side,
)
from prunekit.report.settings import (
    Flat,
    arm_names,
    fingerprint,
    settings_of,
    short_keys,
    source_of,
    swept_numbers,
    value_at,
    value_text,
)
from prunekit.sweep.directory import Sweep, SweepCell, open_sweeps

AxisLabels = Mapping[str, str]
"""Axis -> label, the seed left out."""


@dataclass(frozen=True)
class Cell:
    """An arm at a place, with its finished runs."""

    arm: str
    labels: AxisLabels
    runs: Mapping[int, RunRecord]
    """Seed -> run."""

    def values(self, *keys: str) -> dict[int, float]:
        """Seed -> a number of the reports; seeds without it are left out."""
        found = {seed: run.number(*keys) for seed, run in self.runs.items()}
        return {seed: number for seed, number in found.items() if number is not None}

    @property
    def label(self) -> str:
        """The arm and where it stands."""
        return " ".join([self.arm, *(f"{axis}={label}" for axis, label in self.labels.items())])


@dataclass(frozen=True)
class Study:
    """What is reported on."""

    name: str
    arms: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    """Axis -> its labels in order, the seed left out."""
    cells: tuple[Cell, ...]
    recipes: Mapping[str, Flat]
    """Arm -> the settings of its first run."""
    missing: tuple[str, ...] = ()
    """One line for each run that is not there or not whole."""
    repeated: int = 0
    """Runs left out as a newer one has their recipe and seed."""

    @property
    def runs(self) -> list[RunRecord]:
        """Every finished run, once."""
        by_path = {run.path: run for cell in self.cells for run in cell.runs.values()}
        return list(by_path.values())

    def arm_cells(self, arm: str) -> list[Cell]:
        """The cells of an arm."""
        return [cell for cell in self.cells if cell.arm == arm]


def open_study(paths: Sequence[Path]) -> Study:
    """Read a sweep, several directories of one sweep as one, or any runs.

    Raises:
        CheckpointError: a path holds no run, nothing can be read, or sweeps are not the same one.
    """
    from prunekit.sweep.directory import is_sweep

    if paths and all(map(is_sweep, paths)):
        return sweep_study(*paths)
    return study_of(find_runs(paths), name=paths[0].resolve().name)


def study_of(found: FoundRuns, name: str) -> Study:
    """Sort runs by what differs in their recipes."""
    runs, older = newest(found.runs)
    whole = {run.path: settings_of(run) for run in runs}
    keys = swept_numbers(list({fingerprint(flat): flat for flat in whole.values()}.values()))
    axes = short_keys(keys)
    rest = {run.path: settings_of(run, keys) for run in runs}
    by_print = {fingerprint(flat): flat for flat in rest.values()}
    arms = dict(zip(by_print, arm_names(list(by_print.values())), strict=True))
    cells: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, RunRecord]] = {}
    doubled: list[str] = []
    for run in runs:
        at_keys = {axis: value_at(run.recipe, key) for key, axis in axes.items()}
        where = tuple((axis, value_text(v)) for axis, v in at_keys.items() if v is not None)
        at = cells.setdefault((arms[fingerprint(rest[run.path])], where), {})
        if run.finished:
            doubled += _put(at, run)
    table = [Cell(arm, dict(where), dict(sorted(at.items()))) for (arm, where), at in cells.items()]
    labels = {axis: in_order(cell.labels.get(axis) for cell in table) for axis in axes.values()}
    table.sort(key=lambda cell: rank(cell, tuple(arms.values()), labels))
    unfinished = [unfinished_line(run) for run in runs if not run.finished]
    return Study(
        name=name,
        arms=tuple(arms.values()),
        axes=labels,
        cells=tuple(table),
        recipes=with_named_sources({arms[print_]: flat for print_, flat in by_print.items()}),
        missing=(
            *found.unreadable,
            *unfinished,
            *_of_other_data(older),
            *doubled,
            *absent_seeds(table),
        ),
        repeated=len(older),
    )


def _put(at: dict[int, RunRecord], run: RunRecord) -> list[str]:
    """Put a run into a cell; a line where it takes the place of another."""
    other = at.get(run.seed)
    at[run.seed] = run
    if other is None or other.path == run.path:
        return []
    return [f"{other.path}: left out: {run.path} has its arm, its labels and its seed"]


def newest(runs: Iterable[RunRecord]) -> tuple[list[RunRecord], list[tuple[RunRecord, RunRecord]]]:
    """Of runs with one recipe and seed the newest that finished; and the others, each with it."""
    same: dict[tuple[str, int], list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (run.finished, run.path.name)):
        same.setdefault((fingerprint(settings_of(run)), run.seed), []).append(run)
    kept = sorted((group[-1] for group in same.values()), key=lambda run: str(run.path))
    return kept, [(run, group[-1]) for group in same.values() for run in group[:-1]]


def _of_other_data(older: Iterable[tuple[RunRecord, RunRecord]]) -> list[str]:
    """One line for each run that was left out though it is no repetition."""
    return [
        f"{run.path}: left out: the recipe and seed of {newer.path}, but other data"
        for run, newer in older
        if run.data and newer.data and run.data != newer.data
    ]


def unfinished_line(run: RunRecord) -> str:
    """What became of a run without numbers."""
    return f"{run.path}: {run.status}" + (f": {run.message}" if run.message else "")


def absent_seeds(cells: Sequence[Cell]) -> list[str]:
    """One line for each cell that lacks a seed that another has."""
    seeds = sorted({seed for cell in cells for seed in cell.runs})
    lines = []
    for cell in cells:
        lacking = [str(seed) for seed in seeds if seed not in cell.runs]
        if lacking:
            lines.append(f"{cell.label}: no finished run with seed {', '.join(lacking)}")
    return lines


def with_named_sources(recipes: Mapping[str, Flat]) -> dict[str, Flat]:
    """The settings of arms, with the names of arms for the runs that they were made from."""
    names = {source_of(fingerprint(flat)): f"the run of {arm}" for arm, flat in recipes.items()}
    return {
        arm: {k: names.get(v, v) if isinstance(v, str) else v for k, v in flat.items()}
        for arm, flat in recipes.items()
    }


def rank(cell: Cell, arms: Sequence[str], axes: Mapping[str, Sequence[str]]) -> list[int]:
    """Where a cell stands in a table: by its arm, then by its labels."""
    places = [
        labels.index(cell.labels[axis]) if axis in cell.labels else -1
        for axis, labels in axes.items()
    ]
    return [arms.index(cell.arm), *places]


def sweep_study(*paths: Path) -> Study:
    """Read the directories of a sweep, finished or not.

    Raises:
        CheckpointError: a plan is corrupt, or they are not of one sweep.
    """
    sweep = open_sweeps(paths)
    records, missing = _read(sweep)
    seed_axis = _seed_axis(sweep, records)
    cells: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, RunRecord]] = {}
    doubled: list[str] = []
    for planned in sweep.cells:
        for labels in (planned.axes, *planned.also):
            where = tuple((clean(a), clean(v)) for a, v in labels.items() if a != seed_axis)
            at = cells.setdefault((clean(planned.arm), where), {})
            if planned.id in records:
                doubled += _put(at, records[planned.id])
    table = [Cell(arm, dict(where), dict(sorted(at.items()))) for (arm, where), at in cells.items()]
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
        recipes=with_named_sources(_recipes(sweep, records)),
        missing=(*(missing or absent_seeds(table)), *doubled, *_out_of_the_plan(sweep)),
    )


def _out_of_the_plan(sweep: Sweep) -> list[str]:
    """One line for the runs of a sweep that no cell has."""
    ours = {cell.run.path.resolve() for cell in sweep.cells if cell.run is not None}
    folders = [path / "runs" for path in (sweep.path, *sweep.others)]
    marks = [mark for folder in folders for mark in folder.glob(f"*/*/{MARK}")]
    others = sorted({mark.parent.resolve() for mark in marks} - ours)
    if not others:
        return []
    return [
        f"{counted(len(others), 'run')} of an earlier plan or try: left out: {others[0]}"
        + (", .." if len(others) > 1 else "")
    ]


def _read(sweep: Sweep) -> tuple[dict[str, RunRecord], list[str]]:
    """Cell id -> its finished run; and a line for each cell without one."""
    records, missing = {}, []
    for cell in sweep.cells:
        run, problem = _record(cell)
        if run is not None and run.finished:
            records[cell.id] = run
        else:
            missing.append(f"{clean(cell.id)}: {problem}")
    compared = side_by_side(list(records.values()))
    return dict(zip(records, compared, strict=True)), missing


def _record(cell: SweepCell) -> tuple[RunRecord | None, str]:
    if cell.status == "failed" or cell.run is None:
        what = "failed" if cell.status == "failed" else "not run yet"
        return None, what + (f": {clean(cell.error)}" if cell.error else "")
    try:
        run = read_record(cell.run)
    except CheckpointError as error:
        return None, clean(str(error))
    return run, unfinished_line(run)


def _seed_axis(sweep: Sweep, records: Mapping[str, RunRecord]) -> str | None:
    """The axis that sets the seed: it is called so, or its labels are the runs' seeds."""
    for axis in sweep.axes:
        pairs = {
            (cell.axes.get(axis), str(records[cell.id].seed))
            for cell in sweep.cells
            if cell.id in records
        }
        same = bool(pairs) and all(label == seed for label, seed in pairs)
        if axis.rsplit(".", 1)[-1] == "seed" or (same and len(pairs) > 1):
            return axis
    return None


def _recipes(sweep: Sweep, records: Mapping[str, RunRecord]) -> dict[str, dict[str, object]]:
    """Arm -> the settings of its first finished run."""
    first: dict[str, dict[str, object]] = {}
    for cell in sweep.cells:
        if cell.id in records and clean(cell.arm) not in first:
            first[clean(cell.arm)] = settings_of(records[cell.id])
    return first
