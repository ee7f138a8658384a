"""What differs between recipes, the seed left out. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from prunekit.errors import CheckpointError
from prunekit.recipe.identity import NOT_HASHED, NOT_HASHED_DATA
from prunekit.report.read import LONGEST, RunRecord, Tree, clean, keys_as_before, read_recipe

Flat = dict[str, Any]
"""Dotted key -> value; lists of plain values are one value."""
ABSENT = "-"
CODE = "code"
"""Stands for the user's own file, which makes another experiment and is no key of a recipe."""
PATH_KEYS = (".source", ".init")
DEEPEST_SOURCE = 5
"""A run that was made from a run that was made from ..."""


def settings(recipe: Tree, without: Collection[str] = (), depth: int = 0) -> Flat:
    """What a result depends on but the seed, flat.

    The path of another run (an optimal sub-network's source) stands for what that run was, so that
    the seeds of one experiment agree.

    Args:
        recipe: a resolved recipe as plain values.
        without: dotted keys to leave out, with all below them; in the recipes of sources as well.
        depth: how many sources led here.
    """
    tree = {key: value for key, value in recipe.items() if key not in (*NOT_HASHED, "seed")}
    if isinstance(data := tree.get("data"), Mapping):
        tree["data"] = _by_name({k: v for k, v in data.items() if k not in NOT_HASHED_DATA})
    flat = _flatten(tree)
    if depth < DEEPEST_SOURCE:
        flat |= {k: _source(v, frozenset(without), depth) for k, v in _paths(flat)}
    return {key: value for key, value in flat.items() if not _is_in(key, without)}


def _by_name(data: Mapping[str, Any]) -> dict[str, Any]:
    """The section with the settings of each augmentation below its name.

    They are done in an order of their own, so that a place in the list says nothing.
    """
    given = data.get("augment")
    if not isinstance(given, list) or not any(isinstance(one, Mapping) for one in given):
        return dict(data)
    named = [one if isinstance(one, Mapping) else {"name": one} for one in given]
    below = {
        f"augment.{one.get('name')}.{key}": value
        for one in named
        for key, value in one.items()
        if key != "name"
    }
    return {**data, "augment": [str(one.get("name")) for one in named], **below}


def _is_in(key: str, keys: Collection[str]) -> bool:
    """Whether a dotted key is one of `keys`, or below one."""
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def settings_of(run: RunRecord, without: Collection[str] = ()) -> Flat:
    """`settings` of a run among those that it is compared with, and the file of code it has."""
    found = settings(run.recipe, {*without, *run.later})
    return found | ({CODE: run.code} if run.code else {})


def value_at(recipe: Tree, key: str, depth: int = 0) -> Any:
    """The value of a dotted key, else that of a run which the recipe takes; None without one."""
    flat = _flatten(recipe)
    if key in flat or depth == DEEPEST_SOURCE:
        return flat.get(key)
    for _, path in _paths(flat):
        with suppress(CheckpointError):
            if (value := value_at(read_recipe(Path(path)), key, depth + 1)) is not None:
                return value
    return None


def _paths(flat: Flat) -> list[tuple[str, str]]:
    """The keys that may hold the path of a run, and their values."""
    return [(k, v) for k, v in flat.items() if k.endswith(PATH_KEYS) and isinstance(v, str)]


def fingerprint(flat: Flat) -> str:
    """Equal for equal settings."""
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def source_of(print_: str) -> str:
    """What stands for a run with this fingerprint."""
    return f"run {print_[:8]}"


@cache
def _source(value: str, without: frozenset[str], depth: int) -> str:
    run = Path(value)
    try:
        found = settings(read_recipe(run), without | keys_as_before(run), depth + 1)
        return source_of(fingerprint(found))
    except (CheckpointError, OSError, ValueError):
        return value


