"""What must hold of the term that a compressor adds to the loss, and of its parameters."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from prunekit.compressors.auxiliary import taken_of
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import PluginError
from prunekit.testing.cases import global_noise
from prunekit.testing.faults import ConformanceError, faults_of
from prunekit.testing.token_values import close, of_each


def check_loss_term(compressor: DataCompressor, tokens: TokenBatch, *, removes: bool) -> None:
    """In training a term for the loss where `adds_loss` says so; every parameter learns.

    Of a parameter without a gradient several processes would wait for ever.
    """
    out, term = with_term(compressor, tokens)
    wanted = type(compressor).adds_loss and compressor.training and removes
    if (term is not None) is not wanted:
        told = "no term" if term is None else "a term"
        raise ConformanceError(
            f"adds_loss is {type(compressor).adds_loss}, and forward in "
            f"{'training' if compressor.training else 'evaluation'} left {told} for the loss: call "
            "add_loss at each pass of training that removes tokens, and only then"
        )
    if term is not None and not torch.isfinite(term):
        raise ConformanceError("the term that forward adds to the loss is not finite")
    if not (compressor.training and removes):
        return
    params = {n: p for n, p in out.of.named_parameters() if p.requires_grad}
    loss = out.tokens.x.float().square().sum() + (0 if term is None else term)
    grads = torch.autograd.grad(loss, [*params.values()], allow_unused=True) if params else ()
    if idle := [name for name, grad in zip(params, grads, strict=True) if grad is None]:
        raise ConformanceError(
            f"no gradient reaches the parameter {idle[0]}: use it in each pass of training, or set "
            "its requires_grad to False"
        )
    if term is not None:
        check_mean(compressor, tokens, term)


def check_mean(compressor: DataCompressor, tokens: TokenBatch, term: Tensor) -> None:
    """The term is a mean over the samples, unless it is random: twice the batch has the same."""
    _, other = with_term(compressor, tokens, noise=1)
    twice = of_each(tokens, lambda values: torch.cat([values, values]))
    _, doubled = with_term(compressor, twice)
    if other is None or doubled is None or not torch.equal(term, other):
        return
    if tokens.x.dtype == torch.float32 and not close(term, doubled):
        raise ConformanceError(
            f"the term for the loss is {term.item():g}, and {doubled.item():g} of a batch that has "
            "each sample twice: give the mean over the samples"
        )


class Passed(NamedTuple):
    """What a copy of a compressor made of tokens."""

    tokens: TokenBatch
    of: DataCompressor


def with_term(
    compressor: DataCompressor, tokens: TokenBatch, noise: int = 0
) -> tuple[Passed, Tensor | None]:
    """`forward`, and the term that it leaves for the loss.

    Raises:
        ConformanceError: it cannot be added to a loss, or the module not be copied with it.
    """
    own = copy.deepcopy(compressor)
    with faults_of("forward"), global_noise("forward", noise):
        out = own(tokens)
    with faults_of("after forward copy.deepcopy"):
        copy.deepcopy(own)
    try:
        term = taken_of(own)
    except PluginError as error:
        raise ConformanceError(str(error)) from error
    if own.take_loss() is not None:
        raise ConformanceError("take_loss gives a term twice")
    return Passed(out, own), term


def check_same_term(
    compressor: DataCompressor, tokens: TokenBatch, compiled: DataCompressor
) -> None:
    """A compressor that ran compiled, on these tokens, leaves the term that it would have."""
    _, term = with_term(compressor, tokens)
    other = taken_of(compiled)
    if term is None and other is None:
        return
    if term is None or other is None or not close(term, other):
        raise ConformanceError("torch.compile (backend eager) leaves another term for the loss")
