"""Accuracy against what it costs: sparsity, tokens, multiply-adds, training; and its front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunekit.report.columns import KEYS
from prunekit.report.comparison import accuracy, is_dense, repeating
from prunekit.report.figures.style import (
    WIDE,
    End,
    dress,
    label_ends,
    legend_below,
    literal,
    new_figure,
    plain_ticks,
    spread_top,
    styles,
    thousands,
)
from prunekit.report.read import SEVERAL, common
from prunekit.report.statistics import Summary, summary
from prunekit.report.study import AxisLabels, Cell, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT: dict[str, Any] = {"color": "#d0d0d0", "linewidth": 6, "solid_capstyle": "round"}


@dataclass(frozen=True)
class Cost:
    """A quantity that accuracy is paid with."""

    title: str
    unit: str
    keys: tuple[str, ...]
    scale: float = 1.0
    more_is_better: bool = False
    timed: bool = False
    """Whether it is a time of a machine."""


COSTS = (
    Cost("Sparsity", "pruned, % of the weights in scope", KEYS["sparsity_in_scope"], 100, True),
    Cost("Tokens", "patch tokens of an image after compression", KEYS["tokens"]),
    Cost("Theoretical MACs", "multiply-adds of an image, zeros skipped", KEYS["macs_theoretical"]),
    Cost("Executed MACs", "multiply-adds of an image, zeros multiplied", KEYS["macs_executed"]),
    Cost("Latency, torch", "ms of the pass of one image", KEYS["latency_torch_1_ms"], timed=True),
    Cost(
        "Latency, onnxruntime",
        "ms of the pass of one image",
        KEYS["latency_onnxruntime_1_ms"],
        timed=True,
    ),
    Cost("Training", "FLOPs spent", KEYS["training_flops"]),
)
SAME = 1.02
"""Costs within this ratio are not joined by a line: it would say nothing."""
ALIKE = 1.0001
"""Costs within this ratio are one: whole units of models of two sizes miss a target by a hair."""
MOST_LABELS = 12
"""Up to so many lines bear the labels of the axes that set them apart."""


@dataclass(frozen=True)
class Point:
    """A cell in a panel."""

    arm: str
    cost: float
    accuracy: Summary
    labels: AxisLabels = field(default_factory=dict)


def pareto_front(points: Sequence[Point], more_is_better: bool) -> list[Point]:
    """Points that no other beats at no higher cost, cheapest first.

    Of points with equal accuracy the cheapest stays, of equal ones the first.
    """
    sign = -1 if more_is_better else 1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (sign * p.cost, -p.accuracy.mean)):
        if not front or point.accuracy.mean > front[-1].accuracy.mean:
            front.append(point)
    return front


def points_of(study: Study, cost: Cost, key: str) -> list[Point]:
    """A point for each cell that has the cost and an accuracy; one where cells share runs.

    Arms that repeat another are left out.
    """
    points: dict[tuple[str, ...], Point] = {}
    repeated = repeating(study, study.arms)
    for cell in study.cells:
        if cell.arm in repeated:
            continue
        paid, found = spent(cell, cost), accuracy(cell, key)
        if paid is None or found is None:
            continue  # `undrawn_costs` tells of it
        same = (cell.arm, *(str(run.path) for run in cell.runs.values()))
        labels = cell.labels
        if same in points:  # one run serves several places
            labels = dict(points[same].labels.items() & labels.items())
        points[same] = Point(cell.arm, paid.mean, found, labels)
    return list(points.values())


def spent(cell: Cell, cost: Cost) -> Summary | None:
    """What a cell cost, over its seeds; None where no run has the number."""
    values = [cost.scale * value for value in cell.values(*cost.keys).values()]
    if not values and cost.more_is_better and cell.runs and all(map(is_dense, cell.runs.values())):
        return Summary(len(cell.runs), 0.0, None)  # what prunes nothing has no sparsity in scope
    return summary(values)


def cost_panels(study: Study, key: str) -> list[tuple[Cost, list[Point]]]:
    """The costs that vary by more than whole units do, and their points.

    Times are among them where all runs are of one kind of machine and number of threads.
    """
    compare = times_compare(study)
    panels = [(cost, points_of(study, cost, key)) for cost in COSTS if compare or not cost.timed]
    return [(cost, points) for cost, points in panels if _varies([p.cost for p in points])]


def times_compare(study: Study) -> bool:
    """Whether runs were timed on one kind of device, with one number of threads."""
    threads = {run.number("latency", "threads") for run in study.runs} - {None}
    return common(study.runs, "device_name") != SEVERAL and len(threads) < 2


def _varies(costs: Sequence[float]) -> bool:
    return bool(costs) and max(costs) > ALIKE * min(costs)


def cost_picture(study: Study, key: str) -> Figure | None:
    """A panel for each cost that varies; None where none does."""
    panels = cost_panels(study, key)
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(5.4 * columns, 3.9 * rows + 0.5 + 0.1 * len(study.arms))
    looks = styles(study.arms)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (cost, points) in zip(axes, panels, strict=False):
        _panel(axis, cost, points, looks)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    drawn = {point.arm for _, points in panels for point in points}
    shown = {arm: look for arm, look in looks.items() if arm in drawn}
    legend_below(figure, shown, {"Pareto front of the means": FRONT})
    return figure


def _panel(
    axis: Axes, cost: Cost, points: Sequence[Point], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    front = pareto_front(points, cost.more_is_better)
    xs, ys = [p.cost for p in front], [p.accuracy.mean for p in front]
    axis.plot(xs, ys, **FRONT, zorder=1, marker="o", markersize=6)
    lines = lines_through(points)
    for line in lines:
        look = {**looks[line[0].arm], "linewidth": 1, "markersize": 4.5, "capsize": 2}
        if line[-1].cost <= SAME * line[0].cost:
            look["linestyle"] = "none"
        axis.errorbar(
            [p.cost for p in line],
            [p.accuracy.mean for p in line],
            yerr=[p.accuracy.deviation or 0.0 for p in line],
            zorder=2,
            elinewidth=0.8,
            label=literal(line[0].arm),  # for `hover.py`; the legend is made apart
            **look,
        )
    costs = [p.cost for p in points]
    if cost.more_is_better:
        spread_top(axis.xaxis, costs)
    else:
        if min(costs) > 0 and max(costs) > WIDE * min(costs):
            axis.set_xscale("log")
            plain_ticks(axis.xaxis)
        if max(costs) >= 1000:
            thousands(axis.xaxis)
    spread_top(axis.yaxis, [_reach(p.accuracy, sign) for p in points for sign in (-1, 1)])
    dress(axis, cost.unit, "accuracy, %", cost.title)
    several = [line for line in lines if len(line) > 1]
    if len(several) <= MOST_LABELS:
        ends = [_end(line, str(looks[line[0].arm]["color"])) for line in several]
        label_ends(axis, [end for end in ends if end.name], size=7)


def lines_through(points: Sequence[Point]) -> list[list[Point]]:
    """Points that a line joins, cheapest first: of one arm, and apart in one axis alone.

    The axis is the one along which the cost changes most.
    """
    axes = dict.fromkeys(axis for point in points for axis in point.labels)
    ways = [_along(points, axis) for axis in axes]
    return max(ways, key=_spread, default=[[point] for point in points])


def _along(points: Sequence[Point], axis: str) -> list[list[Point]]:
    lines: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        rest = tuple((a, label) for a, label in point.labels.items() if a != axis)
        lines.setdefault((point.arm, axis in point.labels, rest), []).append(point)
    return [sorted(line, key=lambda p: p.cost) for line in lines.values()]


def _end(line: Sequence[Point], color: str) -> End:
    """The end of a line, called after what all its points share."""
    shared = set.intersection(*(set(point.labels.items()) for point in line))
    name = ", ".join(f"{axis} {label}" for axis, label in sorted(shared))
    return End(name, line[-1].cost, line[-1].accuracy.mean, color)


def _spread(lines: Sequence[Sequence[Point]]) -> float:
    """How far apart costs are along lines, of their mean."""
    return sum((line[-1].cost - line[0].cost) / (line[-1].cost or 1) for line in lines)


def _reach(found: Summary, sign: int) -> float:
    """The end of an error bar."""
    return max(0.0, min(100.0, found.mean + sign * (found.deviation or 0.0)))
