"""One PNG of a run: loss, accuracy, sparsity, flips and the density of each layer over the steps.

Of a run with compressors also a few test images, and the tokens that are left of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.errors import CheckpointError
from prunekit.foundation.files import replacing
from prunekit.foundation.number_text import percent, si
from prunekit.report.evaluations import ACCURACIES, dips
from prunekit.report.figures.layers import flips_panel, heat_map, sparsity_panel
from prunekit.report.figures.style import new_figure, steps_axis
from prunekit.report.read import clean, read_recipe
from prunekit.runs.density_history import DENSITY, DensityHistory, density_history
from prunekit.runs.directory import RunDir, open_run
from prunekit.runs.logged import Logged
from prunekit.runs.merged_patches import MERGED_FILE, read_patch_groups, side_by_side_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = Callable[["Axes", Logged], None]

BLUE, ORANGE, GREEN, GREY = "#0b64a0", "#d1661c", "#2a7f4f", "#8a8a8a"
TITLE_WIDTH = 120
CROSS_ENTROPY = "cross_entropy"
STRIP = 2.6
"""Inches of the images."""
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
    run = open_run(run_dir)
    log = run.logged()
    report = run.report() if (run.path / "report.json").is_file() else {}
    densities = _densities(report, log)
    history = density_history(log)
    panels: dict[str, Panel] = {"loss": partial(_loss, _minimised(run)), "accuracy": _accuracy}
    size = [10.5, 4.3]
    layout: Any = [["loss", "accuracy"]]
    if densities:
        panels |= {"sparsity": sparsity_panel, "flips": flips_panel}
        layout = [[name, "density"] for name in panels]
        size = [12.0, max(10.4, 0.17 * len(densities) + 1.6)]
    merged = _merged(run)
    heights = [size[1] / len(layout)] * len(layout)
    if merged is not None:
        panels["merged"] = partial(_strip, merged)
        layout.append(["merged", "merged"])
        heights.append(STRIP)
        size[1] += STRIP
    figure = new_figure(*size)
    figure.suptitle(_title(run, report), fontsize=10, x=0.01, ha="left")
    axes = figure.subplot_mosaic(layout, width_ratios=[1, 1], height_ratios=heights)
    if history is not None and len(history.steps) > 1:
        panels["density"] = partial(_map, history)
    else:
        panels["density"] = partial(_density, densities)
    for name, axis in axes.items():
        if name not in ("density", "merged"):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="#e6e6e6", linewidth=0.8)
            axis.set_axisbelow(True)
        panels[name](axis, log)
    path = run.path / "report.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


def _merged(run: RunDir) -> np.ndarray | None:
    """Test images above what the compressors leave of them; a file that is damaged is passed by."""
    try:
        return side_by_side_image(read_patch_groups(run.path / MERGED_FILE))
    except CheckpointError:
        return None


def _strip(pixels: np.ndarray, axis: Axes, log: Logged) -> None:
    axis.imshow(pixels, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(
        "Test images, and the tokens that are left: each one field of colour",
        loc="left",
        fontsize=10,
    )


def _map(history: DensityHistory, axis: Axes, log: Logged) -> None:
    heat_map(axis, history, log.last)


def _densities(report: Mapping[str, Any], log: Logged) -> dict[str, float]:
    """Kept share of each masked tensor, at the end or as logged last."""
    if report:
        return {layer["name"]: layer["density"] for layer in report.get("layers", ())}
    rows = {tag: log.series(tag) for tag in log.keys if tag.startswith(DENSITY)}
    return {tag.removeprefix(DENSITY): row[-1][1] for tag, row in rows.items() if row}


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
        dense, executed = si(macs["dense"]).strip(), si(macs["executed"]).strip()
        saved = f"{dense} → {executed}" if executed != dense else f"all {dense}"
        facts.append(f"{saved} multiply-adds executed")
    return "\n".join([name, *textwrap.wrap("  ·  ".join(facts) or "not finished", TITLE_WIDTH)])


def _curve(axis: Axes, log: Logged, tag: str, label: str, scale: float = 1, **style: Any) -> None:
    """One tag over the steps; nothing where it was never logged."""
    if lost := log.not_finite(tag):
        label += f" ({lost} not finite)"
    steps, values = log.columns(tag)
    if len(steps):
        marker = "o" if len(steps) <= MARKED else None
        axis.plot(steps, scale * values, label=label, marker=marker, markersize=3, **style)


def _finish(axis: Axes, log: Logged, title: str, unit: str) -> None:
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(unit)
    steps_axis(axis, log.last)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, framealpha=0.8, edgecolor="none")  # it may lie on a curve


def _minimised(run: RunDir) -> str:
    """The loss of the run, where it is not the cross-entropy that evaluation tells; else empty."""
    try:
        loss = read_recipe(run.path).get("loss")
    except CheckpointError:  # the curves can be drawn
        return ""
    name = loss.get("name") if isinstance(loss, Mapping) else loss
    return "" if name in (None, CROSS_ENTROPY) else clean(str(name))


def _loss(minimised: str, axis: Axes, log: Logged) -> None:
    unit = "cross-entropy, nats"
    trained, told = (f": {minimised}", f": {unit}") if minimised else ("", "")
    _curve(axis, log, "train/loss", f"training{trained}", color=BLUE, linewidth=1)
    _curve(axis, log, "eval/validation_loss", f"validation{told}", color=GREEN)
    _curve(axis, log, "eval/test_loss", f"test{told}", color=ORANGE)
    _finish(axis, log, "Loss", "loss" if minimised else unit)


def _accuracy(axis: Axes, log: Logged) -> None:
    _curve(axis, log, "train/accuracy", "training batch", 100, color=BLUE, linewidth=1)
    _curve(axis, log, "eval/validation_top1", "validation", 100, color=GREEN)
    _curve(axis, log, "eval/test_top1", "test", 100, color=ORANGE)
    _ring_dips(axis, log)
    _finish(axis, log, "Accuracy", "top-1, %")


def _ring_dips(axis: Axes, log: Logged) -> None:
    """A ring around what looks like a collapse, and is an evaluation on masks just changed."""
    found = set(dips(log))
    points = [(s, 100 * v) for key in ACCURACIES for s, v in log.series(key) if s in found]
    if points:
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "fillstyle": "none"}
        label = "masks changed just before"
        axis.plot(*zip(*points, strict=True), markersize=9, color=GREY, label=label, **style)


def _density(densities: Mapping[str, float], axis: Axes, log: Logged) -> None:
    """Where masks were decided once: bars, as there is no course to show."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(color="#e6e6e6", linewidth=0.8, axis="x")
    shares = [100 * density for density in densities.values()]
    bars = axis.barh(list(densities), shares, min(0.8, len(shares) / 16), color=BLUE)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=7, color=GREY)
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    axis.margins(y=0.02)
    axis.set_xlim(0, max(1.0, 1.15 * max(shares)))  # room for the number beside the longest bar
    axis.set_title("Density of each masked tensor", loc="left", fontsize=10)
    axis.set_xlabel("kept, % of its entries")
