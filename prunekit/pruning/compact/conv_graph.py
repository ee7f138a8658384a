"""Take empty channels out of any model, by Torch-Pruning's dependency graph.

The graph says what goes with a channel: entries of norms, inputs of the layers that read it, and
the channels that a sum or product joins it with. It takes all of them for empty, and operations
that it does not know for ones that work channel by channel. Neither is believed: a channel goes
only where each layer that reads it reads zeros, and what is left must give the same logits.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import RemovalError, UsageError
from prunekit.foundation.modules import copy_on, one_forward
from prunekit.pruning.compact.channel_groups import (
    ChannelCut,
    ChannelPlan,
    library_fault,
    plan_cuts,
)

IMAGES = 8
"""Random inputs that two models are compared on."""
TOLERANCE = 1e-9
"""Largest difference of two logits, over the largest logit. In float64 sums in another order differ
by some 1e-14; a channel that should have stayed, or left something behind, by far more."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A model without its empty channels, as far as they can go."""

    model: nn.Module
    """A copy; the model that was given where nothing goes."""
    removed: Mapping[str, int]
    """Weight -> output channels that it has lost; also of layers that were not named, whose
    channels nothing reads any more."""
    stayed: Mapping[str, str]
    """Weight that was named -> why some of its empty channels are still there."""


def without_closed(
    model: nn.Module, closed: Mapping[str, Tensor], input_shape: Sequence[int]
) -> Removal:
    """A copy of `model` without empty channels; `model` stays as it is.

    A channel that is summed with others goes only where all of them are empty. Channels of
    convolutions in groups stay (depthwise ones may go), as do those that feed a norm over several
    channels, and those that are outputs of the model.

    Args:
        model: any; its BatchNorms are plain ones. On any device.
        closed: weight of a convolution or linear layer -> int64 numbers of its empty output
            channels: of which row, bias and what norms add behind are 0.
        input_shape: [C, H, W].

    Raises:
        UsageError: Torch-Pruning is not installed.
        RemovalError: the model cannot be followed.
    """
    require_removal()
    named = {name: rows.tolist() for name, rows in closed.items() if len(rows)}
    if not named:
        return Removal(model, {}, {})
    try:
        plan = plan_cuts(model, named, input_shape)
    except Exception as error:  # of a foreign library, on any model
        raise RemovalError(library_fault(error)) from error
    small, kept, failed = _largest(model, plan.cuts, input_shape)
    left = _left(named, kept, plan, failed)
    return Removal(small, _lost(model, small), left)


def require_removal() -> None:
    """See that Torch-Pruning is there.

    Raises:
        UsageError: it is not, or is not made for this PyTorch; with the line that installs it.
    """
    try:
        import torch_pruning  # noqa: F401
    except Exception as error:  # not installed, or not made for this PyTorch
        raise UsageError(
            f"removing channels of such a model needs Torch-Pruning ({library_fault(error)}): "
            "pip install 'prunekit[removal]'"
        ) from error


# ---- the largest part of a plan that leaves the logits as they are


def _largest(
    model: nn.Module, cuts: Sequence[ChannelCut], input_shape: Sequence[int]
) -> tuple[nn.Module, list[ChannelCut], dict[str, str]]:
    """The model without what can go, what that is, and for other weights why it cannot."""
    noise = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, *input_shape, generator=noise, dtype=torch.float64)
    expected = _logits(model, images)
    good, failed = list[ChannelCut](), dict[str, str]()
    small, waiting = model, [list(cuts)] if cuts else []
    while waiting:  # those that fail are halved, so that a few are found in a few tries
        tried = waiting.pop()
        candidate = _without(model, [*good, *tried])
        reason = candidate if isinstance(candidate, str) else _fault(candidate, images, expected)
        if not reason and not isinstance(candidate, str):
            small, good = candidate, [*good, *tried]
        elif len(tried) > 1:
            half = len(tried) // 2
            waiting += [tried[half:], tried[:half]]
        else:
            failed |= dict.fromkeys(tried[0].weights, str(reason))
    return small, good, failed


def _without(model: nn.Module, cuts: Sequence[ChannelCut]) -> nn.Module | str:
    """A copy without these channels; a sentence where it cannot be had."""
    small = copy.deepcopy(model)
    learning = {name: parameter.requires_grad for name, parameter in small.named_parameters()}
    try:
        for place, channels in ChannelCut.together(cuts).items():
            place.prune(small, channels)
    except Exception as error:  # of a foreign library, on any layer
        return library_fault(error)
    for name, parameter in small.named_parameters():
        parameter.requires_grad_(learning.get(name, True)).grad = None
    return small


def _fault(small: nn.Module, images: Tensor, expected: Tensor) -> str:
    try:
        logits = _logits(small, images)
    except Exception as error:  # code that counts on a width
        return f"the model does not run without them ({library_fault(error)})"
    if logits.shape != expected.shape:
        return "they are outputs of the model"
    largest = float(expected.abs().max().clamp_min(1e-30))
    difference = float((logits - expected).abs().max()) / largest
    if difference <= TOLERANCE:
        return ""
    return (
        f"without them the logits differ by {difference:.2g} of the largest, in float64, where at "
        f"most {TOLERANCE:g} is rounding"
    )


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    own = copy_on(model, "cpu").double()
    with one_forward(own):
        logits: Tensor = own(images)
    return logits


# ---- what is told


def _lost(model: nn.Module, small: nn.Module) -> dict[str, int]:
    """Weight -> output channels that it has fewer; a transposed one has them in its second axis."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            after: Any = small.get_submodule(path)
            counts = [m.out_features if isinstance(m, nn.Linear) else m.out_channels
                      for m in (module, after)]  # fmt: skip
            if counts[0] != counts[1]:
                found[f"{path}.weight"] = counts[0] - counts[1]
    return found


def _left(
    named: Mapping[str, list[int]],
    cuts: Sequence[ChannelCut],
    plan: ChannelPlan,
    failed: Mapping[str, str],
) -> dict[str, str]:
    gone = {
        f"{place.path}.weight": channels
        for place, channels in ChannelCut.together(cuts).items()
        if place.makes
    }
    left = {}
    for weight, rows in named.items():
        staying = [row for row in rows if row not in gone.get(weight, ())]
        if staying:
            reasons = Counter(plan.reasons.get(weight, {}).get(row, "") for row in staying)
            told = [reason for reason, _ in reasons.most_common() if reason]
            left[weight] = failed.get(weight) or next(iter(told), "what goes with them stays")
    return left
