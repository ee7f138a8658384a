"""`prunekit bench tokens`: what merging costs beside the plain way, and what of it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.bench.measure import (
    AGAIN,
    Section,
    Timed,
    Variant,
    in_turn,
    one_thread,
    placed,
    timed,
)
from prunekit.bench.plain_tokens import Slice, plain_merge, same_tokens
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.compressors.tome import Tome
from prunekit.models.placing import attach
from prunekit.models.vit import ViTConfig
from prunekit.models.vit_blocks import EncoderBlock
from prunekit.registry.configs import DataSpec


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens of a batch, and how often they are measured."""

    batch: int
    tokens: int
    """With a class token."""
    width: int
    least: int = 25
    most: int = 100
    judged: bool = True

    def draw(self) -> tuple[Tensor, Tensor]:
        """Noise [B, N, C] that wants a gradient, and sizes of 1."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, self.tokens, self.width, generator=generator)
        return placed(x).requires_grad_(), placed(torch.ones(self.batch, self.tokens, 1))

    def __str__(self) -> str:
        return f"{self.batch} x {self.tokens} tokens of width {self.width}"


SHAPES = {"N=197": Shape(32, 197, 384), "N=65": Shape(64, 65, 192)}
QUICK = Shape(2, 17, 16, 2, 2, judged=False)
RATIO = 0.4
LIMIT = "the limit: its product, and one copy each way"
GOAL, ROUNDS_GOAL = 0.35, 1.3
STEP_GOALS = {0.2: 0.99, 0.4: 0.99, 0.6: 0.98, 0.8: 0.97}
"""Ratio -> the speed of a merged step at least, over that of one whose tokens were cut off."""


def _sizes(quick: bool) -> Mapping[str, Shape]:
    return {"N=17": QUICK} if quick else SHAPES


def _tome(ratio: float, **settings: str) -> Tome:
    return Tome(Tome.Config.model_validate({"name": "tome", "ratio": ratio, **settings}))


def _both_ways(shape: Shape, merged: Callable[[Tensor, Tensor], Tensor]) -> Variant:
    """Forward, and backward from noise."""
    x, size = shape.draw()
    like = merged(x, size)
    grad = placed(torch.randn(like.shape, generator=torch.Generator().manual_seed(1)))

    def work() -> None:
        x.grad = None
        torch.autograd.backward(merged(x, size), grad)

    return timed(work)


def _by_tome(compress: DataCompressor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, size: compress(TokenBatch(x, size, 1)).x


def merging(quick: bool) -> Iterator[Section]:
    """One round, forward and backward, over the plain way."""
    for name, shape in _sizes(quick).items():
        removed = shape.tokens - 1 - _tome(RATIO).output_tokens(shape.tokens - 1)
        plain = partial(plain_merge, removed=removed)
        like_paper = _tome(RATIO, similarity="cosine", partition="sequence")
        same_tokens(shape.draw(), plain, _by_tome(like_paper))
        variants = {
            "plain": _both_ways(shape, plain),
            AGAIN: _both_ways(shape, plain),
            "tome": _both_ways(shape, _by_tome(_tome(RATIO))),
            "tome, the same tokens": _both_ways(shape, _by_tome(like_paper)),
            LIMIT: _limit(shape, [removed]),
        }
        yield _section(
            f"merge, {name}",
            f"{removed} of {shape} merged, forward and backward",
            "matching and merge written plainly as arXiv:2210.09461 has them",
            variants,
            {"tome": GOAL},
            shape,
            "tome compares by dot products, its default; for the same tokens by cosine, as they do",
        )


def _limit(shape: Shape, rounds: Sequence[int]) -> Variant:
    """What no way of merging saves: the scores of each round, which removes so many, a read and a
    write of what comes in and out, and one way back."""
    tokens = [shape.draw()[0].detach()]
    for removed in rounds:
        left = tokens[-1].shape[1] - removed
        tokens.append(tokens[0].new_empty(shape.batch, left, shape.width))
    back, out = torch.empty_like(tokens[0]), tokens[-1]
    times, rest = divmod(shape.tokens, out.shape[1])

    def work() -> None:
        for x, y in pairwise(tokens):
            torch.matmul(x[:, 1::2], x[:, 2::2].transpose(1, 2))
            y.copy_(x[:, -y.shape[1] :])
        for part in back[:, rest:].chunk(times, 1):
            part.copy_(out)
        back[:, :rest] = out[:, :rest]

    return timed(work)


def rounds(quick: bool) -> Iterator[Section]:
    """More than half of the tokens: several rounds over one."""
    for name, shape in _sizes(quick).items():
        more = {ratio: _tome(ratio) for ratio in (0.6, 0.8)}
        n = shape.tokens - 1
        counts = {ratio: len(compress.rounds(n)) for ratio, compress in more.items()}
        one = _by_tome(_tome(0.5))
        variants = {"one": _both_ways(shape, one), AGAIN: _both_ways(shape, one)}
        names = {f"ratio {ratio:g}: {counts[ratio]} rounds": c for ratio, c in more.items()}
        variants |= {what: _both_ways(shape, _by_tome(c)) for what, c in names.items()}
        variants["the limit of one"] = _limit(shape, [n // 2])
        limits = {counts[ratio]: _limit(shape, c.rounds(n)) for ratio, c in more.items()}
        variants |= {f"the limit of {count}": limit for count, limit in limits.items()}
        yield _section(
            f"rounds, {name}",
            f"more than half of {shape} merged, forward and backward",
            "one round, which merges half",
            variants,
            dict.fromkeys(names, ROUNDS_GOAL),
            shape,
        )


def block(quick: bool) -> Iterator[Section]:
    """Merging over one block of the transformer that it stands in."""
    for name, shape in _sizes(quick).items():
        torch.manual_seed(0)
        heads = max(1, shape.width // 64)
        one = EncoderBlock(shape.width, heads, 4 * shape.width, shape.width // heads, True, 0.0)
        placed(one)  # a module moves itself
        whole = _by_block(one)
        variants = {
            "block": _both_ways(shape, whole),
            AGAIN: _both_ways(shape, whole),
            "tome": _both_ways(shape, _by_tome(_tome(RATIO))),
        }
        yield _section(
            f"block, {name}",
            f"merging of {shape} beside a block, forward and backward",
            "one transformer block on all tokens",
            variants,
            {},
            shape,
        )


def _by_block(block: EncoderBlock) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, size: block(TokenBatch(x, size, 1), False).x


def merged_step(quick: bool) -> Iterator[Section]:
    """A training step with merged tokens over one whose tokens are cut off, which costs nothing."""
    side, width, depth, batch = (32, 32, 1, 2) if quick else (224, 384, 4, 4)
    shape = Shape(batch, (side // 16) ** 2 + 1, width, *((2, 2, False) if quick else (15, 60)))
    generator = torch.Generator().manual_seed(1)
    x = placed(torch.randn(batch, 3, side, side, generator=generator))
    y = placed(torch.randint(10, (batch,), generator=generator))
    for ratio, speed in STEP_GOALS.items():
        merged = _tome(ratio)
        cut = Slice(merged.output_tokens(shape.tokens - 1))
        makes = {"cut": cut, AGAIN: cut, "merged": merged, "dense": None}
        variants = {n: _training(side, width, depth, c, x, y) for n, c in makes.items()}
        yield _section(
            f"step, ratio {ratio:g}",
            f"training step of a ViT {width}x{depth}, {side} px, patch 16, batch {batch}, AdamW",
            f"the same with {cut.left} of {shape.tokens - 1} tokens, the rest cut off for free",
            variants,
            {"merged": 1 / speed},
            shape,
            f"the goal is a speed of {speed:g} of the baseline's",
        )


def _training(
    side: int, width: int, depth: int, compress: DataCompressor | None, x: Tensor, y: Tensor
) -> Variant:
    torch.manual_seed(0)
    config = ViTConfig(
        name="vit", patch_size=16, embed_dim=width, depth=depth, heads=max(1, width // 64)
    )
    model = config.build(DataSpec(channels=3, height=side, width=side, classes=10))
    if compress is not None:
        attach(model, "tokens", compress, (3, side, side))
    model = placed(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def work() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimizer.step()

    return timed(work)


def _section(
    name: str,
    title: str,
    baseline: str,
    variants: Mapping[str, Variant],
    goals: dict[str, float],
    shape: Shape,
    *notes: str,
) -> Section:
    measured = in_turn(variants, shape.least, shape.most)
    return Section(
        name=name,
        title=title,
        baseline=baseline,
        rows=Timed(measured, shape.judged).rows(goals),
        rounds=measured.rounds,
        null=measured.null.error,
        notes=list(notes),
    )


SECTIONS = {"merge": merging, "rounds": rounds, "block": block, "step": merged_step}


def bench_tokens(only: Sequence[str] = (), *, quick: bool = False) -> Iterator[Section]:
    """Measure one section after the other, on one thread of the CPU; arguments as for masks."""
    with one_thread():
        for name in only or SECTIONS:
            yield from SECTIONS[name](quick)
