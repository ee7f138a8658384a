"""What a model file from elsewhere may ask for: no more than its own tensors are worth."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter
from torch.utils.weak import WeakTensorKeyDictionary

GREATEST = 2**31
"""Of a whole number in settings."""
LARGEST_SIDE = 2**16
"""Of an image, in pixels."""


def settings_in(text: str) -> dict[str, Any]:
    """What builds a model, of JSON.

    Raises:
        ValueError: no JSON, or numbers that no model has.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its settings are nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("its settings are no keys with values")
    for key, value in _whole_numbers(found, ""):
        if abs(value) > GREATEST:
            raise ValueError(f"{key}: {str(value)[:20]} is beyond {GREATEST}")
    data = found["data"]
    for key in ("channels", "height", "width", "classes"):
        if type(data[key]) is not int or data[key] < 1:
            raise ValueError(f"data.{key}: {str(data[key])[:20]} is no count")
    if max(data["height"], data["width"]) > LARGEST_SIDE:
        raise ValueError(f"images of more than {LARGEST_SIDE} pixels a side")
    return found


def _whole_numbers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield key, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _whole_numbers(one, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for one in value:
            yield from _whole_numbers(one, key)


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts, this thread builds no model that is much larger than these tensors.

    There is room for parameters that are made and replaced, as a first layer for other channels is.

    Raises:
        ValueError: a model became larger: from the line that registers the parameter.
    """
    count, entries = 4 * len(weights) + 64, 8 * sum(t.numel() for t in weights.values()) + 2**20
    seen, builder = [0, 0], threading.get_ident()

    def count_parameter(_module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() != builder or parameter.is_meta:  # which holds nothing
            return
        seen[0] += 1
        seen[1] += parameter.numel()
        if seen[0] > count or seen[1] > entries:
            raise ValueError(f"its settings ask for a larger model than its tensors (at {name})")

    with _told_of_parameters(count_parameter):
        yield


@contextmanager
def without_values(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While it lasts, parameters of models that this thread builds are on the `meta` device.

    For a model that is made smaller before it gets its values: of the larger one no more is held
    than a parameter at a time. Buffers are what they are.

    Raises:
        ValueError: a model has many more parameters than there are tensors: from the line that
            registers one.
    """
    count, builder = 4 * len(weights) + 64, threading.get_ident()
    seen, made = 0, WeakTensorKeyDictionary()

    def without(_module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        nonlocal seen
        if threading.get_ident() != builder or isinstance(parameter, UninitializedParameter):
            return None
        seen += 1
        if seen > count:
            raise ValueError(f"its settings ask for a larger model than its tensors (at {name})")
        if parameter.is_meta:
            return None
        if parameter not in made:  # one that is held in two places stays one
            made[parameter] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        found: nn.Parameter = made[parameter]
        return found

    with _told_of_parameters(without):
        yield


@contextmanager
def _told_of_parameters(hook: Callable[..., nn.Parameter | None]) -> Iterator[None]:
    handle = register_module_parameter_registration_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()
