"""Whether a model takes a batch of a size at all: a pass of a copy, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from prunekit.foundation.modules import copy_on

TOO_FEW = "Expected more than 1 "
"""How torch's normalising functions begin what they say of one value."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A layer that does not take a batch."""

    why: str
    """`layer4.0.bn1 (BatchNorm2d) has one value to normalise over`, or what else it said."""
    at_any_size: bool
    """Whether it takes no larger batch either: it is the images that are too small."""


def refusal(
    model: nn.Module,
    input_shape: Sequence[int],
    size: int,
    *,
    training: bool,
    wider: type[nn.Module] | None = None,
) -> Refusal | None:
    """Send a batch without values through a copy: the model and the random state stay as they are.

    None where the model takes it, and where its error has nothing to do with the batch: what else
    is wrong with a model shows elsewhere.

    Args:
        model: the plain module.
        input_shape: [C, H, W].
        size: samples of the batch.
        training: in training mode, else in evaluation.
        wider: a kind of norm that has more values than those of this batch: of other processes.
    """
    for device in ("meta", "cpu"):
        try:
            trial = _Trial(copy_on(model, device), input_shape, training, wider)
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception:  # not every module can be copied
            return None
        error = trial.error(size)
        if error is None:
            return None
        reason, layer = " ".join(str(error).split()), trial.layer
        normalises = reason.startswith(TOO_FEW)
        why = "has one value to normalise over" if normalises else f"does not take it: {reason}"
        # on meta other errors may be those of an operation that needs values
        if normalises or device == "cpu":
            larger = trial.error(size + 1)
            if normalises:
                return Refusal(f"{layer} {why}", str(larger).startswith(TOO_FEW))
            return Refusal(f"{layer} {why}", False) if larger is None else None
    return None


class _Trial:
    """Passes through a copy of a model, on the device that it is on."""

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[int],
        training: bool,
        wider: type[nn.Module] | None,
    ) -> None:
        self.model, self.input_shape, self.layer = model.train(training), input_shape, ""
        for path, module in model.named_modules():
            if wider is not None and isinstance(module, wider):
                module.eval()
            module.register_forward_pre_hook(self._noted(path))

    def _noted(self, path: str) -> Callable[[nn.Module, object], None]:
        def note(module: nn.Module, _: object) -> None:
            self.layer = f"{path} ({type(module).__name__})" if path else type(module).__name__

        return note

    def error(self, size: int) -> Exception | None:
        """What goes wrong in the loss of a batch of this size."""
        like = next(iter(self.model.parameters()), torch.zeros(()))
        x = torch.zeros(size, *self.input_shape, dtype=like.dtype, device=like.device)
        y = torch.zeros(size, dtype=torch.int64, device=like.device)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                logits = self.model(x)
                # a distilled model may give those of both heads
                logits = logits[0] if isinstance(logits, tuple) else logits
                F.cross_entropy(logits.float(), y)
        except Exception as error:  # a module of anybody's may raise anything
            return error
        return None
