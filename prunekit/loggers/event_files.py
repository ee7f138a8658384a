"""TensorBoard's event files, by torch's writer.

They lie beside the run directories, `runs/<recipe>/tb/<run>`: TensorBoard follows links, and would
show in `latest` once more what lay in the run itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import lru_cache
from statistics import median
from typing import Any, Literal

import numpy as np

from prunekit.loggers.base import LoggedRun, Logger
from prunekit.loggers.density_image import density_image
from prunekit.registry.configs import LoggerConfig
from prunekit.runs.density_history import DENSITY, density_history
from prunekit.runs.directory import RunDir, events_dir

SHOWN = (
    (re.compile(r"^train/(accuracy|loss)$"), r"\1/train"),
    (re.compile(r"^eval/(\w+)_top1$"), r"accuracy/\1"),
    (re.compile(r"^eval/(\w+)_loss$"), r"loss/\1"),
    (re.compile(r"^flips/"), "masks/flips/"),
)
"""TensorBoard orders cards by tag: with these, accuracy and loss come first."""
LAYERS = "masks/density/"
"""Of all layers, the lowest, the median and the highest: a card for each layer hides the rest."""
LAYOUT = {
    "Accuracy and loss": {
        "accuracy": ["Multiline", ["accuracy/.*"]],
        "loss": ["Multiline", ["loss/.*"]],
    },
    "Pruning": {
        "sparsity": ["Multiline", ["sparsity/.*"]],
        "density of the layers: lowest, median, highest": [
            "Margin",
            [f"{LAYERS}median", f"{LAYERS}lowest", f"{LAYERS}highest"],
        ],
        "flips": ["Multiline", ["masks/flips/.*"]],
    },
}
"""Of the page Custom Scalars."""
NO_SETTINGS = ("name", "logging", "loggers", "checkpoint", "data.root", "data.download")
"""Keys of a recipe that are no hyperparameters."""


@lru_cache(maxsize=4096)
def shown_tag(tag: str) -> str:
    """What a tag of `metrics.jsonl` is called in TensorBoard."""
    for pattern, instead in SHOWN:
        tag = pattern.sub(instead, tag)
    return tag


class EventFiles(Logger):
    """Write event files for TensorBoard: `tensorboard --logdir runs`.

    A resumed run hides what came after its checkpoint.
    """

    class Config(LoggerConfig):
        """Settings of tensorboard."""

        name: Literal["tensorboard"]

    def open(self, run: LoggedRun) -> None:
        """The charts and the settings first."""
        from torch.utils.tensorboard import SummaryWriter

        # events at purge_step and later are hidden; the checkpoint's own step was logged before it
        purge_step = None if run.resume_step is None else run.resume_step + 1
        self._home, self._step = run.path, 0
        self._writer: Any = SummaryWriter(str(events_dir(run.path)), purge_step=purge_step)
        if not purge_step:
            self._writer.add_custom_scalars(LAYOUT)
            self._summary(_session_start(run), 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `shown_tag` says; of the densities of the layers three numbers."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        layers = [x for tag, x in values.items() if tag.startswith(DENSITY)]
        shown = {shown_tag(tag): x for tag, x in values.items() if not tag.startswith(DENSITY)}
        if layers:
            found = {"lowest": min(layers), "median": median(layers), "highest": max(layers)}
            shown |= {f"{LAYERS}{name}": value for name, value in found.items()}
        # one event for all: add_scalar writes one for each, at several times the cost
        pairs = shown.items()
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in pairs])
        self._summary(summary, step)
        self._step = max(step, self._step)

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """Under its tag."""
        self._writer.add_histogram(tag, values, step)

    def text(self, step: int, tag: str, text: str) -> None:
        """Under its tag."""
        self._writer.add_text(tag, text, step)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """Under its tag."""
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def finish(self, report: Mapping[str, Any]) -> None:
        """The density of each layer over the run, as one picture; the run's end for HParams."""
        history = density_history(RunDir(self._home).logged())
        if history is not None:
            self.image(self._step, "masks/density_by_layer", density_image(history))
        self._summary(_session_end(), self._step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()

    def _summary(self, summary: Any, step: int) -> None:
        self._writer.file_writer.add_summary(summary, step)


def _session_start(run: LoggedRun) -> Any:
    """A row of HParams. torch's `add_hparams` would write it to a run of its own, flags as numbers.

    What columns there are TensorBoard finds in the rows: runs of several recipes stand together.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(start_time_secs=time.time())
    for key, value in run.settings().items():
        if any(key == one or key.startswith(f"{one}.") for one in NO_SETTINGS):
            continue
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, str):
            start.hparams[key].string_value = value
        else:
            start.hparams[key].number_value = value
    return _about_session("start", HParamsPluginData(session_start_info=start))


def _session_end() -> Any:
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=Status.STATUS_SUCCESS, end_time_secs=time.time())
    return _about_session("end", HParamsPluginData(session_end_info=end))


def _about_session(which: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import (
        PLUGIN_DATA_VERSION,
        PLUGIN_NAME,
        SESSION_END_INFO_TAG,
        SESSION_START_INFO_TAG,
    )

    content.version = PLUGIN_DATA_VERSION
    data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content.SerializeToString())
    tag = SESSION_START_INFO_TAG if which == "start" else SESSION_END_INFO_TAG
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))])
