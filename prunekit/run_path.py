"""The path of another run in a recipe. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field


def pinned(path: str) -> str:
    """`runs/<recipe>/latest` -> the run that it points to now; any other path as it is.

    A run that is read later, or resumed, must not follow a link that has moved on.
    """
    link = Path(path)
    return str(link.parent / os.readlink(link)) if link.is_symlink() else path


RunPath = Annotated[str, Field(min_length=1), AfterValidator(pinned)]
"""A run directory, or `runs/<recipe>/latest`, which stands for what it points to at reading."""
