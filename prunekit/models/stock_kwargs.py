"""Keyword arguments of stock models: what a recipe may pass on, checked against the signature."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.values import NewKey

DATA = "it comes from the data"
IMAGE_SIZE = "write data.image_size"
INIT = "write model.init"
OF_LOADING = {
    "weights": INIT,
    "progress": INIT,
    "pretrained": INIT,
    "pretrained_cfg": INIT,
    "pretrained_cfg_overlay": INIT,
    "pretrained_strict": INIT,
    "checkpoint_path": INIT,
    "checkpoint": INIT,
    "cache_dir": INIT,
    "model_cfg": INIT,
}
"""What the libraries take beside the arguments of a model; a file from elsewhere may not set it."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"takes text as keys, not {key!r}")
            _plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _plain(inner)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(f"takes plain values, not a {type(value).__name__}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("takes finite numbers")
    return value


Kwargs = Annotated[dict[str, Any], AfterValidator(_plain), NewKey(3, before={})]
"""Plain values by name, passed on to a stock model."""


def check_kwargs(
    kwargs: Mapping[str, Any],
    own: Mapping[str, str],
    create: Callable[[str], nn.Module],
    variant: str,
    name: str,
) -> None:
    """Look whether a stock model takes these keyword arguments.

    Args:
        kwargs: of the recipe.
        own: those that prunekit sets, and what to do instead.
        create: builds a model of its library, without them; called on the meta device.
        variant: the name of the model in its library.
        name: of the model, for the message.

    Raises:
        RecipeError: one that prunekit sets, or that the model does not have.
    """
    if not kwargs:
        return
    for key in kwargs:
        if remedy := {**OF_LOADING, **own}.get(key):
            raise RecipeError(f"model.kwargs.{key}: is set by prunekit: {remedy}")
    found = _class_of(create, variant)
    if found is None:
        return
    taken = inspect.signature(found.__init__).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return
    known = [key for key in taken if key not in ("self", *OF_LOADING, *own)]
    for key in kwargs:
        if key not in known:
            near = did_you_mean(key, known) or f" Known: {', '.join(known)}"
            raise RecipeError(
                f"model.kwargs.{key}: {found.__name__}, the class of {name}, has no such "
                f"argument.{near}"
            )


@lru_cache(maxsize=32)  # a run builds its model several times, each as large as it is published
def _class_of(create: Callable[[str], nn.Module], variant: str) -> type[nn.Module] | None:
    try:
        with torch.device("meta"):
            return type(create(variant))
    except Exception:  # of one that needs values to be built, only building it tells
        return None
