"""A finished run as files that others serve, each checked against the model; and its model card.

Knows runs, data, models and the sweep that a run belongs to, nothing of training. The rooms above
may import it.
"""

from __future__ import annotations

from prunekit.export.exporting import Export, export_run
from prunekit.export.n_m_check import NMTensor, check_nm

__all__ = ["Export", "NMTensor", "check_nm", "export_run"]
