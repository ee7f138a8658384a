"""`prunekit bench deploy`: what zeros, removed structure, merged tokens and 8 bits buy on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunekit.bench.deploy_cases import (
    FULL,
    QUICK,
    Served,
    as_onnx,
    in_onnxruntime,
    quantised,
    with_zeros,
    zeros_in,
)
from prunekit.bench.measure import AGAIN, Row, Section, Timed, in_turn, one_thread, timed
from prunekit.foundation.number_text import percent
from prunekit.models import attach
from prunekit.models.cost import count_macs
from prunekit.models.latency import Pass, model_pass
from prunekit.recipe.load import load_recipe
from prunekit.registry import COMPRESSORS
from prunekit.registry.configs import DataSpec
from prunekit.runs.packed import pack
from prunekit.runs.sizes import file_sizes
from prunekit.runs.tensors import write_tensors

if TYPE_CHECKING:
    from prunekit.bench.measure import Verdict

RUNTIMES = ("torch", "onnxruntime")
BATCHES = (1, 8)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
SLACK = {"onnxruntime": 0.05, "torch": 0.10}
"""What a smaller model may take over 1.15 times its share of the multiply-adds."""
STEEPNESS = 1.15
OVER_EAGER = 1.05
LARGE = 100_000_000
"""Multiply-adds from which on onnxruntime is held to torch."""
EXPORT_SECONDS = 20
RECIPE = "vit_cifar_tome"


@dataclass(frozen=True, slots=True)
class Variety:
    """A model in a section."""

    make: Callable[[], nn.Module]
    aligned: bool = False
    """Whether its time is promised: removed structure, widths of whole vector registers."""


@dataclass(frozen=True, slots=True)
class Family:
    """Models that stand beside one dense model."""

    name: str
    title: str
    dense: Callable[[], nn.Module]
    arms: Mapping[str, Variety]
    batches: tuple[int, ...] = BATCHES


def bench_zeros(size: Served, folder: Path) -> Iterator[Section]:
    """Unstructured zeros in place."""
    models: dict[str, Callable[[], nn.Module]] = {"vit": size.vit, "resnet18": size.resnet18}
    for name, dense in list(models.items())[: None if size.judged else 1]:
        arms = {
            f"{_share(share)} zeros": Variety(lambda d=dense, s=share: with_zeros(d(), s))  # type: ignore[misc]
            for share in (SPARSITIES if size.judged else SPARSITIES[2:3])
        }
        title = f"zeros in place, each layer alike, in a {_title(size, name)}"
        yield from _family(size, folder, Family(f"zeros, {name}", title, dense, arms, (1,)))


def bench_heads(size: Served, folder: Path) -> Iterator[Section]:
    """Heads and hidden units removed from a vision transformer."""
    h, w = size.heads, 4 * size.width
    left = {
        "-33 % heads and hidden": (h * 2 // 3, w * 2 // 3),
        "-50 % heads and hidden": (h // 2, w // 2),
        "-67 % heads and hidden": (h // 3, w // 3),
        "-50 % hidden units": (h, w // 2),
        "-67 % hidden units": (h, w // 3),
        "-50 % heads": (h // 2, w),
    }
    arms = {
        what: Variety(partial(size.vit, heads=max(1, some), hidden=hidden), aligned=True)
        for what, (some, hidden) in list(left.items())[: None if size.judged else 2]
    }
    title = f"a {_title(size, 'vit')} that lost heads and hidden units"
    yield from _family(size, folder, Family("heads", title, size.vit, arms))


def bench_channels(size: Served, folder: Path) -> Iterator[Section]:
    """Channels removed from a convolution net, down to multiples of 16 or not."""
    arms = {}
    for lost in (0.3, 0.5, 0.7) if size.judged else (0.3,):
        for multiple, what in ((1, ""), (16, ", multiples of 16")):
            make = partial(size.resnet18, keep=1 - lost, multiple=multiple)
            arms[f"-{_share(lost)} channels{what}"] = Variety(make, aligned=multiple > 1)
    title = f"a {_title(size, 'resnet18')} that lost channels"
    yield from _family(size, folder, Family("channels", title, size.resnet18, arms))


def bench_tokens(size: Served, folder: Path) -> Iterator[Section]:
    """Tokens merged before the encoder."""
    arms = {
        f"{_share(ratio)} of tokens merged": Variety(partial(size.merging, ratio))
        for ratio in ((0.2, 0.4, 0.6) if size.judged else (0.4,))
    }
    title = f"a {_title(size, 'vit')} with `tome` before its encoder"
    yield from _family(size, folder, Family("tokens", title, size.vit, arms))


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _title(size: Served, name: str) -> str:
    what = f"ViT {size.width}x{size.depth}" if name == "vit" else "ResNet-18"
    return f"{what}, {size.side} px"


def _family(size: Served, folder: Path, family: Family) -> Iterator[Section]:
    """A section for each runtime and batch; ratios are to the dense model in the same runtime."""
    models = {"dense": family.dense(), **{n: arm.make() for n, arm in family.arms.items()}}
    shape = size.spec.input_shape
    macs = {name: count_macs(model, shape).executed for name, model in models.items()}
    share = {name: count / macs["dense"] for name, count in macs.items()}
    for runtime in RUNTIMES:
        passes = _passes(models, runtime, size.images(1), folder)
        for batch in family.batches:
            # promised at batch 1
            bound = {
                name: STEEPNESS * share[name] + SLACK[runtime]
                for name, arm in family.arms.items()
                if arm.aligned and batch == 1
            }
            section = _timed(
                size,
                f"{family.name}: {runtime}, batch {batch}",
                passes,
                size.images(batch),
                bound,
            )
            rows = [replace(row, macs=share.get(row.what)) for row in section.rows]
            title = f"{family.title}; dense {macs['dense'] / 1e9:.2f} G multiply-adds"
            yield replace(section, title=title, rows=rows, baseline=f"dense in {runtime}")


def _passes(
    models: Mapping[str, nn.Module], runtime: str, images: Tensor, folder: Path
) -> dict[str, Pass]:
    if runtime == "torch":
        return {name: model_pass(model) for name, model in models.items()}
    return {
        name: in_onnxruntime(as_onnx(model, images, folder / "model.onnx"))
        for name, model in models.items()
    }


def _timed(
    size: Served,
    name: str,
    passes: Mapping[str, Pass],
    images: Tensor,
    goals: dict[str, float],
) -> Section:
    """The first pass is the baseline, and once more what it is compared with itself by."""
    first, *rest = passes
    variants = {
        first: timed(partial(passes[first], images)),
        AGAIN: timed(partial(passes[first], images)),
        **{one: timed(partial(passes[one], images)) for one in rest},
    }
    most = size.most if len(images) == 1 else size.least  # what is judged is judged at batch 1
    measured = in_turn(variants, size.least, most)
    return Section(
        name=name,
        title="",
        baseline=first,
        rows=Timed(measured, size.judged).rows(goals),
        rounds=measured.rounds,
        null=measured.null.error,
    )


def bench_runtimes(size: Served, folder: Path) -> Iterator[Section]:
    """Onnxruntime beside torch, of the same model."""
    models: dict[str, Callable[[], nn.Module]] = {
        "vit": size.vit,
        "vit, 40 % of tokens merged": partial(size.merging, 0.4),
        "resnet18": size.resnet18,
    }
    for name, make in list(models.items())[: None if size.judged else 1]:
        model = make()
        large = count_macs(model, size.spec.input_shape).executed >= LARGE
        file = as_onnx(model, size.images(1), folder / "model.onnx")
        passes = {"torch": model_pass(model), "onnxruntime": in_onnxruntime(file)}
        for batch in BATCHES:
            goals = {"onnxruntime": OVER_EAGER} if large and batch == 1 else {}
            section = _timed(
                size, f"runtimes, {name}: batch {batch}", passes, size.images(batch), goals
            )
            title = f"one model in both runtimes: {_title(size, name.split(',')[0])}"
            yield replace(section, title=title, baseline="torch eager")


def bench_quantised(size: Served, folder: Path) -> Iterator[Section]:
    """8 bits after pruning, by onnxruntime's dynamic quantisation."""
    file = as_onnx(with_zeros(size.vit(), 0.9), size.images(1), folder / "model.onnx")
    before = zeros_in(file)
    files = {
        "int8, symmetric, by channel": quantised(file, symmetric=True),
        "uint8, asymmetric, by tensor": quantised(file, symmetric=False),
    }
    passes = {"fp32": in_onnxruntime(file)}
    passes |= {name: in_onnxruntime(one) for name, one in files.items()}
    kept = [
        f"{name}: {percent(zeros_in(one))} zeros in the matrices, {percent(before)} before; "
        f"{one.stat().st_size / 1e6:.2f} MB, {file.stat().st_size / 1e6:.2f} MB before"
        for name, one in files.items()
    ]
    for batch in BATCHES:
        name = f"quantised: onnxruntime, batch {batch}"
        section = _timed(size, name, passes, size.images(batch), {})
        title = f"a {_title(size, 'vit')} of 90 % zeros in 8 bits, by quantize_dynamic"
        yield replace(section, title=title, baseline="fp32 in onnxruntime", notes=kept)


