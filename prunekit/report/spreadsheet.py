"""The numbers behind a report as CSV files and as one JSON document. Torch-free."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunekit.foundation.files import replacing
from prunekit.foundation.text import printable
from prunekit.report.columns import KEYS
from prunekit.report.comparison import Difference, accuracies
from prunekit.report.statistics import summary
from prunekit.report.study import Cell, Study
from prunekit.sweep.published import Published

CsvRow = Mapping[str, Any]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take text for a formula."""


def run_rows(study: Study) -> list[CsvRow]:
    """One row a finished run and place that it serves."""
    return [
        {
            **_arm_and_labels(study, cell),
            "seed": seed,
            **{name: run.number(*keys) for name, keys in KEYS.items()},
            "warnings": len(run.warnings),
            "path": str(run.path),
        }
        for cell in study.cells
        for seed, run in cell.runs.items()
    ]


def cell_rows(study: Study, key: str, published: Published | None = None) -> list[CsvRow]:
    """One row a cell: mean and deviation of the accuracy in percent, means of the rest.

    With `published` what others published for it, and where.
    """
    rows: list[CsvRow] = []
    for cell in study.cells:
        found = summary(list(accuracies(cell, key).values()))
        means = {
            name: summary(list(cell.values(*keys).values()))
            for name, keys in KEYS.items()
            if keys[0] != "accuracy"
        }
        rows.append(
            {
                **_arm_and_labels(study, cell),
                "seeds": len(cell.runs),
                "seeds_with_accuracy": found.count if found else 0,
                "accuracy_percent": found.mean if found else None,
                "deviation": found.deviation if found else None,
                **(_published(cell, published) if published else {}),
                **{name: one.mean if one else None for name, one in means.items()},
            }
        )
    return rows


def _published(cell: Cell, published: Published) -> dict[str, Any]:
    value = published.at(cell.arm, cell.labels)
    return {
        "published_percent": float(value.accuracy) if value else None,
        "published_deviation": float(value.deviation) if value and value.deviation else None,
        "published_source": value.source if value else None,
    }


def difference_rows(study: Study, found: Iterable[Difference]) -> list[CsvRow]:
    """One row a cell and baseline, in points."""
    rows: list[CsvRow] = []
    for one in found:
        result = one.result
        low, high = result.interval if result and result.interval else (None, None)
        rows.append(
            {
                **_arm_and_labels(study, one.cell),
                "against": one.baseline.name,
                "pairs": result.count if result else 0,
                "seeds": len(one.cell.runs),
                "difference": result.mean if result else None,
                "deviation": result.deviation if result else None,
                "low": low,
                "high": high,
                "sign_test_p": result.sign_p if result else None,
                "detectable": result.detectable if result else None,
                "seeds_for_half_a_point": result.seeds_for_target if result else None,
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[CsvRow], columns: Sequence[str] = ()) -> Path:
    """Write rows, or the header alone where there are none.

    Raises:
        ResourceError: it cannot be written.
    """
    header = list(rows[0]) if rows else list(columns)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_plain(name) for name in header])
        writer.writerows([_plain(row[name]) for name in header] for row in rows)
    return path


def _arm_and_labels(study: Study, cell: Cell) -> dict[str, Any]:
    """The arm and its labels; an axis that is called like another column is set apart."""
    taken = {"arm", "seed", "seeds", "path", "against", *KEYS}
    return {
        "arm": cell.arm,
        **{f"axis {axis}" if axis in taken else axis: cell.labels.get(axis) for axis in study.axes},
    }


def _plain(value: Any) -> Any:
    """Text that no spreadsheet runs and no terminal obeys."""
    if not isinstance(value, str):
        return value
    if value.startswith(FORMULA):
        try:
            float(value)
        except ValueError:
            value = "'" + value
    return printable(value)
