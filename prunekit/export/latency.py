"""How long an ONNX file takes in onnxruntime, beside the dense model there and beside torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.export.programs import INPUT, OUTPUT, trace, write_onnx
from prunekit.export.subject import Subject
from prunekit.foundation.devices import cpu_threads
from prunekit.foundation.number_text import counted
from prunekit.foundation.unfinished import scratch, stop_if_asked
from prunekit.models.cost import Macs
from prunekit.models.latency import (
    DENSE,
    OWN,
    Latencies,
    Pass,
    by_batch,
    dense_model,
    model_pass,
    noise_images,
    saving_sentence,
    time_passes,
)

SECONDS = 3.0
"""Of timing, about; twice."""
SLOWER = 1.05
"""A file that takes longer than torch by more than this is told."""


@dataclass(frozen=True, slots=True)
class OnnxLatency:
    """What `export.json` says of time."""

    onnxruntime: Mapping[str, Any]
    """Batch -> passes beside those of the dense model in onnxruntime."""
    over_torch: Mapping[str, Any]
    """Batch -> the same beside the model in eager torch; what is called dense there is torch."""
    threads: int
    device: str = "cpu"
    saving: str | None = None
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def onnx_latency(path: Path, subject: Subject, seconds: float = SECONDS) -> OnnxLatency:
    """Time an exported file in as many threads as the run had.

    It does not fail: what cannot be timed is told in `notes`.

    Args:
        path: the ONNX file of `subject`.
        subject: what was exported.
        seconds: to be spent on each comparison, about.
    """
    notes: list[str] = []
    threads = subject.recipe.threads
    with cpu_threads(threads):
        try:
            own = session_pass(path, threads)
        except Exception as error:  # its own classes, none of which it exports
            return OnnxLatency({}, {}, threads, notes=(f"not timed: {_reason(error)}",))
        passes = {OWN: own}
        stop_if_asked()
        dense = _dense_pass(path, subject, threads, notes)
        if dense is not None:
            passes[DENSE] = dense

        def images(batch: int) -> Tensor:
            return noise_images(subject.spec.input_shape, batch, torch.zeros(()))

        found = time_passes(passes, images, seconds)
        eager = time_passes({OWN: own, DENSE: model_pass(subject.model)}, images, seconds)
    macs = subject.report.get("macs", {})
    where = f"onnxruntime, {counted(threads, 'thread')}"
    notes += [*found.notes, *_slower(eager)]
    return OnnxLatency(
        by_batch(found),
        by_batch(eager),
        threads,
        saving=saving_sentence(Macs(**macs), found, where) if macs else None,
        notes=tuple(notes),
    )


def session_pass(model: str | Path | bytes, threads: int) -> Pass:
    """The pass of an ONNX file, or of its bytes, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what is wrong is raised
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> object:
        return session.run([OUTPUT], {INPUT: images.numpy()})

    return run


def _dense_pass(path: Path, subject: Subject, threads: int, notes: list[str]) -> Pass | None:
    """The dense model in onnxruntime; None where it cannot be had, with a note."""
    dense = dense_model(subject.recipe.model, subject.spec, subject.model, notes)
    if dense is None:
        return None
    try:
        if not subject.recipe.compressors and _shapes(dense) == _shapes(subject.model):
            return session_pass(without_zeros(path), threads)
        with scratch() as folder:
            file = folder / path.name
            name = subject.recipe.model.name
            write_onnx(file, trace(dense, subject.images, name), {}, name)
            return session_pass(file, threads)
    except Exception as error:  # of the exporter, or of onnxruntime
        notes.append(f"the dense model is not timed in onnxruntime: {_reason(error)}")
        return None


def without_zeros(path: Path) -> bytes:
    """An ONNX file with noise in the place of zeros: the same program, dense."""
    import numpy as np
    import onnx

    proto, random = onnx.load(path), np.random.default_rng(0)
    for stored in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(stored)
        if array.dtype == np.float32 and array.ndim > 1:
            filled = np.where(array == 0, random.normal(0, 0.02, array.shape), array)
            stored.CopyFrom(onnx.numpy_helper.from_array(filled.astype(np.float32), stored.name))
    return bytes(proto.SerializeToString())


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _slower(eager: Latencies) -> list[str]:
    return [
        f"at batch {one.batch} onnxruntime takes {one.ratio:.2f} x as long as torch here"
        for one in eager.found
        if one.ratio is not None and one.ratio_low is not None and one.ratio_low > SLOWER
    ]


def _reason(error: Exception) -> str:
    return textwrap.shorten(" ".join(str(error).split()), 200)
