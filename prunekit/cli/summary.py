"""What a person sees when a run is done."""

from __future__ import annotations

from pathlib import Path

from prunekit.errors import PrunekitError
from prunekit.foundation.console import console, is_main_rank


def print_summary(run_dir: Path) -> None:
    """Draw the picture of a finished run; print its table and its paths."""
    from prunekit.report import picture, summarise

    if not is_main_rank():
        return
    run_dir = short(run_dir)
    screen = console()
    try:
        picture(run_dir)
    except (PrunekitError, OSError) as error:  # the run is done all the same
        screen.print(f"no picture: {error}")
    for part in summarise(run_dir):
        screen.print()
        screen.print(part)


def short(path: Path) -> Path:
    """As a person would write it: from the working directory, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
