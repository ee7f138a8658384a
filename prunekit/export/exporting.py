"""From a finished run to a folder of files that are served, each checked before it is there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from prunekit.errors import UsageError
from prunekit.export.card import CARD_FILE, model_card
from prunekit.export.parity import Parity, compare_logits, reference
from prunekit.export.programs import (
    INPUT,
    OUTPUT,
    Normalised,
    require_onnx,
    trace,
    write_onnx,
    write_pt2,
)
from prunekit.export.snippets import ONNX_FILE, PACKED_FILE, PLAIN_FILE, PT2_FILE
from prunekit.export.subject import (
    MOST_IMAGES,
    Subject,
    open_subject,
    resizing,
    unit_statistics,
)
from prunekit.export.zeros import count_zeros
from prunekit.foundation.files import all_or_nothing
from prunekit.models.saved import images_metadata
from prunekit.registry.own_code import CodeFile, use_code
from prunekit.runs.tensors import read_tensors, write_tensors


@dataclass(frozen=True, slots=True)
class Export:
    """What was written, and how it was checked."""

    folder: Path
    files: Mapping[str, int]
    """Name -> bytes."""
    checks: Mapping[str, Parity]
    """Of each file that computes: how far it is from the model."""
    zeros: int
    """In the pruned tensors, in each file alike."""
    seconds: float
    """Wall time of tracing and writing, the check left out."""
    notes: tuple[str, ...]
    """What to know of it, in sentences."""


@dataclass
class _Work:
    """An export on its way: a folder that is thrown away unless all of it is right."""

    subject: Subject
    folder: Path
    normalize: bool
    checks: dict[str, Parity] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun


def export_run(
    run_dir: str | Path,
    *,
    onnx: bool = False,
    pt2: bool = False,
    packed: bool = False,
    out: str | Path | None = None,
    normalize: bool = False,
    code: str | Path | CodeFile | None = None,
) -> Export:
    """Write the finished model of a run for other runtimes, with a model card beside it.

    Every file that computes is run on test images in batches of 1, 2 and 7 and compared with the
    model; every file is searched for the zeros of the run.

    Args:
        run_dir: a run directory, `runs/<recipe>/latest`.
        onnx: write `model.onnx`; needs the extra `onnx`.
        pt2: write `model.pt2`, for `torch.export.load`.
        packed: write `model.packed.safetensors`, for `prunekit.load_model`, with the zeros left
            out; else the plain `model.safetensors` goes along.
        out: the folder; `export` in the run directory where it is None. Files of an earlier export
            are replaced.
        normalize: put mean and standard deviation inside, so that pixel values of 0 .. 1 go in.
        code: the file of your own that the run was made with, where it was.

    Raises:
        UsageError: nothing is asked for, or a package of the extra is not installed.
        CheckpointError: no finished run, or its files or data do not fit each other.
        DataError: its data is not to be had, or has too few test images.
        ExportError: the model cannot be traced, or a file does not give what the model gives.
        WriteError: the folder cannot be written. After any of these nothing was written.
    """
    _check_request(onnx=onnx, pt2=pt2, packed=packed, normalize=normalize)
    with use_code(code):
        subject = open_subject(run_dir)
        return _exported(subject, onnx=onnx, pt2=pt2, packed=packed, out=out, normalize=normalize)


def _exported(
    subject: Subject,
    *,
    onnx: bool,
    pt2: bool,
    packed: bool,
    out: str | Path | None,
    normalize: bool,
) -> Export:
    folder = subject.run.path / "export" if out is None else Path(out)
    with all_or_nothing(folder) as temporary:
        work = _Work(subject, temporary, normalize)
        if len(subject.images) < MOST_IMAGES:
            work.notes.append(f"The test split has {len(subject.images)} images: checked on all.")
        if onnx or pt2:
            _write_programs(work, onnx=onnx, pt2=pt2)
        zeros = _write_weights(work, packed=packed)
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        card = model_card(subject, files, work.checks, zeros, normalize=normalize)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        for name in files:  # safetensors writes for the owner alone
            shutil.copymode(temporary / CARD_FILE, temporary / name)
    stale = [name for name in (ONNX_FILE, PT2_FILE, PACKED_FILE, PLAIN_FILE) if name not in files]
    work.notes += [
        f"{folder / name} is of an earlier export: the card does not speak of it."
        for name in stale
        if (folder / name).is_file()
    ]
    return Export(folder, files, work.checks, zeros, work.seconds, tuple(work.notes))


def _check_request(*, onnx: bool, pt2: bool, packed: bool, normalize: bool) -> None:
    if not (onnx or pt2 or packed):
        raise UsageError("nothing to export: give --onnx, --pt2 or --packed, or several")
    if normalize and not (onnx or pt2):
        raise UsageError("--normalize goes inside of a program: give --onnx or --pt2 with it")
    if onnx:
        require_onnx()


def _write_programs(work: _Work, *, onnx: bool, pt2: bool) -> None:
    subject, name = work.subject, work.subject.recipe.model.name
    model, images = _served(subject, normalize=work.normalize)
    expected = reference(model, images)
    metadata = program_metadata(subject, normalize=work.normalize)
    with work.timed():
        program = trace(model, images, name)
    if pt2:
        with work.timed():
            write_pt2(work.folder / PT2_FILE, program, metadata)
        _check_pt2(work, images, expected)
    if onnx:
        with work.timed():
            write_onnx(work.folder / ONNX_FILE, program, metadata, name)
        _check_onnx(work, images, expected)
    for file, parity in work.checks.items():
        work.notes += [
            f"{file}: test image {number} takes another path through the merging of tokens, as two "
            "similarities are equal but for rounding; all others agree."
            for number in parity.other
        ]


def _served(subject: Subject, *, normalize: bool) -> tuple[nn.Module, Tensor]:
    """What is traced, and what goes into it."""
    if not normalize:
        return subject.model, subject.images
    mean, std = unit_statistics(subject.preprocessing)
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return Normalised(subject.model, mean, std).eval(), subject.images * scale + shift


def program_metadata(subject: Subject, *, normalize: bool) -> dict[str, str]:
    """What a program says of itself: texts, those of lists and tables as JSON."""
    spec, prepared, report = subject.spec, subject.preprocessing, subject.report
    mean, std = unit_statistics(prepared)
    return {
        "classes": json.dumps(prepared.classes),
        "image_size": json.dumps([spec.channels, spec.height, spec.width]),
        "resize": resizing(prepared),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "normalisation": "inside" if normalize else "before",
        "tokens": json.dumps(report.get("tokens")),
        "sparsity": json.dumps(report.get("sparsity")),
        # where the data lies on this machine is nobody's business
        "data": subject.recipe.data.model_dump_json(exclude={"root", "download"}),
        **images_metadata(subject.preprocessing),
        "run": f"{subject.recipe.name}/{subject.run.path.name}",
        "versions": json.dumps(_versions()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("prunekit", "torch", "onnx", "onnxscript"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check_pt2(work: _Work, images: Tensor, expected: Tensor) -> None:
    program = torch.export.load(work.folder / PT2_FILE)
    module = program.module()
    tokens = bool(work.subject.recipe.compressors)
    work.checks[PT2_FILE] = compare_logits(PT2_FILE, module, images, expected, tokens=tokens)
    _count(work.subject, PT2_FILE, program.state_dict)


def _check_onnx(work: _Work, images: Tensor, expected: Tensor) -> None:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    path = work.folder / ONNX_FILE
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: part.numpy()})[0])

    tokens = bool(work.subject.recipe.compressors)
    work.checks[ONNX_FILE] = compare_logits(ONNX_FILE, run, images, expected, tokens=tokens)
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    _count(work.subject, ONNX_FILE, {name: torch.tensor(array) for name, array in arrays.items()})


def _count(subject: Subject, file: str, written: Mapping[str, Tensor]) -> int:
    pruned = {name: subject.weights[name] for name in subject.masked}
    plain = {name.removeprefix("model."): tensor for name, tensor in written.items()}
    return count_zeros(file, pruned, {**written, **plain}.items())


def _write_weights(work: _Work, *, packed: bool) -> int:
    """The weights as safetensors, read back; the zeros in them."""
    subject, name = work.subject, PACKED_FILE if packed else PLAIN_FILE
    path = work.folder / name
    write_tensors(path, subject.weights, subject.metadata, packed=packed)
    return _count(subject, name, read_tensors(path)[0])
