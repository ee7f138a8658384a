"""Many runs from one file: what is to be run, running it, and reading it back. Torch-free."""

from prunekit.sweep.directory import Cell, Sweep, open_sweep

__all__ = ["Cell", "Sweep", "open_sweep"]
