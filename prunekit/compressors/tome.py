"""Token merging."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from prunekit.compressors.base import KEYS, RatioCompressor, RatioConfig, TokenBatch
from prunekit.compressors.means import (
    Matching,
    SharedMeans,
    Shares,
    means,
    product,
    read_by_numpy,
    step_by_step,
    sums,
)
from prunekit.foundation.values import NewKey

Similarity = Literal["dot", "cosine", "neg_l2"]


class Tome(RatioCompressor):
    """Merge similar tokens, with no parameter and no training of its own.

    Every second token (A) may join the token of the other half (B) that is most like it; the best
    pairs are replaced by their size-weighted mean. One round merges at most n // 2 of n tokens;
    where more must go, the merged sequence is split and matched again. In the slot `tokens` this is
    the single pass before the encoder of arXiv:2407.16716; in `blocks.N` it stands where
    arXiv:2210.09461 has it, and with `metric: keys` compares what that compares.
    """

    class Config(RatioConfig):
        """Settings of token merging."""

        name: Literal["tome"]
        metric: Annotated[Literal["tokens", "keys"], NewKey(3, before="tokens")] = "tokens"
        """What is compared: the tokens, or the keys of the block's attention, their mean over the
        heads, as in arXiv:2210.09461; these only in slots `blocks.N`."""
        similarity: Similarity = "dot"
        """`dot`: a.b, which favours tokens of large norm; `cosine`; `neg_l2`: -|a - b|^2."""
        partition: Literal["patch", "sequence"] = "patch"
        """Whether A is every second unprotected token, or every second token of the whole sequence,
        class token included, as in the code of arXiv:2210.09461. Protected tokens never merge; a
        round removes at most n // 2 either way."""
        proportional_attention: bool = False
        """Whether attention adds log(size) to its logits; needs a model that offers it."""
        deterministic: bool = False
        """Sum in a fixed order on CUDA too; slower."""

    paper = "arXiv:2210.09461 (matching), arXiv:2407.16716 (single pass before the encoder)"
    config: Tome.Config

    @property
    def needs_size_bias(self) -> bool:
        """Whether attention must add log(size) to its logits."""
        return self.config.proportional_attention

    @property
    def reads(self) -> frozenset[str]:
        """The keys, where they are compared."""
        return frozenset({KEYS} if self.config.metric == "keys" else ())

    def rounds(self, n: int) -> tuple[int, ...]:
        """How many tokens each round removes of `n`; empty where nothing is to be done."""
        left, removed = self.output_tokens(n), []
        while n > left:
            removed.append(min(n - left, n // 2))
            n -= removed[-1]
        return tuple(removed)

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """[B, p + n, C] -> [B, p + output_tokens(n), C]; the same object where none is removed."""
        rounds = self.rounds(tokens.x.shape[1] - tokens.protected)
        merged, came = tokens, None
        if len(rounds) > 1 and not step_by_step():  # the last round has gradients
            merged = TokenBatch(tokens.x.detach(), tokens.size, tokens.protected, tokens.keys)
        for later, removed in zip(range(len(rounds) - 1, -1, -1), rounds, strict=True):
            matching = self._match(merged, removed)
            came = matching.rows if came is None else matching.rows.index_select(0, came)
            origin = None if later else (tokens, came)
            keys = self._merged_keys(merged, matching) if later else None
            merged = merge(merged, matching, deterministic=self.config.deterministic, origin=origin)
            merged = merged if keys is None else TokenBatch(*merged, keys)
        return merged

    @torch.no_grad()
    def groups(self, tokens: TokenBatch) -> Tensor:
        """The output slot of each input token over all rounds, int64 [B, N]."""
        samples, count, _ = tokens.x.shape
        group = torch.arange(count, device=tokens.x.device).expand(samples, -1)
        for removed in self.rounds(count - tokens.protected):
            matching = self._match(tokens, removed)
            group = matching.group.gather(1, group)
            keys = self._merged_keys(tokens, matching)
            tokens = merge(tokens, matching, deterministic=self.config.deterministic)
            tokens = TokenBatch(*tokens, keys)
        return group

    @torch.no_grad()
    def _merged_keys(self, tokens: TokenBatch, matching: Matching) -> Tensor | None:
        """What further rounds compare: the size-weighted means of keys."""
        if tokens.keys is None:
            return None
        keys = TokenBatch(tokens.keys, tokens.size, tokens.protected)
        return merge(keys, matching, deterministic=self.config.deterministic).x

    def _match(self, tokens: TokenBatch, removed: int) -> Matching:
        odd = self.config.partition == "sequence" and tokens.protected % 2
        compared = tokens.x if self.config.metric == "tokens" else tokens.keys
        assert compared is not None, "it says that it reads them"
        return match(
            compared,
            removed,
            protected=tokens.protected,
            similarity=self.config.similarity,
            first=1 if odd else 0,
        )


SMALLEST_NORM = 1e-6
"""Norms below this count as this, so that a zero vector has a cosine."""


@torch.no_grad()
def match(
    x: Tensor,
    removed: int,
    *,
    protected: int = 0,
    similarity: Similarity = "dot",
    first: Literal[0, 1] = 0,
) -> Matching:
    """Decide in float32 which tokens merge.

    Equal similarities are settled by position: a source takes the first of its best destinations,
    and of equally good sources the first ones merge. The output holds the protected tokens, what is
    left of A in its order, then B.

    Args:
        x: [B, N, C] tokens.
        removed: sources that merge, in 0 .. (N - protected) // 2.
        protected: leading tokens that stand aside.
        similarity: `dot` a.b, `cosine` a.b / |a||b|, `neg_l2` -|a - b|^2.
        first: where A begins among the tokens that are not protected; it has every second one.
    """
    samples, count = x.shape[:2]
    sources, targets = (x[:, protected + begin :: 2].float() for begin in (first, 1 - first))
    b_begins = protected + sources.shape[1] - removed
    score, target = _best(_scores(sources, targets, similarity), b_begins)
    stays = _staying(score, removed)
    group = torch.zeros(samples, count, dtype=torch.int64, device=x.device)
    left = stays.cumsum(-1, dtype=target.dtype)
    if protected > 1:
        group[:, :protected] = torch.arange(protected, device=x.device)
    if protected != 1:
        left += protected - 1
    group[:, protected + first :: 2] = torch.where(stays, left, target)
    group[:, protected + 1 - first :: 2] = torch.arange(b_begins, count - removed, device=x.device)
    return Matching(group, count - removed)


def _staying(score: Tensor, removed: int) -> Tensor:
    """Bool [B, A]: all but the `removed` highest of each row; of equal ones the first go."""
    if torch.compiler.is_exporting():
        return ranking(score) >= removed
    if removed and read_by_numpy(score):
        # numpy sorts by vectors, but values alone: they tell all unless one that stays equals one
        # that goes
        values = score.numpy()
        stays = values < np.sort(values)[:, -removed, None]
        if np.count_nonzero(stays) == stays.size - removed * len(stays):
            return torch.from_numpy(stays)
    goes = score.argsort(dim=-1, descending=True, stable=True)[:, :removed]
    return torch.ones_like(score, dtype=torch.bool).scatter_(-1, goes, False)


def ranking(score: Tensor) -> Tensor:
    """[B, A] -> int64 [B, A]: each entry's place from the highest down; of equal ones the first."""
    place = torch.arange(score.shape[-1], device=score.device)
    if not torch.compiler.is_exporting():
        # the inverse permutation of a stable sort
        order = score.argsort(dim=-1, descending=True, stable=True)
        return torch.empty_like(order).scatter_(-1, order, place.expand_as(order))
    # ONNX has no stable sort: count those that go before, in A * A comparisons
    other, own = score.unsqueeze(-2), score.unsqueeze(-1)
    before = (other > own) | ((other == own) & (place < place.unsqueeze(-1)))
    return before.sum(-1)


def _best(scores: Tensor, begin: int) -> tuple[Tensor, Tensor]:
    """[B, A, D] -> the highest of each row and its place + `begin`; of equal ones the first.

    Places are whole numbers, of floating point on the CPU, where the scores are written over.
    """
    if scores.device.type != "cpu" or torch.compiler.is_compiling():
        best, place = scores.max(-1)
        return best, place + begin
    # runs by vectors where the sources lie beside each other; `max`, and what makes bools, does not
    best = scores.amax(-1)
    lower = scores.lt_(best.unsqueeze(-1))  # 1, and 0 for what is the highest
    count = scores.shape[-1]
    places = torch.arange(begin, begin + count, dtype=scores.dtype, device=scores.device)
    return best, torch.add(places, lower, alpha=count).amin(-1)


def _scores(a: Tensor, b: Tensor, similarity: Similarity) -> Tensor:
    """[B, A, C] and [B, D, C] -> [B, A, D], held as [B, D, A]."""
    dot = product(b, a.transpose(-2, -1)).transpose(-2, -1)
    if similarity == "cosine":
        length_a, length_b = (
            torch.linalg.vector_norm(t, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
            for t in (a, b)
        )
        cosine: Tensor = dot / length_a / length_b.transpose(-2, -1)
        return cosine
    if similarity == "neg_l2":
        square_a, square_b = (t.square().sum(-1) for t in (a, b))
        return 2 * dot - square_a.unsqueeze(-1) - square_b.unsqueeze(-2)
    return dot


def merge(
    tokens: TokenBatch,
    matching: Matching,
    *,
    deterministic: bool = False,
    origin: tuple[TokenBatch, Tensor] | None = None,
) -> TokenBatch:
    """Replace each group by its size-weighted mean: y_g = sum_i (size_i / size'_g) x_i.

    A token alone in its group keeps its exact value, as its weight is 1. Sums are taken in float32
    at least, in the order of the tokens. Differentiable in x; sizes and groups carry no gradient.

    Args:
        tokens: [B, N, C] and their sizes.
        matching: what `match` gave for them.
        deterministic: sum by a dense product (`bmm`) instead of `index_add`, whose order of
            addition varies on CUDA.
        origin: what earlier rounds made `tokens` of, and the rows where this round puts those;
            gradients go there in one step. None = `tokens` and those of `matching`.
    """
    dtype = torch.promote_types(tokens.x.dtype, torch.float32)
    x, sizes = tokens.x.to(dtype), tokens.size.to(dtype).flatten()
    new_size = sums(sizes, matching, deterministic=deterministic)
    weight = sizes / new_size.index_select(0, matching.rows)
    first, back = x, (weight, matching.rows)
    if origin is not None and origin[0].x is not tokens.x:
        start, came = origin
        first = start.x.to(dtype)
        back = start.size.to(dtype).flatten() / new_size.index_select(0, came), came
    if step_by_step() or not (first.requires_grad and torch.is_grad_enabled()):
        mean = means(x, weight, matching, deterministic=deterministic)
    else:
        shares = Shares(x.detach(), weight, matching, back, deterministic)
        mean = SharedMeans.apply(first, shares)
    return TokenBatch(
        mean.to(tokens.x.dtype),
        new_size.view(x.shape[0], matching.tokens, 1).to(tokens.size.dtype),
        tokens.protected,
    )
