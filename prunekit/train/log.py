"""Where the numbers of a run go: `metrics.jsonl` and TensorBoard. Logging never stops a run.

Tags: train/loss, train/accuracy, train/lr, train/images_per_second, sparsity/target,
sparsity/achieved, density/<tensor>, flips/<label>, tokens/in, tokens/out, eval/<split>_top1,
eval/<split>_loss, strategy/<label>/<key>, probe/<label>/<key>; in TensorBoard alone recipe, masks,
weights/<tensor>, gradients/<tensor>. A label is a name, `name#0` where several have it.
"""

from __future__ import annotations

import abc
import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from prunekit.errors import ResourceError
from prunekit.foundation.files import read_lines, replacing

logger = logging.getLogger("prunekit")


class RunLog:
    """Write to `metrics.jsonl` and `tb/`; one that fails is given up with a warning."""

    def __init__(
        self,
        run_dir: Path | None,
        *,
        resume_step: int | None = None,
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        """Open both.

        Args:
            run_dir: the run directory; None: write nothing, as on all ranks but the main one.
            resume_step: optimizer steps done at the checkpoint that the run goes on from; what
                was logged after it is dropped. None: a new run.
            warn: takes the one sentence about a log that is given up.
        """
        self._warn = warn
        self._sinks: list[_Sink] = []
        if run_dir is not None:
            self._open(run_dir / "metrics.jsonl", _Lines, resume_step)
            self._open(run_dir / "tb", _TensorBoard, resume_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers, tag -> value, at `step` optimizer steps done."""
        numbers = {tag: float(value) for tag, value in values.items()}
        self._each(lambda sink: sink.scalars(step, numbers))

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Write the distribution of `values`; TensorBoard only."""
        self._each(lambda sink: sink.histogram(step, tag, values))

    def text(self, step: int, tag: str, text: str) -> None:
        """Write Markdown; TensorBoard only."""
        self._each(lambda sink: sink.text(step, tag, text))

    def close(self) -> None:
        """Flush and close; may be called twice."""
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _open(self, path: Path, kind: type[_Sink], resume_step: int | None) -> None:
        try:
            self._sinks.append(kind(path, resume_step))
        except (OSError, ResourceError) as error:
            self._give_up(path.name, error)

    def _each(self, act: Callable[[_Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                act(sink)
            except OSError as error:
                self._sinks.remove(sink)
                with suppress(OSError):
                    sink.close()
                self._give_up(sink.path.name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._warn(f"{name}: nothing more is logged there: {error}; the run goes on")


class _Sink(abc.ABC):
    """Where numbers go, by the calls of a `RunLog`; raises OSError when it cannot write."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path = path

    @abc.abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def histogram(self, step: int, tag: str, values: Tensor) -> None:  # noqa: B027 - not in all
        """Left out where there is no form for it, as texts are."""

    def text(self, step: int, tag: str, text: str) -> None:  # noqa: B027 - as histograms
        """See `histogram`."""

    @abc.abstractmethod
    def close(self) -> None: ...


class _Lines(_Sink):
    """One JSON object a line: `step`, then tag -> number, null where it is not finite."""

    def __init__(self, path: Path, resume_step: int | None) -> None:
        super().__init__(path, resume_step)
        if resume_step is not None and path.exists():
            kept = [line for line in read_lines(path) if line["step"] <= resume_step]
            with replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        # unbuffered: a kill loses no whole line, and a full disk leaves nothing to flush at exit
        self._file = path.open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self._file.write((json.dumps({"step": step, **finite}) + "\n").encode())

    def close(self) -> None:
        self._file.close()


class _TensorBoard(_Sink):
    def __init__(self, path: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path, resume_step)
        # events at purge_step and later are hidden; the checkpoint's own step was logged before it
        purge_step = None if resume_step is None else resume_step + 1
        self._writer: Any = SummaryWriter(str(path), purge_step=purge_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # one event for all: add_scalar writes one for each, at several times the cost
        pairs = values.items()
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in pairs])
        self._writer.file_writer.add_summary(summary, step)

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        self._writer.add_histogram(tag, values.detach().float().cpu(), step)

    def text(self, step: int, tag: str, text: str) -> None:
        self._writer.add_text(tag, text, step)

    def close(self) -> None:
        self._writer.close()