def bench_sizes(size: Served, folder: Path) -> Iterator[Section]:
    """Files of weights, plain, zipped and packed."""
    rows = []
    for share in (0.0, *SPARSITIES):
        path = folder / "model.safetensors"
        weights = with_zeros(size.vit(), share).state_dict()
        write_tensors(path, weights, {})
        found = file_sizes(path, 600)
        assert found.zipped is not None
        bound = 1.01 * _packed_bound(weights) / found.plain
        name = f"{_share(share)} zeros"
        rows += [
            _in_megabytes(f"{name}, packed", found.packed, found.plain, bound, size.judged),
            _in_megabytes(f"{name}, zipped", found.zipped, found.plain, None, size.judged),
        ]
    yield Section(
        name="sizes",
        title=f"the weight file of a {_title(size, 'vit')}",
        baseline="plain safetensors",
        rows=rows,
        notes=[
            "goal: of what is packed, its bytes that are not zero and a bit an entry; plain bytes "
            "of the rest; 1 % more",
            "weights are random: trained ones may zip a little better",
        ],
    )


def _packed_bound(weights: Mapping[str, Tensor]) -> float:
    """Bytes of what is packed, bits of its mask included, and of what stays plain."""
    packed, _ = pack(weights)
    total = 0.0
    for name, tensor in weights.items():
        if name in packed:
            total += tensor.numel() * tensor.element_size()
        else:
            there = int((tensor != 0).sum())  # no -0.0 is among random weights
            total += there * tensor.element_size() + tensor.numel() / 8
    return total


