"""Pictures of one run by their kind. Of tokens and masks alone torch is imported, when drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.errors import CheckpointError, UsageError
from prunekit.foundation.files import read_json, replacing
from prunekit.foundation.suggestions import did_you_mean
from prunekit.report.figures.layers import density_picture
from prunekit.report.figures.masks import mask_images
from prunekit.report.figures.sensitivity import sensitivity_picture
from prunekit.report.figures.tokens import token_picture
from prunekit.report.read import read_recipe
from prunekit.runs.directory import RunDir, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATIOS = (0.25, 0.5, 0.75)
IMAGES = 6
MOST_MASKS = 6
"""Unasked, the largest are drawn."""
SENSITIVITY_FILE = "sensitivity/sensitivity.json"
"""In a run directory, where `prunekit sensitivity` puts it."""


@dataclass(frozen=True)
class Wanted:
    """What of a run is to be seen."""

    layers: tuple[str, ...] = ()
    """Names of masked tensors, or patterns of them; none = the largest."""
    ratios: tuple[float, ...] = RATIOS
    """Of the compressors in evaluation, beside that of the run."""
    images: int = IMAGES
    """Of the test split."""
    accuracy: bool = False
    """Whether the accuracy at each ratio is measured too, on the whole test split."""
    device: str | None = None
    """Where the model computes; None = on the device of the run."""


def draw_picture(  # noqa: PLR0913 - each is a choice of the caller's
    run_dir: str | Path,
    kind: str,
    *,
    out: str | Path | None = None,
    layers: Sequence[str] = (),
    ratios: Sequence[float] = RATIOS,
    images: int = IMAGES,
    accuracy: bool = False,
    device: str | None = None,
) -> Path:
    """Draw one picture of a run.

    Args:
        run_dir: a run directory, or `runs/<recipe>/latest`.
        kind: `tokens`: test images, each token a field of colour, at several ratios; `masks`: masks
            as images with the density of their rows and columns; `density`: density by layer and
            time, sparsity, flips; `sensitivity`: accuracy against the sparsity of each layer alone.
        out: the PNG file; None = `<kind>.png` in the run directory.
        layers: of `masks`: names of tensors, or patterns; none = the six largest.
        ratios: of `tokens`: of the compressors in evaluation, beside that of the run.
        images: of `tokens`: how many of the test split, 1 or more.
        accuracy: of `tokens`: also measure the accuracy at each ratio, on the whole test split.
        device: of `tokens`: as a recipe's; None = that of the run, where it is here, else `auto`.

    Returns:
        The path of the picture.

    Raises:
        UsageError: another kind, or the run has nothing of it.
        CheckpointError: no such run, or it did not get that far.
        WriteError: the picture cannot be written.
    """
    if kind not in KINDS_OF_PICTURES:
        near = did_you_mean(kind, KINDS_OF_PICTURES)
        raise UsageError(f"no picture {kind!r}.{near} There are: {', '.join(KINDS_OF_PICTURES)}")
    if images < 1:
        raise UsageError(f"images {images}: must be at least 1")
    run = open_run(run_dir)
    wanted = Wanted(tuple(layers), tuple(ratios), images, accuracy, device)
    figure = KINDS_OF_PICTURES[kind](run, wanted)
    path = run.path / f"{kind}.png" if out is None else Path(out)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder: name a file")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    return path


def called(run: RunDir) -> str:
    """What a picture calls a run."""
    return f"{run.path.parent.name} {run.path.name}"


def _tokens(run: RunDir, wanted: Wanted) -> Figure:
    from prunekit.export.evaluating import evaluate_run
    from prunekit.export.token_views import token_views

    ratios = _others(run) if wanted.ratios == RATIOS else wanted.ratios
    columns = token_views(run.path, ratios, wanted.images, wanted.device)
    points: list[Mapping[str, Any]] = []
    if wanted.accuracy:
        found = evaluate_run(run.path, eval_ratios=ratios, device=wanted.device).document()
        points = [one for one in (found, *found["eval_ratios"]) if one["tokens"]]
    return token_picture(called(run), columns, points)


def _others(run: RunDir) -> tuple[float, ...]:
    """The ratios to show unasked: none that would repeat what stands beside as it was trained."""
    trained = {one.get("ratio") for one in read_recipe(run.path).get("compressors") or ()}
    return tuple(ratio for ratio in RATIOS if trained != {ratio})


def _masks(run: RunDir, wanted: Wanted) -> Figure:
    masks = {name: mask.numpy() for name, mask in run.masks().items()}
    masks = {name: masks[name] for name in sorted(masks, key=_numbers_as_such)}
    chosen = sorted(masks, key=lambda name: -masks[name].size)[:MOST_MASKS]
    if wanted.layers:
        for pattern in wanted.layers:
            if not any(fnmatchcase(name, pattern) for name in masks):
                near = did_you_mean(pattern, list(masks))
                known = f" Masked are {', '.join(list(masks)[:3])}, ..." if not near else ""
                raise UsageError(f"{run.path}: no masked tensor {pattern!r}.{near}{known}")
        named = [n for n in masks if any(fnmatchcase(n, pattern) for pattern in wanted.layers)]
        # a vector goes along with the rows of a weight, and has no columns to show
        chosen = [n for n in named if masks[n].ndim > 1] or named
    return mask_images(called(run), {name: masks[name] for name in masks if name in chosen})


def _numbers_as_such(name: str) -> list[tuple[int, str]]:
    """So that block 2 comes before block 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split(".")]


def _density(run: RunDir, wanted: Wanted) -> Figure:
    figure = density_picture(called(run), run.logged())
    if figure is None:
        raise UsageError(f"{run.path}: no mask was decided: there is no density to draw")
    return figure


def _sensitivity(run: RunDir, wanted: Wanted) -> Figure:
    path = run.path / SENSITIVITY_FILE
    if not path.is_file():
        raise UsageError(
            f"{path}: missing: no sensitivity was measured of this run: prunekit sensitivity does"
        )
    try:
        return sensitivity_picture(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: corrupt: {error}") from error


KINDS_OF_PICTURES: dict[str, Callable[[RunDir, Wanted], Figure]] = {
    "tokens": _tokens,
    "masks": _masks,
    "density": _density,
    "sensitivity": _sensitivity,
}
