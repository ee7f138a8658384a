"""One run, read back: a table for the terminal and a picture. Torch-free."""

from prunekit.report.picture import picture
from prunekit.report.summary import summarise

__all__ = ["picture", "summarise"]
