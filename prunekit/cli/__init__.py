"""The `prunekit` command. One file a command; imports neither torch nor numpy."""

from prunekit.cli.app import cli, main

__all__ = ["cli", "main"]
