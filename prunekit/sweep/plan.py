"""Which runs a sweep is, and what makes two of them the same."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunekit.errors import RecipeError
from prunekit.foundation.values import RECIPE_FORMAT
from prunekit.recipe.document import RecipeFault, SourceDocument
from prunekit.recipe.identity import cell_key
from prunekit.recipe.load import MAX_LINES, as_lines, recipe_from_document
from prunekit.recipe.overrides import apply_change
from prunekit.recipe.schema import Recipe
from prunekit.registry.own_code import CodeFile, code_of
from prunekit.sweep.design import Arm, AxisValue, Change, Design
from prunekit.sweep.directory import FORMAT

SOURCE = "cell:"
"""Stands, with the key of a cell, for the path of its run until there is one."""
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One run to be made."""

    id: str
    arm: str
    axes: Labels
    also: tuple[Labels, ...]
    key: str
    needs: Mapping[str, str]
    """Recipe key -> cell id."""
    sources: Mapping[str, str]
    """Recipe key -> cell key."""
    recipe: Recipe
    """With `cell:<key>` where the path of another run will stand."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a sweep; what a cell needs stands before it."""

    name: str
    axes: Mapping[str, tuple[str, ...]]
    arms: tuple[str, ...]
    cells: tuple[PlannedCell, ...]
    recipe_format: int = RECIPE_FORMAT
    """The format whose defaults its recipes have."""

    @property
    def code(self) -> CodeFile | None:
        """The file of the user's own that recipes of it name something of."""
        return code_of([cell.recipe for cell in self.cells])

    def as_json(self) -> dict[str, Any]:
        """As `plan.json` holds it."""
        return {
            "format": FORMAT,
            "name": self.name,
            **({"recipe_format": self.recipe_format} if self.recipe_format > 1 else {}),
            **({"code": self.code.told()} if self.code else {}),
            "axes": {axis: list(labels) for axis, labels in self.axes.items()},
            "arms": list(self.arms),
            "cells": [
                {
                    "id": cell.id,
                    "arm": cell.arm,
                    "axes": dict(cell.axes),
                    "key": cell.key,
                    "needs": dict(cell.needs),
                    "also": [dict(labels) for labels in cell.also],
                }
                for cell in self.cells
            ],
        }


PLACE = re.compile(r"^\S+:[0-9]+:[0-9]+:? ")
MOST_RUNS = 100_000
"""Of a sweep, each counted for every value that it serves: planning one takes milliseconds."""


def make_plan(design: Design, as_of: int | None = None) -> Plan:
    """Multiply a sweep out.

    An arm has a cell for each combination of the axes that it is neither `without` nor collapses,
    and of those that it is without but a run that it needs has. Cells of one arm that come to the
    same recipe are one cell.

    Args:
        design: the sweep.
        as_of: the earlier format of recipes that it was begun with, if it was: so a default that
            has changed since makes no other run.

    Raises:
        RecipeError: needs in a circle or not of the same cell; more runs than a sweep may have;
            whatever is wrong with a recipe.
        PluginError: a component cannot be imported.
    """
    planner = _Planner(design, as_of)
    ordered = [arm for arm in _in_order_of_need(design.arms) if planner.find_coordinates(arm)]
    planner.check_size(ordered)
    for arm in ordered:
        planner.take(arm)
    planner.check_data_places()
    if planner.problems:
        raise RecipeError("\n".join(planner.told()))
    axes = {axis.name: tuple(value.label for value in axis.values) for axis in design.axes}
    names = tuple(arm.name for arm in design.arms)
    return Plan(design.name, axes, names, tuple(planner.cells.values()), as_of or RECIPE_FORMAT)


def _in_order_of_need(arms: Sequence[Arm]) -> list[Arm]:
    """Each arm after those that it needs, else as written."""
    by_name = {arm.name: arm for arm in arms}
    ordered: dict[str, Arm] = {}

    def visit(arm: Arm, above: tuple[str, ...]) -> None:
        """Put an arm behind those that it needs; `above` are those that need it."""
        if arm.name in above:
            circle = " needs ".join((*above[above.index(arm.name) :], arm.name))
            raise RecipeError(as_lines([RecipeFault(arm.place, f"arms.{arm.name}.needs", circle)]))
        for other in arm.needs.values():
            visit(by_name[other], (*above, arm.name))
        ordered.setdefault(arm.name, arm)

    for arm in arms:
        visit(arm, ())
    return list(ordered.values())


