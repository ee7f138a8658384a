"""Many runs from one file: what is to be run, running it, and its state on the disk. Torch-free.

Knows recipes and run directories; starts `train` in processes. `report` and `cli` may import it.
"""

from prunekit.sweep.directory import Sweep, SweepCell, open_sweep

__all__ = ["Sweep", "SweepCell", "open_sweep"]

Cell = SweepCell
"""Its former name, for what imports it; a `Cell` is the report's."""
