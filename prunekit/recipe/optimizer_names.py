"""Names to the settings of optimizers: ours, and any other of torch or timm.

Imports no torch, until another optimizer is named.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationInfo

from prunekit.foundation.values import ComponentConfig
from prunekit.recipe.optimizers import OWN
from prunekit.registry.installed import Component
from prunekit.registry.settings import parse_with_place


class OptimizerNames:
    """Names to settings, as a registry has them."""

    kind = "optimizer"
    config = "prunekit.recipe.optimizers:OptimizerSettings"

    def names(self) -> list[str]:
        """Our own, then those of torch; those of timm are `timm:` and its name."""
        from prunekit.recipe.stock_optimizers import torch_classes

        return [*OWN, *(name for name in torch_classes() if name not in OWN)]

    def config_class(self, name: str) -> type[ComponentConfig]:
        """The settings of an optimizer.

        Raises:
            UnknownNameError: no such optimizer.
        """
        if name in OWN:
            return OWN[name]
        from prunekit.recipe.stock_optimizers import other_config

        return other_config(name)

    def component(self, name: str) -> Component:
        """What a name stands for."""
        return Component(self.kind, name, self.config, "prunekit", "", True)

    def parse_in_recipe(self, value: Any, info: ValidationInfo) -> ComponentConfig:
        """A value of a recipe as settings."""
        return parse_with_place(self, value, (info.context or {}).get("as_of"))


OPTIMIZERS = OptimizerNames()
