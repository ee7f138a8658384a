"""From a finished run to a folder of files that are served, each checked before it is there."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from prunekit.errors import UsageError
from prunekit.export.card import CARD_FILE, model_card
from prunekit.export.compacting import notes_of, without_empty
from prunekit.export.earlier import earlier_files, model_digest, stale
from prunekit.export.latency import onnx_latency
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
from prunekit.export.results import RECORD_FILE, Export
from prunekit.export.snippets import ONNX_FILE, PACKED_FILE, PLAIN_FILE, PT2_FILE
from prunekit.export.subject import (
    MOST_IMAGES,
    Subject,
    open_subject,
    resizing,
    unit_statistics,
)
from prunekit.export.zeros import count_zeros
from prunekit.foundation.devices import choose_device, cpu_threads
from prunekit.foundation.files import write_json
from prunekit.foundation.unfinished import stop_if_asked
from prunekit.foundation.whole_folder import all_or_nothing
from prunekit.models.file_metadata import images_metadata
from prunekit.registry.own_code import CodeFile, use_code
from prunekit.runs.links import refuse_link
from prunekit.runs.tensors import read_tensors, write_tensors


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
        """Add the seconds of the block to `seconds`; before it a signal is obeyed."""
        stop_if_asked()
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be written, as `export_run` has it."""

    onnx: bool
    pt2: bool
    packed: bool
    compact: bool
    normalize: bool
    timing: bool

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: nothing is asked for, or a package of an extra is not installed.
        """
        if not (self.onnx or self.pt2 or self.packed or self.compact):
            raise UsageError(
                "nothing to export: give --onnx, --pt2, --packed or --compact, or several"
            )
        if self.normalize and not (self.onnx or self.pt2):
            raise UsageError("--normalize goes inside of a program: give --onnx or --pt2 with it")
        if self.onnx:
            require_onnx()


def export_run(  # noqa: PLR0913 - a keyword for each file and choice
    run_dir: str | Path,
    *,
    onnx: bool = False,
    pt2: bool = False,
    packed: bool = False,
    compact: bool = False,
    out: str | Path | None = None,
    normalize: bool = False,
    timing: bool = True,
    device: str = "cpu",
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
        compact: take out the empty heads, channels and hidden units first, as `compact_run` does;
            the files are compared with the model that is left.
        out: the folder; None = `export` in the run directory. Files of an earlier export are
            replaced; others of the same model stay, in the card and in `export.json` too.
        normalize: put mean and standard deviation inside, so that pixel values of 0 .. 1 go in.
        timing: measure how long `model.onnx` takes in onnxruntime, beside the dense model, which
            may be exported for it; seconds. It never fails: what cannot be timed is told.
        device: where a smaller model is tried (`compact`), as a recipe's; programs are traced, and
            compared, on the CPU, as a program names its device.
        code: the file of your own that the run was made with, where it was.

    Raises:
        RecipeError: no such device here.
        UsageError: nothing is asked for, or a package of an extra is not installed.
        CheckpointError: no finished run, or its files or data do not fit each other.
        DataError: its data is not to be had, or has too few test images.
        ExportError: the model cannot be traced, or a file does not give what the model gives.
        WriteError: the folder cannot be written.
        StopRequestedError: a signal asked for a stop. After any of these nothing was written.
    """
    wanted = _Wanted(onnx, pt2, packed, compact, normalize, timing)
    wanted.check()
    with use_code(code):
        place, subject = choose_device(device), open_subject(run_dir)
        with cpu_threads(subject.recipe.threads):
            return _exported(without_empty(subject, place) if compact else subject, wanted, out)


def _exported(subject: Subject, wanted: _Wanted, out: str | Path | None) -> Export:
    folder = subject.run.path / "export" if out is None else Path(out)
    if out is None:
        refuse_link(folder)
    with all_or_nothing(folder) as temporary:
        work = _Work(subject, temporary, wanted.normalize)
        work.notes += notes_of(subject.compact) if subject.compact else ()
        if len(subject.images) < MOST_IMAGES:
            work.notes.append(f"The test split has {len(subject.images)} images: checked on all.")
        if wanted.onnx or wanted.pt2:
            _write_programs(work, onnx=wanted.onnx, pt2=wanted.pt2)
        zeros = _write_weights(work, packed=wanted.packed)
        written = {path.name: path.stat().st_size for path in temporary.iterdir()}
        latency = None
        if wanted.onnx and wanted.timing:
            latency = onnx_latency(temporary / ONNX_FILE, subject)
            work.notes += latency.notes
        same = {"run": _run_name(subject), "model": model_digest(subject.weights)}
        inside = wanted.normalize if wanted.onnx or wanted.pt2 else None
        before = earlier_files(folder, **same, written=written, normalize=inside)
        files = dict(sorted({**written, **before.files}.items()))
        found = Export(
            folder,
            files,
            {**before.checks, **work.checks},
            zeros,
            work.seconds,
            (*work.notes, *before.notes, *stale(folder, files)),
            parameters=sum(one.numel() for one in subject.model.parameters()),
            latency=latency or before.latency,
            kept=tuple(before.files),
        )
        normalize = wanted.normalize or before.normalize
        record = {**same, "normalize": normalize, **found.plain(), "versions": _versions()}
        write_json(temporary / RECORD_FILE, record)
        card = model_card(subject, found, normalize=normalize)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        for name in written:  # safetensors writes for the owner alone
            shutil.copymode(temporary / CARD_FILE, temporary / name)
    return found


def _run_name(subject: Subject) -> str:
    return f"{subject.recipe.name}/{subject.run.path.name}"


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
        "run": _run_name(subject),
        "versions": json.dumps(_versions()),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("prunekit", "torch", "onnx", "onnxscript", "onnxruntime"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check_pt2(work: _Work, images: Tensor, expected: Tensor) -> None:
    with warnings.catch_warnings(action="ignore"):  # torch 2.11 warns of its own buffers
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
