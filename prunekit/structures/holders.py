"""Where a model holds its parameters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Holder(NamedTuple):
    """A parameter, under its first name, and the module that holds it."""

    path: str
    module: nn.Module
    own: str

    @property
    def parameter(self) -> Tensor:
        """The parameter."""
        parameter: Tensor = getattr(self.module, self.own)
        return parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.parameter.shape)


class Holders:
    """The parameters of a model by their first names; a tied one has one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.by_name: dict[str, Holder] = {}
        self._names: dict[int, str] = {}
        for path, module in model.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in self._names:
                    name = f"{path}.{own}" if path else own
                    self._names[id(parameter)] = name
                    self.by_name[name] = Holder(path, module, own)

    def name_of(self, parameter: object) -> str | None:
        """The first name of a parameter; None for what is none."""
        return self._names.get(id(parameter))


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight is [in, out / groups, ..] and not [out, in / groups, ..]."""
    return bool(getattr(module, "transposed", False))
