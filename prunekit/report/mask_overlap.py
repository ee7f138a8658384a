"""Two runs' masks side by side: how dense, how alike, and how alike by chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunekit.errors import UsageError
from prunekit.foundation.number_text import counted, percent
from prunekit.report.figures.style import PALETTE, dress, literal, new_figure
from prunekit.report.read import clean
from prunekit.report.tables import Table
from prunekit.runs.directory import open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOLED = "all layers"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of two masks of n entries that keep a and b of them."""

    name: str
    entries: int
    kept: tuple[int, int]
    both: int
    """Entries that both keep."""
    chance: float
    """The same, expected of masks drawn at random with as many kept in each layer: a b / n."""

    @property
    def density(self) -> tuple[float, float]:
        """Kept shares."""
        return self.kept[0] / self.entries, self.kept[1] / self.entries

    @property
    def iou(self) -> float:
        """Intersection over union, in [0, 1]; 1 for two empty masks."""
        return _iou(self.both, sum(self.kept))

    @property
    def iou_by_chance(self) -> float:
        """That of the expected intersection."""
        return _iou(self.chance, sum(self.kept))

    @property
    def common(self) -> float:
        """Share of the smaller mask's kept entries that the other keeps as well."""
        return self.both / min(self.kept) if min(self.kept) else 0.0

    @property
    def common_by_chance(self) -> float:
        """The same, expected."""
        return self.chance / min(self.kept) if min(self.kept) else 0.0

    @property
    def hamming(self) -> int:
        """Entries that one keeps and the other does not."""
        return sum(self.kept) - 2 * self.both


def _iou(both: float, kept: int) -> float:
    return both / (kept - both) if kept else 1.0


def overlap(name: str, a: np.ndarray, b: np.ndarray) -> Overlap:
    """Compare two masks.

    Args:
        name: of the parameter.
        a: bool, True = kept, any shape.
        b: bool, the shape of `a`.
    """
    kept = int(a.sum()), int(b.sum())
    return Overlap(name, a.size, kept, int((a & b).sum()), kept[0] * kept[1] / a.size)


def compare_masks(first: Path, second: Path) -> list[Overlap]:
    """Every layer that both runs mask, and all of them pooled, last.

    Pooled, chance still keeps each layer's counts.

    Raises:
        CheckpointError: a run is not there or has no masks.
        UsageError: the masks are not of the same model.
    """
    a, b = ({n: m.numpy() for n, m in open_run(path).masks().items()} for path in (first, second))
    shared = [name for name in a if name in b and a[name].size]
    if not shared:
        raise UsageError(f"--masks: {first} and {second} mask no parameter of the same name")
    for name in shared:
        if a[name].shape != b[name].shape:
            raise UsageError(f"--masks: {name} has another shape in {second} than in {first}")
    layers = [overlap(clean(name), a[name], b[name]) for name in shared]
    pooled = Overlap(
        POOLED,
        sum(layer.entries for layer in layers),
        (sum(layer.kept[0] for layer in layers), sum(layer.kept[1] for layer in layers)),
        sum(layer.both for layer in layers),
        sum(layer.chance for layer in layers),
    )
    return [*layers, pooled]


def in_one_alone(first: Path, second: Path) -> list[str]:
    """A line for each run with masks that the other has none of: these are not compared.

    Raises:
        CheckpointError: a run is not there or has no masks.
    """
    names = [open_run(path).masks().keys() for path in (first, second)]
    alone = {
        path: [*own] for path, own in ((first, names[0] - names[1]), (second, names[1] - names[0]))
    }
    return [
        f"{path} alone masks {counted(len(own), 'parameter')}: not compared: {clean(min(own))}"
        + (", .." if len(own) > 1 else "")
        for path, own in alone.items()
        if own
    ]


def mask_table(found: list[Overlap], first: Path, second: Path) -> Table:
    """One row a layer."""
    columns = (
        *("layer", "entries", "density A", "density B", "IoU", "by chance"),
        *("in common", "by chance", "Hamming", "Hamming, share"),
    )
    rows = [
        (
            *(o.name, f"{o.entries:,}", percent(o.density[0]), percent(o.density[1])),
            *(f"{o.iou:.3f}", f"{o.iou_by_chance:.3f}"),
            *(percent(o.common), percent(o.common_by_chance)),
            *(f"{o.hamming:,}", percent(o.hamming / o.entries)),
        )
        for o in found
    ]
    note = (
        f"A: {clean(str(first))}; B: {clean(str(second))}. In common: of the kept entries of the "
        "smaller mask those that the other keeps too. By chance: of masks drawn at random with as "
        "many kept entries in each layer. Hamming: entries that one keeps and the other does not."
    )
    return Table("Masks", columns, tuple(rows), 1, note)


def mask_picture(found: list[Overlap]) -> Figure:
    """Density of both and what they have in common, a row for each layer."""
    rows = range(len(found))
    figure = new_figure(9.6, 0.3 * len(found) + 1.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for i, (name, mark) in enumerate((("A", "o"), ("B", "x"))):
        shares = [100 * o.density[i] for o in found]
        left.plot(shares, rows, mark, color=PALETTE[i], markersize=7, label=name)
    right.plot([100 * o.common for o in found], rows, "o", color=PALETTE[2], label="measured")
    by_chance = [100 * o.common_by_chance for o in found]
    right.plot(by_chance, rows, "|", color=PALETTE[7], markersize=14, label="by chance")
    dress(left, "kept, % of the entries", "", "Density")
    dress(right, "kept by both, % of the smaller mask", "", "In common")
    for axis in (left, right):
        axis.set_xlim(left=0)
        axis.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    left.set_yticks(rows, [literal(o.name) for o in found], fontsize=8)
    left.invert_yaxis()
    return figure
