"""What must hold of a compressor on one batch of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from pydantic import ValidationError
from torch import Tensor

from prunekit.compressors.base import (
    READS,
    DataCompressor,
    TokenBatch,
)
from prunekit.errors import RecipeError
from prunekit.foundation.values import as_values
from prunekit.registry.configs import CompressorConfig
from prunekit.testing.cases import TokenTrial, global_noise, switches
from prunekit.testing.faults import ConformanceError, RefusedError, faults_compiled, faults_of
from prunekit.testing.snapshot import bits, difference, leaves, through_a_file
from prunekit.testing.token_losses import check_loss_term, check_same_term
from prunekit.testing.token_values import close, equal, of_each, random_tokens

COUNTS = range(1, 257)
"""Token counts that are asked for."""
TRIED = 24
"""Of those that are taken, how many are tried."""


class Batches:
    """Sends tokens through one compressor."""

    def __init__(self, cls: type[DataCompressor], config: CompressorConfig) -> None:
        self.cls, self.config = cls, config

    def taken(self) -> dict[bool, Sequence[int]]:
        """The counts that the compressor takes, in evaluation and in training.

        Raises:
            ConformanceError: `output_tokens` gives no count, or takes none.
        """
        compressor = self._made(self.config)
        found: dict[bool, Sequence[int]] = {}
        for training in (False, True):
            compressor.train(training)
            counts = [n for n in COUNTS if promised(compressor, n) is not None]
            found[training] = counts[:TRIED]
        if not any(found.values()):
            raise ConformanceError(
                f"output_tokens refuses every count from {COUNTS[0]} to {COUNTS[-1]}"
            )
        return found

    def check(self, trial: TokenTrial) -> None:
        """All properties of one trial.

        Raises:
            ConformanceError: one does not hold.
            RefusedError: the compressor does not take this count.
        """
        compressor = self._made(self.config).to(getattr(torch, trial.dtype)).train(trial.training)
        left = promised(compressor, trial.patches)
        if left is None:
            raise RefusedError(f"output_tokens refuses {trial.patches} tokens")
        check_names(compressor)
        tokens = random_tokens(trial, compressor.reads)
        # a copy, so that what is written into it is found below
        out = forward(compressor, of_each(tokens, Tensor.clone))
        check_output(compressor, tokens, out, left)
        check_gradient(compressor, tokens)
        check_loss_term(compressor, tokens, removes=left < trial.patches)
        check_repeats(compressor, tokens, out)
        check_alone(compressor, tokens, out)
        check_groups(compressor, tokens, out)
        check_meta(compressor, tokens, out)
        self._check_copies(compressor, tokens, out)
        self._check_identity(trial)
        if trial.compiled:
            check_compiled(compressor, tokens, out)

    def _made(self, config: CompressorConfig, noise: int = 0) -> DataCompressor:
        with faults_of("the constructor"), global_noise("constructor", noise):
            return self.cls(config)

    def _check_copies(
        self, compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch
    ) -> None:
        """A model is saved by its state_dict, into a new one."""
        state = through_a_file(compressor.state_dict(), "state_dict()")
        new = self._made(self.config, noise=1).to(tokens.x.dtype).train(compressor.training)
        with faults_of("load_state_dict"):
            new.load_state_dict(state)
        if not equal(out, forward(new, tokens)):
            raise ConformanceError(
                "a new compressor with the same settings and state_dict() gives other tokens: what "
                "it is made of at random must be a parameter or buffer"
            )

    def _check_identity(self, trial: TokenTrial) -> None:
        """Ratio 0 removes nothing and changes nothing."""
        ratios = [key for key in ("ratio", "eval_ratio") if key in type(self.config).model_fields]
        counts = {"r": None} if "r" in type(self.config).model_fields else {}
        settings = self.config.model_dump(mode="json") | dict.fromkeys(ratios, 0.0) | counts
        tree = as_values(settings)
        try:
            config = type(self.config).model_validate(tree)
        except ValidationError:
            return  # ratio 0 is none of its settings
        compressor = self._made(config).to(getattr(torch, trial.dtype)).train(trial.training)
        tokens = random_tokens(trial, compressor.reads)
        if "ratio" in ratios and not equal(tokens, forward(compressor, tokens)):
            raise ConformanceError("ratio 0 is not the identity")


def check_names(compressor: DataCompressor) -> None:
    """It reads what a model may have."""
    with faults_of("reads"):
        unknown = sorted(set(compressor.reads) - READS)
    if unknown:
        raise ConformanceError(f"reads names {unknown}: a model gives {sorted(READS)}")


def check_output(
    compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch, left: int
) -> None:
    """Counts, protected tokens, sizes, dtypes."""
    samples, count, width = tokens.x.shape
    first = tokens.protected
    expected = (samples, first + left, width)
    if out.x.shape != expected or out.size.shape != (*expected[:2], 1):
        raise ConformanceError(
            f"output_tokens({count - first}) is {left}, so x is {expected}; forward gave x "
            f"{tuple(out.x.shape)} and size {tuple(out.size.shape)}"
        )
    if out.x.dtype != tokens.x.dtype or out.size.dtype != tokens.size.dtype:
        raise ConformanceError(
            f"dtypes are not kept: x {tokens.x.dtype} became {out.x.dtype}, size "
            f"{tokens.size.dtype} became {out.size.dtype}"
        )
    prefix = TokenBatch(out.x[:, :first], out.size[:, :first], first)
    if out.protected != first or not equal(
        prefix, TokenBatch(tokens.x[:, :first], tokens.size[:, :first], first)
    ):
        raise ConformanceError(
            f"the {first} protected tokens are not the first ones of the output, unchanged"
        )
    if not torch.isfinite(out.x).all():
        raise ConformanceError("x is not finite")
    if not (out.size > 0).all():
        raise ConformanceError("a size is not positive")
    if compressor.conserves_mass and not close(tokens.size.sum(1), out.size.sum(1)):
        raise ConformanceError(
            f"conserves_mass, but sizes that add up to {tokens.size.sum(1).flatten().tolist()} "
            f"came out as {out.size.sum(1).flatten().tolist()}"
        )


def check_gradient(compressor: DataCompressor, tokens: TokenBatch) -> None:
    """The loss reaches x, and the tokens that came in are left alone."""
    given = of_each(tokens, Tensor.clone)
    x = given.x.requires_grad_()
    out = forward(compressor, given)
    if bits(x) != bits(tokens.x) or any(
        bits(mine) != bits(was) for mine, was in zip(_read(given), _read(tokens), strict=True)
    ):
        raise ConformanceError("forward writes into the tokens that it is given")
    if out.x.requires_grad:
        torch.autograd.backward(out.x.float().square().sum())
    if x.grad is None or not x.grad.any():
        raise ConformanceError("no gradient reaches x")
    if not torch.isfinite(x.grad).all():
        raise ConformanceError("the gradient of x is not finite")


def check_repeats(compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch) -> None:
    """The same seed gives the same; in evaluation any does, and the module is left alone."""
    if not equal(out, forward(compressor, tokens)):
        raise ConformanceError("the same tokens and global random state give other tokens")
    if compressor.training:
        return
    own = copy.deepcopy(compressor)
    state, before = dict(leaves(own.state_dict(), "state_dict()")), switches()
    with faults_of("forward"):
        again, third = own(tokens), own(tokens)
    if changed := difference(before, switches()):
        raise ConformanceError(f"forward in evaluation changes {changed}")
    if not equal(out, again) or not equal(out, third):
        raise ConformanceError("forward in evaluation gives other tokens when it is called again")
    if changed := difference(state, dict(leaves(own.state_dict(), "state_dict()"))):
        raise ConformanceError(f"forward in evaluation changes {changed}")


def check_alone(compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch) -> None:
    """In evaluation a sample does not depend on the batch that it is in."""
    if compressor.training or tokens.x.dtype != torch.float32:
        return  # in bfloat16 near ties are many, and decided by rounding
    for i in range(tokens.x.shape[0]):
        alone = forward(compressor, of_each(tokens, lambda values, i=i: values[i : i + 1]))  # type: ignore[misc]
        if not (close(alone.x, out.x[i : i + 1]) and close(alone.size, out.size[i : i + 1])):
            raise ConformanceError(f"sample {i} gives other tokens alone than in its batch")


def check_groups(compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch) -> None:
    """In evaluation `groups` tells where tokens went, unless it tells nothing."""
    if compressor.training:
        return
    with faults_of("groups"):
        groups = copy.deepcopy(compressor).groups(tokens)
    if groups is None:
        return
    places = out.x.shape[1]
    if groups.dtype != torch.int64 or groups.shape != tokens.x.shape[:2]:
        raise ConformanceError(
            f"groups gave {groups.dtype} {tuple(groups.shape)}, not int64 "
            f"{tuple(tokens.x.shape[:2])}"
        )
    if int(groups.min()) < -1 or int(groups.max()) >= places:
        raise ConformanceError(f"groups gave a place that is not in -1 .. {places - 1}")
    members = torch.nn.functional.one_hot(groups + 1, places + 1)[..., 1:].transpose(1, 2)
    if not bool(members.any(-1).all()):
        raise ConformanceError("groups gave no token to a place that came out")
    if compressor.conserves_mass and not close(members.float() @ tokens.size, out.size):
        raise ConformanceError("the sizes that groups put together are not those that came out")


def check_meta(compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch) -> None:
    """Shapes can be had without data."""
    own = copy.deepcopy(compressor).to("meta")
    with faults_of("on the meta device forward"):
        shapes = own(of_each(tokens, lambda values: values.to("meta")))
    if shapes.x.shape != out.x.shape or shapes.x.device.type != "meta":
        raise ConformanceError(
            f"on the meta device x is {tuple(shapes.x.shape)} on {shapes.x.device.type}, not "
            f"{tuple(out.x.shape)} on meta"
        )


def check_compiled(compressor: DataCompressor, tokens: TokenBatch, out: TokenBatch) -> None:
    """One graph of static shapes, and the same result."""
    own = copy.deepcopy(compressor)
    compiled = torch.compile(own, backend="eager", fullgraph=True, dynamic=False)
    call = "under torch.compile(fullgraph=True) forward"
    with faults_compiled(call), global_noise("forward", 0):
        again = compiled(tokens)
    if not (close(out.x, again.x) and close(out.size, again.size)):
        raise ConformanceError("torch.compile (backend eager) gives other tokens")
    check_same_term(compressor, tokens, own)


def promised(compressor: DataCompressor, n: int) -> int | None:
    """`output_tokens(n)`, None where it refuses.

    Raises:
        ConformanceError: no count, or two answers.
    """
    with faults_of(f"output_tokens({n})"):
        try:
            left, again = compressor.output_tokens(n), compressor.output_tokens(n)
        except RecipeError:
            return None
    if type(left) is not int or not 1 <= left <= n:
        raise ConformanceError(f"output_tokens({n}) is {left!r}, not an int in 1 .. {n}")
    if left != again:
        raise ConformanceError(f"output_tokens({n}) is {left}, and {again} when asked again")
    return left


def _read(tokens: TokenBatch) -> list[Tensor]:
    found = (tokens.size, tokens.keys, tokens.class_attention)
    return [values for values in found if values is not None]


def forward(compressor: DataCompressor, tokens: TokenBatch, noise: int = 0) -> TokenBatch:
    """The result of a copy of the compressor, under the same global random state."""
    own = copy.deepcopy(compressor)
    with faults_of("forward"), global_noise("forward", noise):
        out = own(tokens)
    if not isinstance(out, TokenBatch):
        raise ConformanceError(f"forward returned {type(out).__name__}, not a TokenBatch")
    return out