def _in_megabytes(what: str, ours: int, base: int, goal: float | None, judged: bool) -> Row:
    verdict: Verdict = ""
    if goal is not None:
        met: Verdict = "met" if ours / base <= goal else "not met"
        verdict = met if judged else "not judged"
    return Row(
        what=what,
        ours=ours / 1e6,
        baseline=base / 1e6,
        unit="MB",
        ratio=ours / base,
        goal="" if goal is None else f"<= {goal:.3f} x",
        verdict=verdict,
    )


def bench_exporting(size: Served, folder: Path) -> Iterator[Section]:
    """Tracing and writing the model of a recipe, without any check."""
    if size.judged:
        recipe, side = load_recipe(RECIPE), 224
        model = recipe.model.build(DataSpec(channels=3, height=side, width=side, classes=10))
        for one in recipe.compressors:
            attach(model, one.slot, COMPRESSORS.create(one), (3, side, side))
        name, images = recipe.name, FULL.images(1)
    else:
        model, name, images = size.merging(0.4), "a small ViT", size.images(1)
    model.eval()
    began = time.process_time()
    as_onnx(model, images, folder / "model.onnx")
    seconds = time.process_time() - began
    met: Verdict = "met" if seconds <= EXPORT_SECONDS else "not met"
    row = Row(
        what=f"model of {name} to ONNX",
        ours=seconds,
        baseline=EXPORT_SECONDS,
        unit="s",
        ratio=seconds / EXPORT_SECONDS,
        goal=f"<= {EXPORT_SECONDS} s",
        verdict=met if size.judged else "not judged",
    )
    yield Section(
        name="exporting",
        title="tracing, converting and writing",
        baseline="the seconds that it may take",
        rows=[row],
        notes=["once, so without an interval; a first export in a process also imports onnxscript"],
    )


SECTIONS = {
    "exporting": bench_exporting,
    "zeros": bench_zeros,
    "heads": bench_heads,
    "channels": bench_channels,
    "tokens": bench_tokens,
    "quantised": bench_quantised,
    "sizes": bench_sizes,
    "runtimes": bench_runtimes,
}


def bench_deploy(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure one part after the other, on one thread of the CPU; arguments as for masks.

    Raises:
        UsageError: a package of the extra `onnx` is not installed.
    """
    size = QUICK if quick else FULL
    with one_thread(), TemporaryDirectory(prefix="prunekit-") as folder:
        for name in only or SECTIONS:
            yield from SECTIONS[name](size, Path(folder))
