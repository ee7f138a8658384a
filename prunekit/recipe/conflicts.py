"""What no single key of a recipe can see: whether its parts fit each other.

Reads a recipe that is valid as well as one as it was written, where any part may be anything; a
part that is not fit to be judged is passed over, as its own error tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from prunekit.errors import PluginError
from prunekit.foundation.plain import KeyPath
from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry import COMPRESSORS, DATASETS, Registry
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError

Conflict = tuple[KeyPath, str]
"""Where, and what is wrong."""


def conflicts(recipe: BaseModel | Mapping[str, Any]) -> Iterator[Conflict]:
    """Find everything that does not fit together."""
    data, phases = _get(recipe, "data"), _items(_get(recipe, "phases"))
    names = [_get(phase, "name") for phase in phases]
    yield from _repeated_phases(names)
    yield from _empty_phases(phases)
    if names and all(isinstance(name, str) for name in names):
        yield from _unknown_phases(_items(_get(recipe, "strategies")), names)
    yield from _shared_slots(_items(_get(recipe, "compressors")))
    if _setting(data, "validation", DATASETS) == 0:
        for i, phase in enumerate(phases):
            if _get(phase, "keep") == "best":
                yield (
                    ("phases", i, "keep"),
                    "'best' needs a validation split: write data.validation, such as 0.1 "
                    "(no model is chosen on the test set)",
                )
    if _get(recipe, "deterministic") is True and _get(recipe, "cudnn_benchmark") is True:
        yield (
            ("cudnn_benchmark",),
            "takes whichever algorithm was fastest this time, so deterministic cannot hold: set "
            "one of them to false",
        )
    micro, batch = _get(data, "micro_batch"), _setting(data, "batch_size", DATASETS)
    if isinstance(micro, int) and isinstance(batch, int) and micro > batch:
        yield ("data", "micro_batch"), f"{micro} is more than batch_size, {batch}"


def _repeated_phases(names: list[Any]) -> Iterator[Conflict]:
    for i, name in enumerate(names):
        if isinstance(name, str) and name in names[:i]:
            yield ("phases", i, "name"), f"a second phase {name!r}: names are unique"


def _empty_phases(phases: list[Any]) -> Iterator[Conflict]:
    """A run without a step is of one phase; between others one would do nothing."""
    alone = len(phases) == 1 and _get(phases[0], "repeat") in (None, 1)
    for i, phase in enumerate(phases):
        length = str(_get(phase, "length"))
        if not alone and re.fullmatch(r"0+(\.0+)?(ep|st)", length):
            what = f"{length} is no step: only a recipe of one phase may train none"
            yield ("phases", i, "length"), what


def _unknown_phases(strategies: list[Any], names: list[str]) -> Iterator[Conflict]:
    for i, strategy in enumerate(strategies):
        for j, phase in enumerate(_items(_get(strategy, "during"))):
            if isinstance(phase, str) and phase not in names:
                near = did_you_mean(phase, names)
                what = (
                    f"no phase is called {phase!r}.{near} Phases: {', '.join(dict.fromkeys(names))}"
                )
                yield ("strategies", i, "during", j), what


def _shared_slots(compressors: list[Any]) -> Iterator[Conflict]:
    taken: dict[str, int] = {}
    for i, compressor in enumerate(compressors):
        slot = _setting(compressor, "slot", COMPRESSORS)
        if isinstance(slot, str) and taken.setdefault(slot, i) != i:
            what = f"slot {slot!r} is taken by compressors.{taken[slot]}"
            yield ("compressors", i, "slot"), what


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _get(part: Any, key: str) -> Any:
    return part.get(key) if isinstance(part, Mapping) else getattr(part, key, None)


def _setting(part: Any, key: str, registry: Registry) -> Any:
    """A setting as written, or the default of that component."""
    name = part if isinstance(part, str) else _get(part, "name")
    if isinstance(part, BaseModel) or (isinstance(part, Mapping) and key in part):
        return _get(part, key)
    try:
        field = registry.config_class(name).model_fields.get(key) if isinstance(name, str) else None
    except (UnknownNameError, AmbiguousNameError, PluginError):
        return None
    return field.default if field else None
