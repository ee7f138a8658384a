"""A report before it is written: its sentences, tables and pictures. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunekit.foundation.number_text import counted, ranges_text
from prunekit.report.comparison import (
    Baseline,
    Difference,
    accuracy_key,
    chosen_baselines,
    differences,
)
from prunekit.report.notices import notices, published_notices, warnings
from prunekit.report.omissions import absent_numbers, uncompared, unmatched
from prunekit.report.read import clean, common
from prunekit.report.study import Study, open_study
from prunekit.report.tables import (
    Table,
    cell_table,
    difference_table,
    measured_tables,
    recipe_table,
    warning_table,
)
from prunekit.sweep.published import COPY, Published, read_published

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure, and what to say of it."""

    name: str
    """Of its files."""
    title: str
    caption: str
    figure: Figure
    left_out: str = ""
    """What there is and it does not show."""

    @property
    def told(self) -> str:
        """The caption, and what is left out."""
        return f"{self.caption} {self.left_out}".rstrip()


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    conditions: str = ""
    """How many runs, on what."""
    notices: tuple[str, ...] = ()
    """What a reader must know before believing it."""
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()
    """One line for what is not there, not whole, or left out: runs, seeds, numbers, comparisons."""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A study and what was made of it."""

    study: Study
    key: str
    """The accuracy that is compared."""
    differences: tuple[Difference, ...]
    against: tuple[Baseline, ...] = ()
    """What cells are compared with."""
    published: Published | None = None
    """What others published for the arms."""


def compare(
    paths: list[Path], against: tuple[str, ...] = (), reference: Path | None = None
) -> Comparison:
    """Read runs or a sweep and compare them.

    Args:
        paths: run directories, folders of them, or one sweep directory.
        against: baselines, each an arm or `axis=label`; none = those that can be recognised.
        reference: a CSV file of values that others published for the arms; None = that of the
            sweep, if it has one.

    Raises:
        CheckpointError: a path holds no run, or nothing can be read.
        UsageError: a baseline is not there, or the file of published values does not fit.
    """
    study = open_study(paths)
    key = accuracy_key(study)
    chosen = chosen_baselines(study, against)
    file = reference or next((path / COPY for path in paths if (path / COPY).is_file()), None)
    published = read_published(file, list(study.axes)) if file is not None else None
    return Comparison(study, key, tuple(differences(study, chosen, key)), tuple(chosen), published)


def report_of(found: Comparison) -> Report:
    """The report without its pictures."""
    study = found.study
    missing = (
        *study.missing,
        *absent_numbers(study, found.key),
        *uncompared(study, list(found.against), found.key),
        *(unmatched(study, found.published) if found.published else ()),
    )
    tables = [
        cell_table(study, found.key, found.published),
        *measured_tables(study),
        difference_table(study, found.differences) if found.differences else None,
        recipe_table(study),
        warning_table(warnings(study)),
    ]
    return Report(
        title=clean(study.name),
        conditions=conditions(study),
        notices=(*notices(study, len(missing)), *published_notices(study, found.published)),
        tables=tuple(table for table in tables if table is not None),
        missing=tuple(clean(line) for line in missing),
    )


def with_pictures(report: Report, drawn: Sequence[Picture], undrawn: Sequence[str] = ()) -> Report:
    """The report with its pictures, and what they leave out.

    Args:
        report: without them.
        drawn: the pictures.
        undrawn: a line for each that there is not.
    """
    told = [f"picture {one.name}: {one.left_out}" for one in drawn if one.left_out]
    found = report.notices
    if lines := [*told, *undrawn]:
        found = (*found, f"{counted(len(lines), 'line')} below on what the pictures leave out.")
    return replace(
        report,
        pictures=(*report.pictures, *drawn),
        notices=found,
        missing=(*report.missing, *map(clean, lines)),
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
        f"{ranges_text(seeds) or 'none'}; device: {started}; {versions}."
    )
