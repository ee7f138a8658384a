"""From runs to the sentences and tables of a report. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunekit.foundation.units import counted
from prunekit.report.comparison import Difference, accuracy_key, baselines, differences
from prunekit.report.document import Document
from prunekit.report.facts import clean, common
from prunekit.report.notices import notices, warnings
from prunekit.report.study import Study, open_study
from prunekit.report.tables import (
    cell_table,
    difference_table,
    recipe_table,
    warning_table,
)


@dataclass(frozen=True)
class Comparison:
    """A study and what was made of it."""

    study: Study
    key: str
    """The accuracy that is compared."""
    differences: tuple[Difference, ...]


def compare(paths: list[Path], against: tuple[str, ...] = ()) -> Comparison:
    """Read runs or a sweep and compare them.

    Args:
        paths: run directories, folders of them, or one sweep directory.
        against: baselines, each an arm or `axis=label`; none = those that can be recognised.

    Raises:
        CheckpointError: a path holds no run, or nothing can be read.
        UsageError: a baseline is not there.
    """
    study = open_study(paths)
    key = accuracy_key(study)
    return Comparison(study, key, tuple(differences(study, baselines(study, against), key)))


def document_of(found: Comparison) -> Document:
    """The report without its pictures."""
    study = found.study
    tables = [
        cell_table(study, found.key),
        difference_table(study, found.differences) if found.differences else None,
        recipe_table(study),
        warning_table(warnings(study)),
    ]
    return Document(
        title=clean(study.name),
        conditions=conditions(study),
        notices=tuple(notices(study)),
        tables=tuple(table for table in tables if table is not None),
        missing=tuple(clean(line) for line in study.missing),
    )


def conditions(study: Study) -> str:
    """How many runs, and on what."""
    runs = study.runs
    started = common(runs, "device_name")
    versions = ", ".join(
        f"{name} {common(runs, 'versions', name)}" for name in ("prunekit", "torch")
    )
    seeds = sorted({run.seed for run in runs})
    return (
        f"{counted(len(runs), 'finished run')} in {counted(len(study.cells), 'cell')} (arms: "
        f"{len(study.arms)}); seeds: "
        f"{', '.join(map(str, seeds)) or 'none'}; device: {started}; {versions}."
    )