def _flatten(value: Any, prefix: str = "") -> Flat:
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: Flat = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def differing(flats: Sequence[Flat]) -> list[str]:
    """Keys whose value is not the same in all, in the order of the recipe."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({_frozen(flat, key) for flat in flats}) > 1]


def swept_numbers(flats: Sequence[Flat]) -> list[str]:
    """Keys of numbers that are all that two recipes differ in: the axes of a grid."""
    axes: dict[str, None] = {}
    for key in differing(flats):
        if not any(_is_number(flat.get(key)) for flat in flats):
            continue
        rest: dict[str, set[Any]] = {}
        for flat in flats:
            if _is_number(flat.get(key)):
                others = fingerprint({k: v for k, v in flat.items() if k != key})
                rest.setdefault(others, set()).add(flat[key])
        if any(len(values) > 1 for values in rest.values()):
            axes[key] = None
    return list(axes)


def arm_names(flats: Sequence[Flat]) -> list[str]:
    """A name for each of several settings: its strategies, and what else sets it apart."""
    names = [_strategies(flat) for flat in flats]
    for name in [name for name, times in Counter(names).items() if times > 1]:
        same = [i for i, other in enumerate(names) if other == name]
        keys = telling([flats[i] for i in same])
        short = short_keys(keys)
        for i in same:
            told = [_said(key, short[key], flats[i], [flats[j] for j in same]) for key in keys]
            names[i] = " ".join([name, *dict.fromkeys(filter(None, told))])
    return _unique(names)


def _said(key: str, short: str, flat: Flat, others: Sequence[Flat]) -> str:
    """`short=value`; of a key that others lack, the form that this recipe has: a null, or a group.

    Empty where it has none.
    """
    if all(key in other for other in others):
        return f"{short}={value_text(flat[key])}"
    around = [key[:i] for i, letter in enumerate(key) if letter == "."]
    inside = (one for one in flat if one.startswith(f"{key}."))
    forms = (*(one for one in (key, *reversed(around)) if one in flat), *inside)
    if not forms:
        return ""
    return f"{forms[0].removesuffix('.name').removesuffix('.0')}={value_text(flat[forms[0]])}"


def telling(flats: Sequence[Flat]) -> list[str]:
    """Few keys that tell all apart: one after the other the key that splits most."""
    keys, chosen = differing(flats), []
    groups = [""] * len(flats)
    while keys:
        splits = {
            k: [f"{g} {_frozen(flat, k)}" for g, flat in zip(groups, flats, strict=True)]
            for k in keys
        }
        best = max(keys, key=lambda k: len(set(splits[k])))
        if len(set(splits[best])) == len(set(groups)):
            break
        chosen.append(best)
        keys.remove(best)
        groups = splits[best]
    return chosen


def _unique(names: Sequence[str]) -> list[str]:
    """Names cut to a length, and numbered where that makes two equal."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        cut = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
        seen[cut] += 1
        unique.append(cut if seen[cut] == 1 else f"{cut} ({seen[cut]})")
    return unique


def _strategies(flat: Flat) -> str:
    found = [str(v) for k, v in flat.items() if k.startswith("strategies.") and _names(k)]
    return clean(" + ".join(found)) or "dense"


def _names(key: str) -> bool:
    return key.endswith(".name") and key.count(".") == 2


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each key that no other key has and that begins with a word.

    What `strategies.0.schedule.name` names is the schedule.
    """
    ends = {key: _ends(key.removesuffix(".name")) for key in keys}
    shared = Counter(end for of_key in ends.values() for end in of_key)
    return {
        key: next((end for end in of_key if shared[end] == 1), key) for key, of_key in ends.items()
    }


def _ends(key: str) -> list[str]:
    """Ends of a dotted key, the shortest first: `a.0.b` -> `b`, `a.0.b`."""
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()]


def distinctions(flats: Mapping[str, Flat]) -> dict[str, dict[str, str]]:
    """Arm -> dotted key -> value, where it is not what most arms have.

    Without the keys that an arm lacks as it has another component, or none, there.
    """
    keys = differing(list(flats.values()))
    usual = {}
    for key in keys:
        usual[key] = Counter(_frozen(flat, key) for flat in flats.values()).most_common(1)[0][0]
    found = {}
    for arm, flat in flats.items():
        told = {
            key: value_text(flat[key]) if key in flat else ABSENT
            for key in keys
            if _frozen(flat, key) != usual[key]
        }
        found[arm] = {
            key: text for key, text in told.items() if text != ABSENT or not _follows(key, told)
        }
    return found


def _follows(key: str, told: Mapping[str, str]) -> bool:
    """Whether that a key is absent follows from what is told of the component that it is in."""
    parts = key.split(".")
    above = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(one in told or (f"{one}.name" in told and f"{one}.name" != key) for one in above)


def value_text(value: Any) -> str:
    """A value of a recipe, short; a list of words as a recipe has it."""
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return clean(f"[{', '.join(value)}]")
    return clean(value if isinstance(value, str) else json.dumps(value))


def _frozen(flat: Flat, key: str) -> str | None:
    return json.dumps(flat[key], sort_keys=True) if key in flat else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