class _Planner:
    def __init__(self, design: Design, as_of: int | None) -> None:
        self.design, self.as_of = design, as_of
        self.axis_values = {axis.name: axis.values for axis in design.axes}
        self.coordinates: dict[str, list[str]] = {}
        """Arm -> the axes along which its cells differ."""
        self.cells: dict[tuple[str, str], PlannedCell] = {}
        """By arm and key."""
        self.index: dict[tuple[str, tuple[str, ...]], PlannedCell] = {}
        """By arm and the labels of its coordinates."""
        self.planned: list[PlannedCell] = []
        """Cells before those that come to the same recipe are one."""
        self.problems: dict[str, str] = {}
        """What is wrong -> the line that tells it, with the first place."""

    def take(self, arm: Arm) -> None:
        """Plan the cells of an arm; those that it needs are planned."""
        axes = self.coordinates[arm.name]
        for chosen in itertools.product(*(self.axis_values[axis] for axis in axes)):
            try:
                cell = self.cell(arm, dict(zip(axes, chosen, strict=True)))
            except RecipeError as error:
                self.note(str(error).splitlines())
                continue
            self.planned.append(cell)
            known = self.cells.get((arm.name, cell.key))
            if known is not None:
                cell = replace(known, also=(*known.also, cell.axes, *cell.also))
            self.cells[arm.name, cell.key] = cell
            self.index[arm.name, tuple(value.label for value in chosen)] = cell

    def check_size(self, arms: Sequence[Arm]) -> None:
        """Count the runs of these arms before any of them is planned.

        Raises:
            RecipeError: they are more than `MOST_RUNS`.
        """
        runs = sum(
            math.prod(len(self.axis_values[axis]) for axis in self.shown(arm)) for arm in arms
        )
        if runs > MOST_RUNS:
            what = (
                f"{runs:,} runs, and a sweep has at most {MOST_RUNS:,}: give fewer values, or make "
                "several sweeps"
            )
            raise RecipeError(as_lines([RecipeFault(arms[0].place, "axes", what)]))

    def check_data_places(self) -> None:
        """Runs that differ in the place of the data alone would be taken for one."""
        first: dict[str, PlannedCell] = {}
        for cell in self.planned:
            other = first.setdefault(cell.key, cell)
            if other.recipe.data.root != cell.recipe.data.root:
                what = (
                    f"{other.id} and {cell.id} differ in the place of the data alone, which makes "
                    "no other run: give all runs one place, or make a sweep of each"
                )
                arm = next(arm for arm in self.design.arms if arm.name == cell.arm)
                self.problem(arm, "data.root", what)
                return

    def find_coordinates(self, arm: Arm) -> bool:
        """Find the coordinates of an arm; whether all that it needs has them too."""
        needed = {axis for other in arm.needs.values() for axis in self.coordinates.get(other, ())}
        if lost := sorted(needed & arm.collapse):
            what = (
                f"{arm.name} needs a run for each value of {lost[0]!r}, so one run cannot serve "
                "all of them: write `without` for an axis whose keys it does not have"
            )
            self.problem(arm, f"arms.{arm.name}.collapse", what)
            return False
        missing = (arm.without - needed) | arm.collapse
        self.coordinates[arm.name] = [axis for axis in self.axis_values if axis not in missing]
        return all(other in self.coordinates for other in arm.needs.values())

    def problem(self, arm: Arm, path: str, what: str) -> None:
        self.note([str(RecipeFault(arm.place, path, what))])

    def note(self, lines: Iterable[str]) -> None:
        """Keep what is wrong; what is wrong with each value of an axis is told once."""
        for line in filter(None, lines):
            self.problems.setdefault(PLACE.sub("", line), line)

    def cell(self, arm: Arm, chosen: Mapping[str, AxisValue]) -> PlannedCell:
        """The run of an arm at one value of each of its axes.

        Raises:
            RecipeError: its recipe is not valid.
        """
        sources = {key: self.needed(other, chosen) for key, other in arm.needs.items()}
        changes = [*arm.changes]
        for axis, value in chosen.items():
            changes += value.changes if axis not in arm.without else ()
        changes += self.design.last
        recipe = self.resolve(arm, changes, {key: cell.key for key, cell in sources.items()})
        first, *also = self.labels(arm, chosen)
        where = ",".join(f"{axis}={value.label}" for axis, value in chosen.items())
        return PlannedCell(
            id=f"{arm.name}/{where}" if where else arm.name,
            arm=arm.name,
            axes=first,
            also=tuple(also),
            key=cell_key(recipe),
            needs={key: cell.id for key, cell in sources.items()},
            sources={key: cell.key for key, cell in sources.items()},
            recipe=recipe,
        )

    def needed(self, other: str, chosen: Mapping[str, AxisValue]) -> PlannedCell:
        """The run of another arm at the same labels."""
        labels = tuple(chosen[axis].label for axis in self.coordinates[other])
        cell = self.index.get((other, labels))
        if cell is None:  # its own problem is told
            raise RecipeError("")
        return cell

    def resolve(self, arm: Arm, changes: Sequence[Change], keys: Mapping[str, str]) -> Recipe:
        """The recipe of a cell.

        Raises:
            RecipeError: it is not valid.
        """
        document = arm.recipe.copied()
        sources = [Change(path, f"{SOURCE}{key}", arm.place) for path, key in keys.items()]
        for change in (*changes, *sources, Change("name", arm.name, arm.place)):
            value = SourceDocument(root=copy.deepcopy(change.value))
            apply_change(document, change.path, value, change.place)
        return recipe_from_document(document, self.as_of)

    def labels(self, arm: Arm, chosen: Mapping[str, AxisValue]) -> Iterator[Labels]:
        """Everything that a run stands for: its own labels, times those of collapsed axes."""
        shown = self.shown(arm)
        choices = [
            [chosen[axis].label]
            if axis in chosen
            else [value.label for value in self.axis_values[axis]]
            for axis in shown
        ]
        for labels in itertools.product(*choices):
            yield dict(zip(shown, labels, strict=True))

    def shown(self, arm: Arm) -> list[str]:
        """The axes whose values its runs stand for, one or all of them."""
        own = {*self.coordinates[arm.name], *arm.collapse}
        return [axis for axis in self.axis_values if axis in own]

    def told(self) -> list[str]:
        """The problems, each once."""
        lines = list(self.problems.values())
        rest = len(lines) - MAX_LINES
        return lines[:MAX_LINES] + ([f"... and {rest} more"] if rest > 0 else [])
