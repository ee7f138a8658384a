"""Curves of several runs in one picture: a panel for each place, a line for each arm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunekit.report.curves import PLAIN_LOSS, Curve, study_loss
from prunekit.report.figures.style import (
    End,
    dress,
    label_ends,
    legend_below,
    literal,
    new_figure,
    steps_axis,
    styles,
)
from prunekit.report.study import AxisLabels, Study
from prunekit.report.words import in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
TRAINING = "train/loss"
BURDEN = "probe/burden/"
ACROSS = 3
LABELLED = 7
"""Up to so many lines in a single panel bear their names."""
TALL = 20
"""A positive quantity of a larger range is drawn on a logarithmic axis."""
MOST_POINTS = 1000
"""Of a longer curve only a part is drawn, evenly apart."""
HELD = re.compile(r"(sparsity|density|tokens)/")
"""Keys of what stays as it is until the next record, and to the end of the run."""
PERCENT = re.compile(r"(sparsity|density)/|.*(accuracy|top1)$")
"""Keys of shares, which are drawn in percent."""


def curve_picture(
    study: Study, curves: Sequence[Curve], key: str, against: str | None = None
) -> Figure | None:
    """Draw curves of one scalar; None without any."""
    if not curves:
        return None
    panels = sorted(panel_labels(curves), key=lambda panel: _rank(study, panel))[:MOST_PANELS]
    if PERCENT.match(key):
        curves = [curve.times(100) for curve in curves]
    columns = _across(study, panels)
    rows = -(-len(panels) // columns)
    arms = [arm for arm in study.arms if any(curve.arm == arm for curve in curves)]
    looks = {arm: look for arm, look in styles(study.arms).items() if arm in arms}
    single = len(panels) == 1
    figure = new_figure(7.6 if single else 3.9 * columns, 4.4 if single else 3.1 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    last = max((run.log.last for run in study.runs), default=0)
    plain = study_loss(study) == PLAIN_LOSS
    x_label = _unit(against, plain) if against else "optimizer step"
    for number, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        here = [curve for curve in curves if curve.labels.items() <= panel.items()]
        _panel(axis, here, looks, last if HELD.match(key) and not against else None)
        title = ", ".join(f"{name} {label}" for name, label in panel.items())
        dress(axis, x_label, _unit(key, plain), title)
        axis.label_outer()
        if number + columns >= len(panels):  # the lowest of its column
            axis.tick_params(labelbottom=True)
            axis.set_xlabel(x_label)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    _scale(axes.flat[0], curves, against)
    if against is None:
        steps_axis(axes.flat[0], last)
    _flat(axes.flat[0], curves, key)
    if single and len(arms) <= LABELLED:
        ends = [_end(axes.flat[0], curve, str(looks[curve.arm]["color"])) for curve in curves]
        label_ends(axes.flat[0], ends)
    else:
        legend_below(figure, {arm: {**look, "marker": None} for arm, look in looks.items()})
    return figure


def panel_labels(curves: Sequence[Curve]) -> list[AxisLabels]:
    """Places of the curves, without those that say less than another."""
    distinct = [dict(items) for items in dict.fromkeys(tuple(c.labels.items()) for c in curves)]
    return [
        panel for panel in distinct if not any(panel.items() < other.items() for other in distinct)
    ]


def _panel(
    axis: Axes,
    curves: Sequence[Curve],
    looks: Mapping[str, Mapping[str, Any]],
    held_to: int | None,
) -> None:
    for whole in curves:
        curve = whole.thinned(MOST_POINTS)
        look = {**looks[curve.arm], "marker": None}
        if held_to is not None:
            curve = curve.held(held_to)
            look["drawstyle"] = "steps-post"
        if len(curve.x) == 1:
            look["marker"] = "o"
        axis.plot(curve.x, curve.mean, linewidth=1.4, label=literal(curve.arm), **look)
        if curve.seeds > 1:
            step = None if held_to is None else "post"
            band = {"color": look["color"], "alpha": 0.15, "linewidth": 0, "step": step}
            axis.fill_between(curve.x, curve.low, curve.high, **band)


def _scale(axis: Axes, curves: Sequence[Curve], against: str | None) -> None:
    lowest = min(float(curve.low.min()) for curve in curves)
    highest = max(float(curve.high.max()) for curve in curves)
    if lowest > 0 and highest > TALL * lowest:
        axis.set_yscale("log")
    if against is not None:
        first = min(float(curve.x.min()) for curve in curves)
        last = max(float(curve.x.max()) for curve in curves)
        if first > 0 and last > TALL * first:
            axis.set_xscale("log")
        if "loss" in against:
            axis.invert_xaxis()  # training goes to the right


def _flat(axis: Axes, curves: Sequence[Curve], key: str) -> None:
    """A single value, as of one record: an axis around it would tell of differences."""
    lowest = min(float(curve.low.min()) for curve in curves)
    highest = max(float(curve.high.max()) for curve in curves)
    if lowest != highest or axis.get_yscale() == "log":
        return
    if PERCENT.match(key):
        axis.set_ylim(0, 100)
    elif lowest:
        axis.set_ylim(*sorted((0, 2 * lowest)))


def _end(axis: Axes, curve: Curve, color: str) -> End:
    at = int(curve.x.argmin()) if axis.xaxis_inverted() else -1
    return End(curve.arm, float(curve.x[at]), float(curve.mean[at]), color)


def _unit(key: str, plain: bool) -> str:
    """What an axis shows; `plain` where runs minimise the cross-entropy, which is in nats."""
    if key.endswith("loss"):
        return f"{in_words(key)}, nats" if plain or key != TRAINING else in_words(key)
    if key.startswith(f"{BURDEN}gradient"):
        return f"{key.removeprefix('probe/')}\nnats per unit of weight"
    return f"{in_words(key)}, %" if PERCENT.match(key) else in_words(key)


def _across(study: Study, panels: Sequence[AxisLabels]) -> int:
    """Columns: the labels of the last axis that varies, else as many as fit."""
    for axis in reversed(list(study.axes)):
        labels = {panel[axis] for panel in panels if axis in panel}
        if 1 < len(labels) <= ACROSS + 1 and len(labels) < len(panels):
            return len(labels)
    return min(ACROSS, len(panels))


def _rank(study: Study, panel: AxisLabels) -> list[int]:
    return [
        labels.index(panel[axis]) if axis in panel else -1 for axis, labels in study.axes.items()
    ]
