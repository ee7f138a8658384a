"""An evaluation on the disk, and the pictures of merged patches; from plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunekit.foundation.files import replacing, write_json
from prunekit.foundation.whole_folder import all_or_nothing
from prunekit.report.figures.evaluation import (
    calibration_picture,
    confusion_picture,
    ratio_picture,
)
from prunekit.report.figures.merged import merged_picture
from prunekit.report.figures.style import save

if TYPE_CHECKING:
    import numpy as np

EVALUATION_FILE = "evaluation.json"
PICTURES = ("confusion", "calibration", "eval_ratios")
MOST_CLASSES = 1000
"""With more a confusion matrix has more cells than a picture has pixels."""


def write_evaluation(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `evaluation.json` and its pictures, PNG and SVG: all of them or none.

    Args:
        document: what `ModelEvaluation.document` gives.
        folder: is made; what is there of an earlier evaluation is replaced.

    Returns:
        The files.

    Raises:
        UsageError: `folder` is a file.
        WriteError: it cannot be written.
    """
    names, again = [EVALUATION_FILE], (folder / EVALUATION_FILE).is_file()
    with all_or_nothing(folder) as temporary:
        write_json(temporary / EVALUATION_FILE, {"schema_version": 1, **document})
        if len(document["classes"]) <= MOST_CLASSES:
            names += _drawn(temporary, "confusion", confusion_picture(document))
        names += _drawn(temporary, "calibration", calibration_picture(document))
        if document["eval_ratios"]:
            names += _drawn(temporary, "eval_ratios", ratio_picture(document))
    if again:  # a picture of the earlier evaluation would stand for this one
        for name in PICTURES:
            for path in (folder / f"{name}.png", folder / f"{name}.svg"):
                if path.name not in names:
                    path.unlink(missing_ok=True)
    return [folder / name for name in names]


def _drawn(folder: Path, name: str, figure: Any) -> list[str]:
    return [path.name for path in save(figure, folder, name)]


def write_merged(images: Sequence[tuple[str, np.ndarray, np.ndarray]], folder: Path) -> list[Path]:
    """Write a PNG for each image that shows which of its patches became one token: all or none.

    Args:
        images: path of the image, its pixels uint8 [H, W, C], the group of each patch
            [rows, columns], -1 = dropped.
        folder: is made; files of the same names are replaced.

    Returns:
        The pictures, in the order of the images.

    Raises:
        UsageError: `folder` is a file.
        WriteError: it cannot be written.
    """
    names = list(_names(Path(image).stem for image, _, _ in images))
    with all_or_nothing(folder) as temporary:
        for name, (image, pixels, groups) in zip(names, images, strict=True):
            figure = merged_picture(Path(image).name, pixels, groups)
            with replacing(temporary / name) as path:
                figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
    return [folder / name for name in names]


def _names(stems: Iterator[str]) -> Iterator[str]:
    """A file name for each; images of one name in several folders are numbered."""
    taken: set[str] = set()
    for stem in stems:
        name, number = f"{stem}.png", 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}.png"
        taken.add(name)
        yield name
