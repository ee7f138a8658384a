"""One PNG of a run: loss, accuracy, sparsity over the steps, and the density of each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.files import replacing
from prunekit.foundation.number_text import percent, si
from prunekit.report.evaluations import ACCURACIES, dips
from prunekit.report.figures.style import steps_axis
from prunekit.runs.directory import RunDir, logged_series, open_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, Any]]
Panel = Callable[["Axes", Lines], None]

BLUE, ORANGE, GREEN, GREY = "#0b64a0", "#d1661c", "#2a7f4f", "#8a8a8a"
TITLE_WIDTH = 120
MARKED = 40
"""Up to so many points a curve shows each of them."""


def picture(run_dir: Path) -> Path:
    """Draw a run, finished or not, into `report.png` of its directory.

    Returns:
        The path of the picture.

    Raises:
        CheckpointError: no run directory, or nothing was logged.
        ResourceError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = open_run(run_dir)
    lines = run.metrics()
    report = run.report() if (run.path / "report.json").is_file() else {}
    densities = _densities(report, lines)
    panels: dict[str, Panel] = {"loss": _loss, "accuracy": _accuracy, "sparsity": _sparsity}
    layout: Any = [["loss", "accuracy"]]
    size = (10.5, 4.3)
    if densities:
        layout = [[name, "density"] for name in panels]
        size = (10.5, max(8.4, 0.17 * len(densities) + 1.6))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(run, report), fontsize=10, x=0.01, ha="left")
    axes = figure.subplot_mosaic(layout, width_ratios=[1.25, 1] if densities else [1, 1])
    for name, axis in axes.items():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
        if name == "density":
            _density(axis, densities)
        else:
            panels[name](axis, lines)
    path = run.path / "report.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


def _densities(report: Mapping[str, Any], lines: Lines) -> dict[str, float]:
    """Kept share of each masked tensor, at the end or as logged last."""
    if report:
        return {layer["name"]: layer["density"] for layer in report.get("layers", ())}
    found = {}
    for line in lines:
        for tag, value in line.items():
            if tag.startswith("density/") and value is not None:
                found[tag.removeprefix("density/")] = value
    return found


def _title(run: RunDir, report: Mapping[str, Any]) -> str:
    """The recipe, and the numbers that matter, on a line of their own."""
    name = str(report.get("recipe") or run.path.parent.name)
    facts = []
    if (top1 := report.get("accuracy", {}).get("test_top1")) is not None:
        facts.append(f"test accuracy {percent(top1)}")
    if report.get("layers"):
        facts.append(f"sparsity {percent(report['sparsity']['scope'])} in scope")
    tokens = report.get("tokens", {})
    if tokens.get("before") not in (None, tokens.get("after")):
        facts.append(f"{tokens['before']} → {tokens['after']} tokens")
    if macs := report.get("macs"):
        facts.append(f"{si(macs['dense'])} → {si(macs['executed'])} multiply-adds executed")
    return "\n".join([name, *textwrap.wrap("  ·  ".join(facts) or "not finished", TITLE_WIDTH)])


def _curve(axis: Axes, lines: Lines, tag: str, label: str, scale: float = 1, **style: Any) -> None:
    """One tag over the steps; nothing where it was never logged."""
    if lost := sum(tag in line and line[tag] is None for line in lines):
        label += f" ({lost} not finite)"
    points = logged_series(lines, tag)
    if points and "drawstyle" in style:
        points = [*points, (_last_step(lines), points[-1][1])]
    if points:
        steps = [step for step, _ in points]
        values = [scale * value for _, value in points]
        marker = "o" if len(points) <= MARKED else None
        axis.plot(steps, values, label=label, marker=marker, markersize=3, **style)


def _last_step(lines: Lines) -> int:
    return max((line["step"] for line in lines), default=0)


def _finish(axis: Axes, lines: Lines, title: str, unit: str) -> None:
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(unit)
    steps_axis(axis, _last_step(lines))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def _loss(axis: Axes, lines: Lines) -> None:
    _curve(axis, lines, "train/loss", "training", color=BLUE, linewidth=1)
    _curve(axis, lines, "eval/validation_loss", "validation", color=GREEN)
    _curve(axis, lines, "eval/test_loss", "test", color=ORANGE)
    _finish(axis, lines, "Loss", "cross-entropy, nats")


def _accuracy(axis: Axes, lines: Lines) -> None:
    _curve(axis, lines, "train/accuracy", "training batch", 100, color=BLUE, linewidth=1)
    _curve(axis, lines, "eval/validation_top1", "validation", 100, color=GREEN)
    _curve(axis, lines, "eval/test_top1", "test", 100, color=ORANGE)
    _ring_dips(axis, lines)
    _finish(axis, lines, "Accuracy", "top-1, %")


def _ring_dips(axis: Axes, lines: Lines) -> None:
    """A ring around what looks like a collapse, and is an evaluation on masks just changed."""
    found = set(dips(lines))
    points = [
        (s, 100 * v) for key in ACCURACIES for s, v in logged_series(lines, key) if s in found
    ]
    if points:
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "fillstyle": "none"}
        label = "masks changed just before"
        axis.plot(*zip(*points, strict=True), markersize=9, color=GREY, label=label, **style)


def _sparsity(axis: Axes, lines: Lines) -> None:
    held = {"drawstyle": "steps-post"}  # masks stay as they are until the next update
    _curve(axis, lines, "sparsity/achieved", "achieved", 100, color=BLUE, linewidth=3, **held)
    _curve(axis, lines, "sparsity/target", "target", 100, color=ORANGE, linestyle="--", **held)
    axis.set_ylim(0, 100)
    _finish(axis, lines, "Sparsity", "pruned, %")


def _density(axis: Axes, densities: Mapping[str, float]) -> None:
    shares = [100 * density for density in densities.values()]
    bars = axis.barh(list(densities), shares, min(0.8, len(shares) / 16), color=BLUE)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=7, color=GREY)
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(visible=False, axis="y")
    axis.invert_yaxis()
    axis.margins(y=0.02)
    axis.set_xlim(0, max(1.0, 1.15 * max(shares)))  # room for the number beside the longest bar
    axis.set_title("Density of each masked tensor", loc="left", fontsize=10)
    axis.set_xlabel("kept, % of its entries")
