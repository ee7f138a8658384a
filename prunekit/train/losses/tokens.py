"""The tokens behind a layer of two models, as their forward passes leave them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.compressors.base import TokenBatch
from prunekit.errors import RecipeError
from prunekit.foundation.modules import one_forward
from prunekit.foundation.suggestions import did_you_mean
from prunekit.train.losses.base import LossSetting


class Kept:
    """A forward hook that keeps what came out; a copy of the model has one of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tokens: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep it as tokens."""
        self.tokens = as_tokens(output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return Kept(self.name)

    def taken(self) -> Tensor:
        """The tokens of the last pass, [B, N, C].

        Raises:
            RecipeError: what came out is no sequence of tokens.
        """
        found, self.tokens = self.tokens, None
        if found is None:
            raise RecipeError(
                f"layer: {self.name} gives no tokens [B, N, C] and no map [B, C, H, W]: choose a "
                "layer such as blocks.3"
            )
        return found


def as_tokens(output: Any) -> Tensor | None:
    """[B, N, C] of tokens, or of the places of a map [B, C, H, W]; None of anything else."""
    if isinstance(output, TokenBatch):
        output = output.x
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4:
        return output.flatten(2).transpose(1, 2)
    return output if output.ndim == 3 else None


class TokenPair:
    """A layer of the student and one of the teacher, watched from here on.

    Args:
        student: the plain module.
        layer: the name of a module of it.
        teacher: another model.
        teacher_layer: the name of a module of that.
    """

    def __init__(
        self, student: nn.Module, layer: str, teacher: nn.Module, teacher_layer: str
    ) -> None:
        self.models = student, teacher
        self.kept = Kept(layer), Kept(teacher_layer)
        keys = "layer", "teacher_layer"
        modules = [_module(*each) for each in zip(self.models, keys, self.kept, strict=True)]
        self._handles = [
            module.register_forward_hook(kept)
            for module, kept in zip(modules, self.kept, strict=True)
        ]

    def try_out(self, of: str, setting: LossSetting) -> None:
        """Compare the two once, on an image of zeros.

        Raises:
            RecipeError: they cannot be compared.
        """
        image = torch.zeros(1, *setting.spec.input_shape, device=setting.device)
        for model in self.models:
            with one_forward(model):
                model(image)
        self.distance(of)

    def distance(self, of: str) -> Tensor:
        """Of the tokens of the last passes, or of the cosines between them.

        Raises:
            RecipeError: another number of tokens; another width, where the tokens are compared.
        """
        student, teacher = (kept.taken() for kept in self.kept)
        own, other = self.kept[0].name, self.kept[1].name
        if student.shape[1] != teacher.shape[1]:
            raise RecipeError(
                f"layer: {own} has {student.shape[1]} tokens, {other} of the teacher "
                f"{teacher.shape[1]}: choose layers before any compressor, of equal patches"
            )
        if of == "relations":
            return F.mse_loss(_cosines(student), _cosines(teacher))
        if student.shape[2] != teacher.shape[2]:
            raise RecipeError(
                f"layer: {own} has tokens of width {student.shape[2]}, {other} of the teacher "
                f"{teacher.shape[2]}: use `of: relations`, which compares the tokens of an image "
                "with each other"
            )
        return F.mse_loss(_normalised(student), _normalised(teacher))

    def remove(self) -> None:
        """Leave the models as they were."""
        for handle in self._handles:
            handle.remove()


def _module(model: nn.Module, key: str, kept: Kept) -> nn.Module:
    named = dict(model.named_modules())
    if kept.name not in named:
        near = did_you_mean(kept.name, [name for name in named if name])
        raise RecipeError(f"{key}: no module is called {kept.name!r}.{near}")
    found: nn.Module = named[kept.name]
    return found


def _normalised(tokens: Tensor) -> Tensor:
    tokens = tokens.float()
    return F.layer_norm(tokens, tokens.shape[-1:])


def _cosines(tokens: Tensor) -> Tensor:
    """[B, N, N]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.transpose(1, 2)
