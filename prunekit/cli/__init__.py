"""The `prunekit` command; one file a command, and neither torch nor numpy until one needs them.

Knows every room; nothing imports it.
"""

from prunekit.cli.app import cli, main

__all__ = ["cli", "main"]
