"""The settings of what moves the weights: AdamW, SGD, and what others have in common.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from prunekit.foundation.parameters import ParamRule, Pattern
from prunekit.foundation.values import ComponentConfig, NewKey


class OptimizerSettings(ComponentConfig):
    """The settings that every optimizer has."""

    name: str
    """Which optimizer."""
    lr: float = Field(gt=0)
    """Learning rate at the top of the phase's learning-rate schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled in adamw, L2 in sgd."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient, after masks; null = no clipping."""
    rules: tuple[ParamRule, ...] = ()
    """Other learning rates and decays by parameter name; the first rule that matches wins."""
    layer_decay: Annotated[float | None, NewKey(3, before=None)] = Field(default=None, gt=0, le=1)
    """Factor on the learning rate from each layer to the one before it; null = all learn alike."""
    freeze: Annotated[tuple[Pattern, ...], NewKey(3, before=[])] = ()
    """Globs on names of parameters that do not learn."""


class AdamWConfig(OptimizerSettings):
    """AdamW (arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """Decay of the running means of the gradient and of its square."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient, after masks; null = no clipping."""


class SGDConfig(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Whether the gradient is taken ahead of the momentum step."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDConfig:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class OtherOptimizer(OptimizerSettings):
    """Any other of torch by its name in small letters (`radam`), or of timm (`timm:lion`).

    Its keys are the arguments of its class, with their defaults; `prunekit run` refuses one that
    cannot hold masks, or does not go on from a checkpoint as if it had never stopped.
    """

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of its class, without the learning rate and the weight decay."""
        own = type(self).model_fields.keys() - OptimizerSettings.model_fields.keys()
        return {key: getattr(self, key) for key in sorted(own)}


OWN: dict[str, type[OptimizerSettings]] = {"adamw": AdamWConfig, "sgd": SGDConfig}
"""Those with settings of their own here."""
