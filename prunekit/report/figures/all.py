"""Every picture of a report, each with what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prunekit.errors import UsageError
from prunekit.foundation.number_text import counted
from prunekit.foundation.suggestions import did_you_mean
from prunekit.report.curves import Curve, by_loss, curves, logged_keys
from prunekit.report.document import Comparison, Picture
from prunekit.report.figures.cost import cost_panels, cost_picture
from prunekit.report.figures.curves import BURDEN, MOST_PANELS, curve_picture, panel_labels
from prunekit.report.figures.grid import grid_picture
from prunekit.report.figures.of_cells import (
    MOST_CELLS,
    histories,
    layers_picture,
    merged_images,
    merged_picture_of,
)
from prunekit.report.grid import Reference, choose_axes, grids, read_reference
from prunekit.report.omissions import (
    curve_gaps,
    grid_gaps,
    log_faults,
    undrawn_costs,
    unlogged,
    unplaced,
)
from prunekit.report.study import Study
from prunekit.report.words import heading, in_words

MOST_BURDENS = 24
MOST_GRIDS = 8
LOSS = "train/loss"
ALWAYS = (LOSS, "eval/test_top1")


@dataclass(frozen=True)
class WantedPictures:
    """What pictures a person asks for."""

    curves: tuple[str, ...] = ()
    """Keys of `metrics.jsonl`; none = the pooled burden, the training loss and the accuracy."""
    against: str | None = None
    """A key that takes the place of the optimizer step."""
    grid: tuple[str, str] | None = None
    """The axes of the rows and of the columns."""
    reference: Path | None = None
    """A CSV file of published values."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Column -> value that its rows must have."""


@dataclass(frozen=True)
class Drawings:
    """What is asked for, checked against what there is."""

    keys: tuple[str, ...]
    grid: tuple[str, str] | None
    reference: Reference | None
    more: int = 0
    """Keys that would be drawn unasked, were they not so many."""


def plan_drawings(study: Study, wanted: WantedPictures) -> Drawings:
    """Check all that is asked for.

    Raises:
        UsageError: a key was never logged, an axis is not there, the reference does not fit.
    """
    logged = logged_keys(study)
    for key in (*wanted.curves, *filter(None, [wanted.against])):
        if key not in logged:
            raise UsageError(f"{key}: no run logged it.{did_you_mean(key, logged)}")
    grid = choose_axes(study, wanted.grid)
    reference = None
    if wanted.reference is not None:
        if grid is None:
            raise UsageError("--reference: these runs have no grid of two axes to stand beside")
        reference = read_reference(wanted.reference, list(study.axes), wanted.where)
    unasked = tuple(key for key in default_keys(logged) if key != wanted.against)
    more = 0 if wanted.curves else max(0, len(burden_keys(logged)) - MOST_BURDENS)
    return Drawings(wanted.curves or unasked, grid, reference, more)


def default_keys(logged: Sequence[str]) -> tuple[str, ...]:
    """The burden of single steps, pooled over layers; the training loss, the accuracy."""
    shown = (key for key in ALWAYS if key in logged)
    return (*burden_keys(logged)[:MOST_BURDENS], *shown)


def burden_keys(logged: Sequence[str]) -> list[str]:
    """The indicators of single steps, pooled over layers."""
    return [
        key
        for key in logged
        if key.startswith(BURDEN)
        and key.endswith("/pooled")
        and "_window/" not in key
        and "_running/" not in key
    ]


def pictures(found: Comparison, drawings: Drawings, against: str | None) -> Iterator[Picture]:
    """Draw them one after the other."""
    if (costs := cost_picture(found.study, found.key)) is not None:
        caption = (
            "A point is a cell: the mean over its seeds, with its standard deviation. The grey "
            "line joins the means that no other beats at no higher cost; chance is part of it. "
            "Where values near 100 % would lie on each other, the axis is stretched there."
        )
        if any(cost.timed for cost, _ in cost_panels(found.study, found.key)):
            caption += (
                " Times are those of the machine as each run found it: what else ran makes them "
                "longer, and no front leaves that out. Ratios to dense, in the table, compare."
            )
        caption = f"{caption} {undrawn_costs(found.study, found.key)}".rstrip()
        yield Picture("costs", "Accuracy against what it costs", caption, costs)
    yield from _grids(found, drawings)
    yield from _of_cells(found.study)
    yield from _curves(found.study, drawings.keys, against)


