"""A report before it is written: its sentences, tables and pictures. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunekit.report.tables import Table

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


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    conditions: str = ""
    """How many runs, on what."""
    notices: tuple[str, ...] = ()
    """What a reader must know before believing it."""
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()
    """One line for each run that is not there or not whole."""
    pictures: tuple[Picture, ...] = ()
