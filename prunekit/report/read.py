"""What a report reads of one run, whole or not. Torch-free, and no plugin is imported."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from prunekit.errors import CheckpointError, PrunekitError, RecipeError
from prunekit.foundation.files import text_of
from prunekit.foundation.number_text import counted
from prunekit.foundation.parts import is_part
from prunekit.foundation.system import followed
from prunekit.recipe.document import SourcePosition
from prunekit.recipe.yaml_text import read_document
from prunekit.runs.directory import RunDir, open_run
from prunekit.runs.logged import Logged, read_logged

Tree = dict[str, Any]
SEVERAL = "several"
LONGEST = 80
"""A name that is longer is cut."""


@dataclass(frozen=True)
class RunRecord:
    """One run as it is on the disk."""

    path: Path
    recipe: Tree
    """The resolved recipe as plain values."""
    status: str
    """`done`, or where it stands."""
    message: str
    report: Tree
    """Empty where the run did not finish."""
    later: frozenset[str] = frozenset()
    """Dotted keys of the recipe that stand as they did before there were such keys, and that a run
    beside this one has none of: in a comparison they are left out."""

    @property
    def seed(self) -> int:
        """The recipe's."""
        seed = self.recipe.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def finished(self) -> bool:
        """Whether there is something to compare."""
        return bool(self.report)

    @cached_property
    def data(self) -> str:
        """The hash of the samples that were used; empty where it is not known."""
        try:
            return str(RunDir(self.path).manifest().get("data") or "")
        except (CheckpointError, AttributeError):
            return ""

    @cached_property
    def code(self) -> str:
        """Name and first digits of the SHA-256 of the user's own file; empty without one."""
        try:
            told = RunDir(self.path).manifest().get("code")
        except (CheckpointError, AttributeError):
            return ""
        values = [told.get("name"), told.get("sha256")] if isinstance(told, Mapping) else []
        return clean(f"{values[0]} {str(values[1])[:8]}") if values else ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run warned of."""
        found = self.report.get("warnings")
        return tuple(clean(text) for text in found) if isinstance(found, list) else ()

    def number(self, *keys: str) -> float | None:
        """A number of the report; None where there is none, or it is not finite."""
        value: Any = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and math.isfinite(value) else None

    @cached_property
    def log(self) -> Logged:
        """What was logged; nothing where it cannot be read."""
        return self._log[0]

    @property
    def log_fault(self) -> str:
        """What of `metrics.jsonl` cannot be read, if anything."""
        return self._log[1]

    @cached_property
    def _log(self) -> tuple[Logged, str]:
        path = self.path / "metrics.jsonl"
        try:
            log = read_logged(path)
        except OSError as error:
            return Logged(), f"{path}: {error.strerror}: no curve of this run"
        return log, f"{path}: {counted(log.lost, 'line')} cannot be read" if log.lost else ""

    def not_finite(self, key: str) -> int:
        """How many logged values of a scalar were not finite."""
        return self.log.not_finite(key)

    def series(self, key: str) -> list[tuple[int, float]]:
        """(optimizer step, value) of a logged scalar, in order; what was not finite is left out."""
        return self.log.series(key)


def read_record(run: RunDir) -> RunRecord:
    """Read a run directory.

    Raises:
        CheckpointError: its recipe, status or report is there and corrupt.
    """
    status = _document(run, "status.json")
    report = _document(run, "report.json")
    if report and (exported := run.exported()):
        report = {**report, "export": exported}
    done = "done" if report else "not started"
    return RunRecord(
        path=run.path,
        recipe=read_recipe(run.path),
        status=clean(str(status.get("status", done))),
        message=clean(str(status.get("message") or "")),
        report=report,
        later=keys_as_before(run.path),
    )


def side_by_side(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs to be compared: a later key counts where all of them have it."""
    marked = frozenset().union(*(run.later for run in runs))
    lacked = {key for key in marked if not all(_has(run.recipe, key) for run in runs)}
    return [replace(run, later=run.later & lacked) for run in runs]


def _has(tree: Any, key: str) -> bool:
    """Whether there is a value at a dotted key; a part of it may itself hold dots."""
    if not key:
        return True
    if isinstance(tree, list):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, dict):
        return False
    return any(
        _has(item, key.removeprefix(name).removeprefix("."))
        for name, item in tree.items()
        if key == name or key.startswith(f"{name}.")
    )


