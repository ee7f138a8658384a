"""Output for machines, and the end of output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import click


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, with the version of its layout."""
    click.echo(json.dumps({"schema_version": 1, **document}, indent=2, allow_nan=False))


def quiet_stdout() -> None:
    """Send what is left to nowhere, so that closing stdout at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
