"""What a stock model does with the tokens behind its slot, found by trying.

On a copy with other weights, as those at the start may be zero and hide what is computed, in
float64 and with one small batch:

- tokens that two images have in common are no patches: they are protected;
- an encoder block must read the others as a set: another order in, the same order out;
- a head must not change where it is given equal tokens merged, by their sizes, or one by one.

What does not pass is refused. Attention between slot and head is left out of the third: without
log(size) on its logits it reads a merged token as one, which is the method of arXiv:2407.16716.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.compressors.base import DataCompressor, Depth, TokenBatch
from prunekit.errors import RecipeError
from prunekit.models.block_trial import tried_seam
from prunekit.models.dry_pass import unseen
from prunekit.models.passage import Passage
from prunekit.models.seams import Seam
from prunekit.models.shaken import shaken
from prunekit.models.stock_slots import StockPlace, put
from prunekit.registry.configs import CompressorConfig

CLOSE = 1e-6
"""Largest difference over the largest value."""
REMEDY = "take the compressor out, or use another model, such as vit"


@dataclass(frozen=True, slots=True)
class TokenUse:
    """How a model uses the tokens of its slot."""

    protected: int
    """Leading tokens that are no patches."""
    patches: int
    """The others, in evaluation."""
    head_reads_patches: bool
    """Whether the head reads more than those."""
    width: int
    """Of a token."""


def try_model(model: nn.Module, place: StockPlace, input_shape: Sequence[int]) -> TokenUse:
    """Find out how a stock model uses the tokens of its slot; the model is not changed.

    Args:
        model: without a compressor, on any device.
        place: its slot.
        input_shape: [C, H, W] of images that it takes.

    Raises:
        RecipeError: blocks or head use them in a way that merging would break; says which.
    """
    who = type(model).__name__
    with unseen():
        try:
            trial = _HeadTrial(model, place, input_shape)
        except Exception as error:  # whatever a third-party module does
            raise _refused(who, f"cannot be tried on {list(input_shape)}", error) from error
        _try_blocks(who, place.blocks, trial.tokens, trial.use.protected)
        if trial.use.head_reads_patches:
            try:
                difference = trial.difference()
            except Exception as error:
                raise _refused(who, "has a head that takes no other tokens", error) from error
            if difference > CLOSE:
                raise _refused(who, "has a head that no sizes of merged tokens can be told to")
    return trial.use


def tried_passage(model: nn.Module, place: StockPlace, input_shape: Sequence[int]) -> Passage:
    """`try_model`, and what its blocks are found to take: for a model without a compressor."""
    use = try_model(model, place, input_shape)
    seams = try_seams(place.blocks, use.width)
    passage = Passage(use.protected, seams, weighs=use.head_reads_patches)
    passage.patches = use.patches
    return passage


def protected_tokens(model: nn.Module, place: StockPlace, input_shape: Sequence[int]) -> int | None:
    """Leading tokens that are no patches; None where the model cannot be tried."""
    with unseen():
        try:
            return _HeadTrial(model, place, input_shape).use.protected
        except Exception:  # whatever a third-party module does
            return None


def try_sizes(model: nn.Module, compressor: DataCompressor, tokens: int) -> None:
    """Look whether the sizes that a compressor gives can be told to a head that reads patches.

    Args:
        model: for the message.
        compressor: it is not changed.
        tokens: how many patches there are.

    Raises:
        RecipeError: sizes that are no whole numbers, or are lost and still differ.
    """
    with unseen():
        for training in (False, True):
            own = copy.deepcopy(compressor).to("cpu").train(training)
            x, attention = torch.randn(2, 1 + tokens, 8), torch.rand(2, 1 + tokens)
            ones = torch.ones(2, 1 + tokens, 1)
            try:
                size = own(TokenBatch(x, ones, 1, x, attention, Depth(0, 1))).size
            except RecipeError:
                raise
            except Exception:  # made for tokens of another width: nothing is known
                return
            lost = not compressor.conserves_mass
            if not torch.equal(size, torch.ones_like(size) if lost else size.round()):
                raise RecipeError(
                    f"slot: {type(model).__name__} reads all tokens in its head, which takes no "
                    f"sizes as {compressor.config.name!r} gives them: use a model with a class "
                    "token"
                )


class _Feed(nn.Module):
    """Stands in the slot, keeps what comes and gives what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.came = torch.empty(0)
        self.gives: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.came = x
        return x if self.gives is None else self.gives


class _Given(DataCompressor):
    """Merges into what it is told."""

    def __init__(self) -> None:
        super().__init__(CompressorConfig(name="given"))
        self.gives: TokenBatch | None = None

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        return tokens if self.gives is None else self.gives

    def output_tokens(self, n: int) -> int:
        return n if self.gives is None else self.gives.x.shape[1] - self.gives.protected


