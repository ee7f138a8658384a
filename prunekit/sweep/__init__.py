"""Many runs from one file: what is to be run, running it, and its state on the disk. Torch-free.

Knows recipes and run directories; starts `train` in processes. `report` and `cli` may import it.
"""

from prunekit.sweep.directory import Cell, Sweep, open_sweep

__all__ = ["Cell", "Sweep", "open_sweep"]
