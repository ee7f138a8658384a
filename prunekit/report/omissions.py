"""What a report does not show though runs have it, or should have it: each is told. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from prunekit.foundation.number_text import counted
from prunekit.report.columns import COLUMNS
from prunekit.report.comparison import Baseline, accuracies, judged, repeating
from prunekit.report.curves import Curve
from prunekit.report.figures.cost import cost_panels, spent
from prunekit.report.grid import Grid, Reference
from prunekit.report.study import Cell, Study
from prunekit.report.tables import part
from prunekit.sweep.published import Published

MOST_NAMED = 6
"""Cells that a sentence names; of more it gives the number."""


def absent_numbers(study: Study, key: str) -> list[str]:
    """One line for each cell with finished runs that have no part in one of its means.

    Args:
        study: the runs.
        key: the accuracy that is compared, which every run should have.
    """
    lines = []
    for cell in study.cells:
        without: dict[tuple[int, ...], list[str]] = {}
        for column in COLUMNS:
            found = cell.values(*column.keys)
            if found or column.keys == ("accuracy", key):
                absent = tuple(seed for seed in cell.runs if seed not in found)
                without.setdefault(absent, []).append(column.name)
        lines += [
            f"{cell.label}: seed {', '.join(map(str, seeds))} has no finite {', '.join(names)}: "
            "left out of the mean"
            for seeds, names in without.items()
            if seeds
        ]
    return lines


def uncompared(study: Study, against: Sequence[Baseline], key: str) -> list[str]:
    """One line for each baseline that has nothing to set beside a cell."""
    alone: dict[str, list[str]] = {}
    for cell, baseline in judged(study, list(against), key):
        if baseline.cell_for(cell, study) is None:
            alone.setdefault(baseline.name, []).append(cell.label)
    return [
        f"not compared with {name}, which has nothing at their place: {_named(labels)}"
        for name, labels in alone.items()
    ]


def _named(names: Sequence[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def undrawn_costs(study: Study, key: str) -> str:
    """Which cells the panels of costs have no point of, in a sentence; empty where they have all.

    A cell needs an accuracy and the cost; arms that repeat another are told elsewhere.
    """
    repeated = repeating(study, study.arms)
    cells = [cell for cell in study.cells if cell.runs and cell.arm not in repeated]
    without: dict[tuple[str, ...], list[str]] = {}
    for cost, _ in cost_panels(study, key):
        labels = tuple(c.label for c in cells if spent(c, cost) is None or not accuracies(c, key))
        without.setdefault(labels, []).append(cost.title)
    return " ".join(
        f"Not in {', '.join(titles)}, having no such number: {_named(labels)}."
        for labels, titles in without.items()
        if labels
    )


def unlogged(study: Study, found: Iterable[Curve]) -> str:
    """The cells with finished runs that have none of these curves, as a list of names."""
    drawn = {_place(one) for one in found}
    repeated = repeating(study, study.arms)
    return _named(
        [
            cell.label
            for cell in study.cells
            if cell.runs and cell.arm not in repeated and _place(cell) not in drawn
        ]
    )


def curve_gaps(study: Study, found: Sequence[Curve], key: str, against: str | None = None) -> str:
    """What the curves of a scalar leave out of their own cells; empty where that is nothing.

    Args:
        study: the runs.
        found: the curves that are drawn.
        key: what they are of.
        against: what takes the place of the step.
    """
    seeds = {_place(one): one.seeds for one in found}
    cells = [cell for cell in study.cells if _place(cell) in seeds]
    few = [
        f"{cell.label} ({part(seeds[_place(cell)], len(cell.runs))})"
        for cell in cells
        if seeds[_place(cell)] < len(cell.runs)
    ]
    lost = sum(run.not_finite(key) for cell in cells for run in cell.runs.values())
    parts = [f"Not of all seeds: {_named(few)}."] if few else []
    if lost:
        parts.append(f"Without {counted(lost, 'value')} not finite.")
    if against is None:
        drawn = {_place(one): len(one.x) for one in found}
        cut = sum(_steps(cell, key) - drawn[_place(cell)] for cell in cells)
        if cut:
            parts.append(f"Without {counted(cut, 'step')} that not all seeds have a value of.")
    return " ".join(parts)


def _steps(cell: Cell, key: str) -> int:
    """How many steps one of its runs or more have a value of."""
    steps = [run.log.columns(key)[0] for run in cell.runs.values()]
    return len(np.unique(np.concatenate(steps))) if steps else 0


def _place(one: Cell | Curve) -> tuple[str, tuple[tuple[str, str], ...]]:
    return one.arm, tuple(one.labels.items())


def log_faults(study: Study) -> list[str]:
    """One line for each run whose log cannot be read, or not all of it."""
    return [run.log_fault for run in study.runs if run.log_fault]


def unmatched(study: Study, published: Published) -> list[str]:
    """One line for each published value that no cell stands beside."""
    placed = {published.place(cell.arm, cell.labels) for cell in study.cells}
    return [
        f"{published.name}: {' '.join(place)}: no cell has this arm and these labels"
        for place in published.values
        if place not in placed
    ]


def unplaced(reference: Reference, made: Iterable[Grid]) -> str:
    """How many published values stand in no grid, in a sentence; empty where all do."""
    placed = {
        reference.place({**grid.labels, grid.axes[0]: row, grid.axes[1]: column})
        for grid in made
        for row in grid.tick_labels[0]
        for column in grid.tick_labels[1]
    }
    rest = len(reference.values.keys() - placed)
    return (
        f"{rest} of {counted(len(reference.values), 'published value')} have no place."
        if rest
        else ""
    )


def grid_gaps(grid: Grid) -> str:
    """What a grid has no or less of, in sentences; empty where it is full."""
    empty = int(np.isnan(grid.means).sum())
    parts = []
    if empty:
        parts.append(f"{counted(empty, 'place')} without an accuracy.")
    if grid.fewer:
        parts.append(f"{counted(grid.fewer, 'gain')} of fewer pairs than the place has seeds.")
    return " ".join(parts)
