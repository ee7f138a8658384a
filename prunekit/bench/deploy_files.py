"""What `prunekit bench deploy` writes and does not serve: files of weights, exporting itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from prunekit.bench.deploy_cases import (
    FULL,
    SPARSITIES,
    Served,
    as_onnx,
    share_text,
    title_of,
    with_zeros,
)
from prunekit.bench.measure import Row, Section
from prunekit.models.placing import attach_all
from prunekit.recipe.load import load_recipe
from prunekit.registry.configs import DataSpec
from prunekit.runs.packed import pack
from prunekit.runs.sizes import file_sizes
from prunekit.runs.tensors import write_tensors

if TYPE_CHECKING:
    from prunekit.bench.measure import Verdict

EXPORT_SECONDS = 20
RECIPE = "vit_cifar_tome"


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
        name = f"{share_text(share)} zeros"
        rows += [
            _in_megabytes(f"{name}, packed", found.packed, found.plain, bound, size.judged),
            _in_megabytes(f"{name}, zipped", found.zipped, found.plain, None, size.judged),
        ]
    yield Section(
        name="sizes",
        title=f"the weight file of a {title_of(size, 'vit')}",
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
            attach_all(model, one, (3, side, side))
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
