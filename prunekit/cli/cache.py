"""`prunekit cache`: what is kept on the disk for the next run."""

from __future__ import annotations

import time
from pathlib import Path

import click

from prunekit.cli.common import ExampleCommand, ExampleGroup, json_option, print_json, say

EXAMPLES = """
prunekit cache list
prunekit cache clear --older-than 30
"""
LIST_EXAMPLES = """
prunekit cache list
prunekit cache list --json
"""
CLEAR_EXAMPLES = """
prunekit cache clear
prunekit cache clear --older-than 30
"""
DAY = 86_400.0


@click.group("cache", cls=ExampleGroup, examples=EXAMPLES)
def command() -> None:
    """See and delete what is kept for the next run: decoded images, lists, statistics.

    All of it is made again where it is missing. It lies in $PRUNEKIT_CACHE, or in prunekit under
    $XDG_CACHE_HOME or ~/.cache, and takes 50 GB at most, or $PRUNEKIT_CACHE_LIMIT (GB): what was
    used least recently goes first.
    """


def _folder() -> Path:
    from prunekit.errors import UsageError
    from prunekit.foundation.cache_files import cache_folder

    try:
        return cache_folder()
    except RuntimeError as error:
        raise UsageError(f"{error}: set PRUNEKIT_CACHE to a folder") from error


@command.command("list", cls=ExampleCommand, examples=LIST_EXAMPLES)
@json_option
def list_command(as_json: bool) -> None:
    """Tell what is there, that was used last first."""
    from prunekit.foundation.cache_files import cache_files, cache_limit
    from prunekit.foundation.number_text import counted, size_text

    folder, limit = _folder(), cache_limit()
    files = [file for file in cache_files(folder) if file.kind != "lock"]
    total = sum(file.size for file in files)
    if as_json:
        told = [
            {"file": file.path.name, "kind": file.kind, "bytes": file.size, "used": int(file.used)}
            for file in files
        ]
        print_json({"folder": str(folder), "bytes": total, "limit": limit, "files": told})
        return
    for file in files:
        days = max(0.0, time.time() - file.used) / DAY
        age = "today" if days < 1 else f"{days:.0f} days ago"
        say(f"{size_text(file.size):>10}  {age:>14}  {file.kind}  {file.path.name}")
    held = f"{counted(len(files), 'file')}, {size_text(total)}"
    say(f"{held} of at most {size_text(limit)}, in {folder}")


@command.command("clear", cls=ExampleCommand, examples=CLEAR_EXAMPLES)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    default=0.0,
    help="Only what was not used for so many days.",
)
def clear_command(older_than: float) -> None:
    """Delete it; runs at work go on with what they have open."""
    from prunekit.foundation.cache_files import cache_files, clear
    from prunekit.foundation.number_text import counted, size_text

    before = time.time() - older_than * DAY
    files = [file for file in cache_files(_folder()) if file.used <= before]
    say(f"{counted(len(files), 'file')} deleted, {size_text(clear(files))}")