class _HeadTrial:
    """A model without its blocks, whose head is given what one likes.

    Args:
        model: it is not changed.
        place: its slot.
        input_shape: [C, H, W].
    """

    def __init__(self, model: nn.Module, place: StockPlace, input_shape: Sequence[int]) -> None:
        self.feed = _Feed()
        # a list of blocks is walked through, and not called
        none = nn.ModuleList() if isinstance(place.blocks, nn.ModuleList) else nn.Identity()
        memo: dict[int, Any] = {id(place.blocks): none, id(place.module): self.feed}
        self.model = shaken(model, memo).eval()
        self.images = torch.randn(2, *input_shape, dtype=torch.float64)
        self._answer()
        self.tokens = self.feed.came.clone()
        protected = _in_common(self.tokens)
        patches = self.tokens.shape[1] - protected
        self.use = TokenUse(protected, patches, self._reads(protected), self.tokens.shape[2])

    def difference(self) -> float:
        """Between equal tokens one by one, in any order, and merged: over the largest output."""
        use, merged = self.use, _Given()
        put(self.model, "tokens", merged, Passage(use.protected, [], weighs=True))
        prefix = self.tokens[:, : use.protected]
        size = _some_sizes(use.patches)
        values = torch.randn(2, len(size), self.tokens.shape[2], dtype=torch.float64)
        group = torch.arange(len(size)).repeat_interleave(size)
        one_by_one = []
        for order in (group.flip(0), group[torch.randperm(use.patches)]):
            self.feed.gives = torch.cat([prefix, values[:, order]], dim=1)
            one_by_one.append(self._answer())
        sizes = torch.cat([torch.ones(use.protected), size]).float().expand(2, -1).unsqueeze(-1)
        merged.gives = TokenBatch(torch.cat([prefix, values], dim=1), sizes, use.protected)
        return max(_difference(answer, self._answer()) for answer in one_by_one)

    def _reads(self, protected: int) -> bool:
        before = self._answer()
        self.feed.gives = self.tokens.clone()
        self.feed.gives[:, protected:].normal_()
        after, self.feed.gives = self._answer(), None
        return not torch.equal(before, after)

    def _answer(self) -> Tensor:
        logits = self.model(self.images)
        if not isinstance(logits, Tensor) or not logits.isfinite().all():
            raise ValueError("no finite logits")
        return logits


def _try_blocks(who: str, blocks: nn.Module, tokens: Tensor, protected: int) -> None:
    count = 5 if tokens.shape[1] - protected != 5 else 4
    order = torch.cat([torch.arange(protected), protected + torch.randperm(count)])
    x = torch.randn(2, protected + count, tokens.shape[2], dtype=torch.float64)
    for name, block in _different(blocks):
        own = shaken(block, {}).eval()
        try:
            difference = _difference(own(x)[:, order], own(x[:, order]))
        except Exception as error:
            raise _refused(who, f"takes no other tokens in block {name}", error) from error
        if difference > CLOSE:
            raise _refused(who, f"asks in block {name} for the place of a token, lost in merging")


def try_seams(blocks: nn.Module, width: int) -> list[Seam | None]:
    """Of each block, where attention lies behind and the MLP before; None: there is no such place.

    Args:
        blocks: they follow one another.
        width: of a token.
    """

    def differ(first: Tensor, other: Tensor) -> bool:
        return _difference(first, other) > CLOSE

    found: dict[str, Seam | None] = {}
    for _, block in blocks.named_children():
        if (make := _make(block)) not in found:
            with unseen():
                own = shaken(block, {}).eval()
                found[make] = tried_seam(partial(copy.deepcopy, own), width, differ)
    return [found[_make(block)] for block in blocks.children()]


def _different(blocks: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The blocks, one of each make."""
    seen = set()
    for name, block in blocks.named_children():
        if (make := _make(block)) not in seen:
            seen.add(make)
            yield name, block


def _make(block: nn.Module) -> str:
    """Equal for blocks of the same modules, shapes and whole-numbered settings."""
    parts = [
        (path, type(part), sorted((k, repr(v)) for k, v in vars(part).items() if _setting(v)))
        for path, part in block.named_modules()
    ]
    return repr((parts, [(path, tuple(p.shape)) for path, p in block.state_dict().items()]))


def _setting(value: object) -> bool:
    return isinstance(value, int | str | tuple | None)


def _in_common(tokens: Tensor) -> int:
    """How many leading tokens two images have in common, at least one less than all."""
    differ = (tokens[0] != tokens[1]).any(-1)
    leading = int(differ.int().argmax())
    if not differ[leading:].all():
        raise ValueError("tokens behind the first patch do not depend on the image")
    return leading


def _some_sizes(count: int) -> Tensor:
    """Whole numbers 3, 1, 2, 1, 3, ... that add up to `count`."""
    sizes: list[int] = []
    while sum(sizes) < count:
        sizes.append(min((3, 1, 2, 1)[len(sizes) % 4], count - sum(sizes)))
    return torch.tensor(sizes)


def _difference(first: Tensor, other: Tensor) -> float:
    if first.shape != other.shape:
        return torch.inf
    return float((first - other).abs().max() / first.abs().max().clamp_min(1e-30))


def _refused(who: str, what: str, error: Exception | None = None) -> RecipeError:
    reason = f" ({' '.join(str(error).split())[:200]})" if error is not None else ""
    return RecipeError(f"slot: {who} {what}{reason}: {REMEDY}")
