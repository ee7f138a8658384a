"""A finished run as files that others serve, each checked against the model; and its model card.

Also either of them in use: evaluated on a test split, and asked for the classes of images. Knows
runs, data, models and the sweep that a run belongs to, nothing of training. The rooms above may
import it.
"""

from __future__ import annotations

from prunekit.export.compacting import CompactRun, compact_run
from prunekit.export.evaluating import evaluate_run
from prunekit.export.evaluation import ModelEvaluation
from prunekit.export.exporting import export_run
from prunekit.export.n_m_check import NMTensor, check_nm
from prunekit.export.predicting import Prediction, predict
from prunekit.export.results import Export
from prunekit.export.sensitivity import Sensitivity

__all__ = [
    "CompactRun",
    "Export",
    "ModelEvaluation",
    "NMTensor",
    "Prediction",
    "Sensitivity",
    "check_nm",
    "compact_run",
    "evaluate_run",
    "export_run",
    "predict",
]
