"""`prunekit report`: many runs beside each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import ExampleCommand, json_option, print_json
from prunekit.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from prunekit.report.document import Comparison, Report
    from prunekit.report.study import Study

EXAMPLES = """
prunekit report runs                               every run below a folder
prunekit report runs/a/latest runs/b/latest        two of them
prunekit report sweeps/mine --out report           and report/index.html
prunekit report a/mine b/mine                      one sweep, of two machines
prunekit report sweeps/mine --baseline ratio=0     other baselines
prunekit report runs --curve train/loss --out report
prunekit report --masks runs/a/latest runs/b/latest
"""


@click.command(
    "report",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("runs", nargs=-1, metavar="RUNS_OR_SWEEP...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for index.html, report.md, CSV files, and pictures as PNG and SVG.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="ARM|AXIS=LABEL",
    help="What cells are compared with; else dense and random arms, and an axis at 0.",
)
@click.option(
    "--curve", "curves", multiple=True, metavar="KEY", help="A scalar of metrics.jsonl to draw."
)
@click.option(
    "--against", metavar="KEY", help="Draw curves against this scalar, such as train/loss."
)
@click.option("--grid", nargs=2, metavar="ROWS COLUMNS", help="The two axes of the heat maps.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="CSV",
    help="Published values. With a column `arm`, beside the arms; else beside the heat maps: "
    "columns called like the axes, values last.",
)
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Which rows of the reference count."
)
@click.option(
    "--masks",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="RUN_A RUN_B",
    help="Compare the masks of two runs.",
)
@json_option
def command(
    runs: tuple[Path, ...],
    out: Path | None,
    baselines: tuple[str, ...],
    curves: tuple[str, ...],
    against: str | None,
    grid: tuple[str, str] | None,
    reference: Path | None,
    where: tuple[str, ...],
    masks: tuple[Path, Path] | None,
    as_json: bool,
) -> None:
    """Compare runs, folders of runs, or a sweep; runs that differ in the seed alone are one.

    Several directories of one sweep, as its shards on other machines made them, are one sweep.
    Where no run has finished, what there is is written all the same, and the exit code is 5.
    """
    from prunekit.report.document import Report, compare, report_of, with_pictures
    from prunekit.report.figures.all import WantedPictures, pictures, plan_drawings, undrawn
    from prunekit.sweep.published import is_published

    if not runs and masks is None:
        raise UsageError("give run directories, a folder of runs or a sweep; or --masks A B")
    of_arms = reference if reference is not None and is_published(reference) else None
    if of_arms is not None:
        reference = None
    found = compare(list(runs), baselines, of_arms) if runs else None
    report = report_of(found) if found else Report("Masks of two runs")
    if found is not None:
        wanted = WantedPictures(curves, against, grid, reference, _pairs(where))
        drawings = plan_drawings(found.study, wanted)
        if out is not None:
            drawn = tuple(pictures(found, drawings, against))
            report = with_pictures(report, drawn, undrawn(found.study, drawings, against))
    if masks is not None:
        report = _with_masks(report, masks, draw=out is not None)
    files = _write(report, found, out) if out is not None else []
    if as_json:
        print_json(_plain(report, found, files))
    else:
        _show(report, files)
    if found is not None and not found.study.runs:
        raise CheckpointError(_none_finished(found.study))


def _none_finished(study: Study) -> str:
    """Why there is no number in the whole report."""
    if not study.missing:
        return "no run has finished: there is nothing to compare yet"
    more = f", and {len(study.missing) - 1} more in the list" if study.missing[1:] else ""
    return f"no run has finished: {study.missing[0]}{more}"


def _pairs(where: tuple[str, ...]) -> dict[str, str]:
    for text in where:
        if "=" not in text:
            raise UsageError(f"--where {text}: write COLUMN=VALUE")
    return dict(text.split("=", 1) for text in where)


def _with_masks(report: Report, runs: tuple[Path, Path], draw: bool) -> Report:
    from prunekit.report.document import Picture
    from prunekit.report.mask_overlap import (
        compare_masks,
        in_one_alone,
        mask_picture,
        mask_table,
    )

    found = compare_masks(*runs)
    table = mask_table(found, *runs)
    drawn = [Picture("masks", "Masks of two runs", table.note, mask_picture(found))] if draw else []
    return replace(
        report,
        tables=(*report.tables, table),
        missing=(*report.missing, *in_one_alone(*runs)),
        pictures=(*report.pictures, *drawn),
    )


def _write(report: Report, found: Comparison | None, out: Path) -> list[Path]:
    from prunekit.foundation.whole_folder import all_or_nothing
    from prunekit.report.write import write_numbers, write_report

    with all_or_nothing(out) as folder:
        files = write_report(report, folder)
        files += write_numbers(found, folder) if found else []
    return [out / file.name for file in files]


def _plain(report: Report, found: Comparison | None, files: list[Path]) -> dict[str, object]:
    from prunekit.report.notices import warnings
    from prunekit.report.spreadsheet import cell_rows, difference_rows, run_rows

    numbers: dict[str, object] = {}
    if found is not None:
        study = found.study
        numbers = {
            "axes": {axis: list(labels) for axis, labels in study.axes.items()},
            "arms": list(study.arms),
            "runs": run_rows(study),
            "cells": cell_rows(study, found.key, found.published),
            "differences": difference_rows(study, found.differences),
            "warnings": dict(warnings(study)),
        }
    tables = {t.title: [list(t.columns), *map(list, t.rows)] for t in report.tables}
    return {
        **numbers,
        "notices": list(report.notices),
        "missing": list(report.missing),
        "tables": tables,
        "files": [str(path) for path in files],
    }


def _show(report: Report, files: list[Path]) -> None:
    from prunekit.foundation.console import console
    from prunekit.report.terminal import print_report

    print_report(report, files, console())
