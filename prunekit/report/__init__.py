"""Runs read back: one as a table and a picture, many beside each other as tables and a page.

Knows the files of runs and sweeps, and no torch. Only `cli` may import it.
"""

from prunekit.report.figures.run import picture
from prunekit.report.run_summary import summarise

__all__ = ["picture", "summarise"]