@cache
def read_recipe(run_dir: Path) -> Tree:
    """The resolved recipe of a run as plain values, whatever version or plugin wrote it.

    Raises:
        CheckpointError: it cannot be read as a mapping.
    """
    path = run_dir / "resolved.yaml"
    try:
        text = text_of(path)
        document = read_document(
            text, lambda line, column: SourcePosition((line, column), f"{path}:{line}")
        )
    except (OSError, ValueError, RecipeError) as error:
        raise CheckpointError(f"{path}: corrupt: {error}") from error
    if not isinstance(document.root, dict):
        raise CheckpointError(f"{path}: corrupt: not a recipe")
    return document.root


@cache
def keys_as_before(run_dir: Path) -> frozenset[str]:
    """The dotted keys that stand as they did before there were such keys, as the manifest says.

    A run of an earlier version has none of them: what compares two runs leaves them out.
    """
    try:
        keys = RunDir(run_dir).manifest().get("as_before", [])
    except CheckpointError:  # a run without a manifest has its recipe all the same
        return frozenset()
    return frozenset(filter(_is_text, keys)) if isinstance(keys, list) else frozenset()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _document(run: RunDir, name: str) -> Tree:
    if not (run.path / name).is_file():
        return {}
    return run.status() if name == "status.json" else run.ragged_report()


def clean(text: str) -> str:
    """Untrusted text on one line, without control characters and not too long."""
    line = " ".join(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]", " ", text).split())
    printable = "".join(char if char.isprintable() else "?" for char in line)
    return printable if len(printable) <= LONGEST * 4 else printable[: LONGEST * 4 - 1] + "…"


def common(runs: Sequence[RunRecord], *keys: str) -> str:
    """A value of the reports' environments, or `SEVERAL`."""
    values = set()
    for run in runs:
        value: Any = run.report.get("environment", {})
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.add("unknown" if value is None else str(value))
    return clean(values.pop()) if len(values) == 1 else SEVERAL if values else "unknown"


MARK = "resolved.yaml"
PARTS = frozenset({"manifest.json", "metrics.jsonl", "report.json", "status.json"})
"""What only a run writes: without `MARK` beside it, it is none that can be compared."""


@dataclass(frozen=True)
class FoundRuns:
    """The runs below some paths."""

    runs: tuple[RunRecord, ...]
    unreadable: tuple[str, ...]
    """One line for each that is corrupt, and for each folder that cannot be looked into."""


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """Read every run directory among `paths` and below them, each once.

    Raises:
        CheckpointError: a path has no run at or below it, or none of the runs can be read.
    """
    folders: dict[Path, None] = {}
    unreadable: list[str] = []
    for path in paths:
        below = list(_run_dirs(followed(path), unreadable))
        if not below:
            what = "no run directory in it" if path.is_dir() else "no such folder"
            raise CheckpointError(
                f"{path}: {what}: give run directories, a folder of them such as `runs`, or the "
                "directory of a sweep"
            )
        folders.update(dict.fromkeys(below))
    runs = []
    for folder in folders:
        try:
            runs.append(read_record(open_run(folder)))
        except PrunekitError as error:
            unreadable.append(clean(str(error)))
    if not runs:
        raise CheckpointError(f"{paths[0]}: no run that can be read: {unreadable[0]}")
    return FoundRuns(tuple(side_by_side(runs)), tuple(unreadable))


def _run_dirs(path: Path, unreadable: list[str]) -> Iterator[Path]:
    """Run directories at or below `path`, in the order of their names; no link is followed.

    What a killed process left of one that it began to make is none.

    What looks like one and is none, or cannot be looked into, is noted in `unreadable`.
    """
    if (path / MARK).is_file():
        yield path.resolve()
        return

    def closed(error: OSError) -> None:
        unreadable.append(clean(f"{error.filename}: {error.strerror}: runs in it are left out"))

    for folder, below, files in os.walk(path, onerror=closed):
        below[:] = sorted(name for name in below if not is_part(name))
        if MARK in files:
            below.clear()
            yield Path(folder).resolve()
        elif found := PARTS.intersection(files):
            below.clear()
            unreadable.append(clean(f"{folder}: has {min(found)} but no {MARK}: left out"))