def _grids(found: Comparison, drawings: Drawings) -> Iterator[Picture]:
    if drawings.grid is None:
        return
    reference = drawings.reference
    made = grids(found.study, drawings.grid, found.key, reference)
    few = f"The first {MOST_GRIDS} of {len(made)} grids are drawn." if made[MOST_GRIDS:] else ""
    rest = unplaced(reference, made) if reference is not None else ""
    for number, grid in enumerate(made[:MOST_GRIDS], start=1):
        caption = "Mean ± standard deviation over seeds; below, the gain by seed over the column 0."
        if reference is not None:
            caption += f" Right: {reference.value} of {reference.name}."
        title = f"{grid.axes[0]} x {grid.axes[1]}: {grid.arm}"
        figure = grid_picture(grid, reference.name if reference else "")
        left_out = " ".join(filter(None, [few, rest, grid_gaps(grid)]))
        yield Picture(f"grid-{number}", title, caption, figure, left_out)


def _of_cells(study: Study) -> Iterator[Picture]:
    """Layers over time, and merged tokens, of the first seed of each cell."""
    if layers := histories(study):
        caption = (
            "Of the first seed of each cell: from left to right the steps, dark = all of a tensor "
            "is kept, pale = none; the numbers are those at the end. The scale is that of the "
            "square root."
        )
        figure = layers_picture(layers[:MOST_CELLS])
        yield Picture("layers", "Density of each layer", caption, figure, _first_cells(layers))
    if merged := merged_images(study):
        caption = (
            "Test images, and below them the tokens that are left, each one field of the mean "
            "colour of its patches; of the first seed of each cell."
        )
        figure = merged_picture_of(merged[:MOST_CELLS])
        yield Picture("merged", "Merged tokens", caption, figure, _first_cells(merged))


def _first_cells(cells: Sequence[object]) -> str:
    more = len(cells) > MOST_CELLS
    return f"The first {MOST_CELLS} of {len(cells)} cells are drawn." if more else ""


def _curves(study: Study, keys: Sequence[str], against: str | None) -> Iterator[Picture]:
    for key in keys:
        found = curves(study, key, against)
        left_out = curve_gaps(study, found, key, against)
        without = unlogged(study, found) if found else ""
        apart = LOSS in (key, against)
        for loss, some in (by_loss(study, found) if apart else {"": found}).items():
            one = _curve(study, some, key, against, loss)
            if one is not None:
                note = f" Not drawn, as too little was logged: {without}." if without else ""
                told = " ".join(filter(None, [left_out, one.left_out]))
                yield replace(one, caption=one.caption + note, left_out=told)


def _curve(
    study: Study, found: Sequence[Curve], key: str, against: str | None, loss: str
) -> Picture | None:
    """One picture of a scalar; None without a curve."""
    figure = curve_picture(study, found, key, against)
    if figure is None:
        return None
    keys_shown = f"{key} against {against}" if against else key
    title = f"{in_words(key)} against {in_words(against)}" if against else in_words(key)
    caption = "Line: mean over seeds; band: lowest to highest."
    if title != keys_shown:
        caption += f" In the log: {keys_shown}."
    if against:
        caption += f" Each run is read where its {against} first came to a level."
    if loss:
        caption += f" Of the runs that minimise {loss}: numbers of another loss do not compare."
        keys_shown, title = f"{keys_shown} {loss}", f"{title}, {loss}"
    places = len(panel_labels(found))
    more = f"The first {MOST_PANELS} of {places} places are drawn." if places > MOST_PANELS else ""
    name = re.sub(r"[^0-9A-Za-z]+", "-", f"curve-{keys_shown}")
    return Picture(name, heading(title), caption, figure, more)


def undrawn(study: Study, drawings: Drawings, against: str | None) -> list[str]:
    """One line for each picture that there is not, and for each log that cannot be read."""
    none = [key for key in drawings.keys if not curves(study, key, against)]
    lines = [
        f"{key}{f' against {against}' if against else ''}: not drawn: the runs of no cell have "
        "enough of it in common"
        for key in none
    ]
    if drawings.more:
        lines.append(
            f"{counted(drawings.more, 'more burden indicator')} not drawn: --curve KEY names them"
        )
    return [*lines, *log_faults(study)]
