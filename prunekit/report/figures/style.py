"""How pictures look: colours for colour-blind eyes, dark on light, names that are only text."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.files import replacing
from prunekit.foundation.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#a06a00", "#5e3c99", "#222222")
"""Okabe and Ito's colours, with yellow made dark enough for thin lines, and two more."""
BLACK, ON_COLOUR = "#000000", "#010101"
"""Of axes; of numbers on coloured cells, which do not turn with the page."""
DARK = {
    "#ffffff": "#14181d",
    BLACK: "#e6e9ed",
    "#222222": "#c9cfd6",
    "#e6e6e6": "#343c46",
    "#d0d0d0": "#4b5560",
    "#d8d8d8": "#39424c",
    "#8a8a8a": "#98a2ad",
    "#0072b2": "#4aa8e0",
    "#5e3c99": "#b39ddb",
    "#a06a00": "#d9a441",
}
"""Colour -> what stands for it on a dark page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
LONGEST = 44
GAP = 0.055
"""Between names at the ends of lines, in heights of the panel."""
TICKS = (0, 20, 40, 50, 60, 70, 80, 85, 90, 95, 97, 98, 98.5, 99, 99.5, 99.8, 99.9)
FINEST = 0.02
"""Percent below 100 that are not told apart."""
STEPS_ROOM = 1.02
"""So that the last point is seen whole."""
WIDE = 4
"""A range of more than this ratio is drawn on a logarithmic axis."""


def new_figure(width: float, height: float) -> Figure:
    """A figure without a window; inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each name; all three change, so that no two are alike."""
    looks = {}
    for i, (name, color, marker) in enumerate(
        zip(names, cycle(PALETTE), cycle(MARKERS), strict=False)
    ):
        line = LINES[i // len(PALETTE) % len(LINES)]
        looks[name] = {"color": color, "marker": marker, "linestyle": line}
    return looks


def dress(axis: Axes, x: str, y: str, title: str = "") -> None:
    """Labels with units, and a frame that stays in the background."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel(literal(x))
    axis.set_ylabel(literal(y))
    if title:
        axis.set_title(literal(title), loc="left", fontsize=10)


def spread_top(axis: XAxis | YAxis, values: Sequence[float]) -> None:
    """Spread percentages near 100 apart, as a logarithm of what is missing to 100 does.

    Left linear where the rest to 100 differs little.
    """
    import numpy as np
    from matplotlib.ticker import NullLocator

    rests = [max(100 - value, FINEST) for value in values]
    if not rests or max(rests) < WIDE * min(rests):
        return

    def rest(percent: Any) -> Any:
        return -np.log10(np.maximum(100 - np.asarray(percent, dtype=float), FINEST))

    def back(position: Any) -> Any:
        return 100 - 10 ** -np.asarray(position, dtype=float)

    low, high = rest(min(values)), rest(max(values))
    room = 0.05 * (high - low)
    ticks = [tick for tick in TICKS if low - room <= rest(tick) <= high + room]
    if len(ticks) < 2:
        return
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)(
        "function", functions=(rest, back)
    )
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
    limits = sorted((back(low - room), back(high + room)))
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(*limits)


def steps_axis(axis: Axes, last: int) -> None:
    """Steps along the bottom: whole, from 0 to the last of the run, whatever was logged of it."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0, STEPS_ROOM * max(1, last))
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=(1, 2, 2.5, 5, 10), integer=True))


def thousands(axis: XAxis | YAxis) -> None:
    """Write large numbers as `200 k` and `1.5 G`."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_major_formatter(EngFormatter())
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())


def plain_ticks(axis: XAxis | YAxis) -> None:
    """Write the numbers of a logarithmic axis as `0.5` and `20`, without powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(
    figure: Figure,
    looks: Mapping[str, Mapping[str, Any]],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """One legend for all panels, under them."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **look, markersize=5, label=literal(n)) for n, look in looks.items()]
    handles += [Line2D([], [], **look, label=label) for label, look in (extra or {}).items()]
    longest = max(len(name) for name in looks)
    across = max(1, int(figure.get_figwidth() * 13 / (min(longest, LONGEST) + 8)))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(across, len(handles)),
        frameon=False,
        fontsize=8.5,
    )


def literal(text: str) -> str:
    """Text that matplotlib draws as it is, whatever signs of formulas are in it."""
    cut = text if len(text) <= LONGEST * 2 else text[: LONGEST * 2 - 1] + "…"
    cut = f" {cut}" if cut.startswith("_") else cut  # a legend would leave it out
    return cut.replace("$", r"\$")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`.

    Raises:
        ResourceError: they cannot be written.
    """
    from matplotlib import rc_context

    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "prunekit"}):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that no font has
        for path in paths:
            quiet = {"Date": None, "Creator": None, "Format": None, "Type": None}
            metadata = quiet if path.suffix == ".svg" else {"Software": None}
            with replacing(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=130, metadata=metadata)
                if path.suffix == ".svg":
                    text = temporary.read_text(encoding="utf-8")
                    temporary.write_text(printable(on_dark_too(text)), encoding="utf-8")
    return paths


def on_dark_too(svg: str) -> str:
    """A picture that is dark where the page around it is: paper, ink and pale lines change places.

    Data keeps its hues; what is too dark to be seen there is lighter. Text on a colour has an ink
    of its own (`ON_COLOUR`) and stays.
    """
    rules = [f"svg {{ fill: {DARK[BLACK]} }}"]
    for light, dark in DARK.items():
        for part in ("fill", "stroke"):
            rules.append(f'[style*="{part}: {light}"] {{ {part}: {dark} !important }}')
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
    head, mark, rest = svg.partition("<defs>")
    return f"{head}{style}{mark}{rest}"


@dataclass(frozen=True)
class End:
    """The right end of a line, in data coordinates."""

    name: str
    x: float
    y: float
    color: str


def label_ends(axis: Axes, ends: Sequence[End], size: float = 8.5) -> None:
    """Write the name of each line beside its end, pushed apart where names would overlap.

    The scale of `axis` must be set.
    """
    inside = axis.transAxes.inverted()
    heights = {
        end: float(inside.transform(axis.transData.transform((end.x, end.y)))[1]) for end in ends
    }
    in_order = sorted(heights, key=heights.__getitem__)
    places = apart([heights[end] for end in in_order], GAP * size / 8.5)
    for end, height in zip(in_order, places, strict=True):
        axis.annotate(
            literal(end.name),
            (1.01, height),
            xycoords="axes fraction",
            va="center",
            fontsize=size,
            color=end.color,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move rising heights so that each is `gap` above the last, and none above 1.

    They move up first, then down from 1; where they do not fit in [0, 1], below 0.
    """
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + gap) if places else height)
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places
