"""`prunekit bench deploy`: what zeros, removed structure, merged tokens and 8 bits buy on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunekit.bench.deploy_cases import (
    FULL,
    QUICK,
    SPARSITIES,
    Served,
    as_onnx,
    in_onnxruntime,
    quantised,
    share_text,
    title_of,
    with_zeros,
    zeros_in,
)
from prunekit.bench.deploy_files import bench_exporting, bench_sizes
from prunekit.bench.measure import AGAIN, Section, Timed, in_turn, one_thread, timed
from prunekit.foundation.number_text import percent
from prunekit.foundation.unfinished import scratch
from prunekit.models.cost import count_macs
from prunekit.models.latency import Pass, model_pass

if TYPE_CHECKING:
    pass

RUNTIMES = ("torch", "onnxruntime")
BATCHES = (1, 8)
SLACK = {"onnxruntime": 0.05, "torch": 0.10}
"""What a smaller model may take over 1.15 times its share of the multiply-adds."""
STEEPNESS = 1.15
OVER_EAGER = 1.05
LARGE = 100_000_000
"""Multiply-adds from which on onnxruntime is held to torch."""


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
            f"{share_text(share)} zeros": Variety(lambda d=dense, s=share: with_zeros(d(), s))  # type: ignore[misc]
            for share in (SPARSITIES if size.judged else SPARSITIES[2:3])
        }
        title = f"zeros in place, each layer alike, in a {title_of(size, name)}"
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
    title = f"a {title_of(size, 'vit')} that lost heads and hidden units"
    yield from _family(size, folder, Family("heads", title, size.vit, arms))


def bench_channels(size: Served, folder: Path) -> Iterator[Section]:
    """Channels removed from a convolution net, down to multiples of 16 or not."""
    arms = {}
    for lost in (0.3, 0.5, 0.7) if size.judged else (0.3,):
        for multiple, what in ((1, ""), (16, ", multiples of 16")):
            make = partial(size.resnet18, keep=1 - lost, multiple=multiple)
            arms[f"-{share_text(lost)} channels{what}"] = Variety(make, aligned=multiple > 1)
    title = f"a {title_of(size, 'resnet18')} that lost channels"
    yield from _family(size, folder, Family("channels", title, size.resnet18, arms))


def bench_merging(size: Served, folder: Path) -> Iterator[Section]:
    """Tokens merged before the encoder."""
    arms = {
        f"{share_text(ratio)} of tokens merged": Variety(partial(size.merging, ratio))
        for ratio in ((0.2, 0.4, 0.6) if size.judged else (0.4,))
    }
    title = f"a {title_of(size, 'vit')} with `tome` before its encoder"
    yield from _family(size, folder, Family("tokens", title, size.vit, arms))


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
            title = f"one model in both runtimes: {title_of(size, name.split(',')[0])}"
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
        title = f"a {title_of(size, 'vit')} of 90 % zeros in 8 bits, by quantize_dynamic"
        yield replace(section, title=title, baseline="fp32 in onnxruntime", notes=kept)


SECTIONS = {
    "exporting": bench_exporting,
    "zeros": bench_zeros,
    "heads": bench_heads,
    "channels": bench_channels,
    "tokens": bench_merging,
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
    with one_thread(), scratch() as folder:
        for name in only or SECTIONS:
            yield from SECTIONS[name](size, folder)
