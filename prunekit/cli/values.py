"""Values that a key of a recipe takes by name and that are no components, as optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry.installed import UnknownNameError, own_version

if TYPE_CHECKING:
    from pydantic import BaseModel


class ValueKind(NamedTuple):
    """Where the values of a kind stand."""

    singular: str
    key: str
    """Of a recipe."""
    more: str = ""
    """What else the key takes."""


VALUES = {
    "lr_schedules": ValueKind("lr_schedule", "phases.N.lr_schedule"),
    "optimizers": ValueKind(
        "optimizer", "optimizer", "and any other of torch, as radam, or of timm, as timm:lion"
    ),
    "augmentations": ValueKind("augmentation", "data.augment"),
}
"""The word of the command line -> what it is; docs/values.md has them all on one page."""


def value_kind(word: str) -> str | None:
    """The word of `VALUES` that is meant, in the singular as well; None of any other."""
    return next((many for many, kind in VALUES.items() if word in (many, kind.singular)), None)


def value_names(kind: str) -> list[str]:
    """The names of a kind, other optimizers than prunekit's own left out."""
    return [name for name, _ in _forms(kind)]


def kinds_of_value(name: str) -> list[str]:
    """The kinds that have a value of this name."""
    found = [kind for kind in VALUES if name in value_names(kind)]
    return found or (["optimizers"] if _other_optimizer(name) is not None else [])


def value_entry(kind: str, name: str) -> dict[str, Any]:
    """A value as plain values, as a component is told.

    Raises:
        UsageError: the kind has none of this name.
    """
    form = dict(_forms(kind)).get(name)
    if form is None and kind == "optimizers":
        form = _other_optimizer(name)
    if form is None:
        names = value_names(kind)
        near = did_you_mean(name, names)
        raise UsageError(
            f"no {VALUES[kind].singular} is called {name!r}.{near} Known: {', '.join(names)}"
        )
    from prunekit.cli.fields import describe_fields

    return _told(kind, name, form) | {"fields": describe_fields(form)}


def value_entries(kind: str) -> list[dict[str, Any]]:
    """Each value of a kind, without its fields."""
    return [_told(kind, name, form) for name, form in _forms(kind)]


def forms(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes that a value of this type may become."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for member in get_args(annotation):
            yield from forms(member)


def _told(kind: str, name: str, form: type[BaseModel]) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "key": VALUES[kind].key,
        "distribution": "prunekit",
        "version": own_version(),
        "summary": " ".join((form.__doc__ or "").split("\n\n")[0].split()),
        "paper": "",
    }


def _forms(kind: str) -> list[tuple[str, type[BaseModel]]]:
    """Name and settings class of each value; a class with two names comes twice."""
    if kind == "optimizers":
        from prunekit.recipe.optimizers import OWN

        return list(OWN.items())
    from prunekit.cli.fields import is_named

    found: dict[str, type[BaseModel]] = {}
    for form in filter(is_named, forms(_annotation(kind))):
        found |= dict.fromkeys(get_args(form.model_fields["name"].annotation), form)
    return list(found.items())


def _annotation(kind: str) -> Any:
    from prunekit.recipe.schema import Phase
    from prunekit.registry.configs import DatasetConfig

    key = VALUES[kind].key.rpartition(".")[2]
    owners: dict[str, type[BaseModel]] = {"augmentations": DatasetConfig, "lr_schedules": Phase}
    return owners[kind].model_fields[key].rebuild_annotation()


def _other_optimizer(name: str) -> type[BaseModel] | None:
    """One of torch or timm."""
    from prunekit.recipe.stock_optimizers import other_config

    try:
        return other_config(name)
    except UnknownNameError:
        return None
