"""What is installed under a name: found from metadata, imported one at a time, only when asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry.foreign import ForeignCode, reason

if TYPE_CHECKING:
    from importlib.metadata import Distribution

KINDS = {
    "prunekit.strategies": "strategy",
    "prunekit.compressors": "compressor",
    "prunekit.models": "model",
    "prunekit.datasets": "dataset",
    "prunekit.probes": "probe",
    "prunekit.losses": "loss",
    "prunekit.loggers": "logger",
    "prunekit.structures": "structure",
    "prunekit.distributions": "distribution",
    "prunekit.schedules": "schedule",
    "prunekit.recipes": "recipe folder",
}
"""Entry point group -> the kind of its components."""
RECIPES = KINDS["prunekit.recipes"]
OWN_MODULE = "prunekit_code_"
"""How the name of the module begins that a file of a user's own is run as."""


@dataclass(frozen=True, slots=True)
class Component:
    """A name and the class that it stands for, not imported yet."""

    kind: str
    name: str
    value: str
    """`module:Class`; of a folder of recipes `package.folder`, of a recipe its file."""
    distribution: str
    version: str
    builtin: bool
    own: bool = False
    """Whether it is of the file of code in use, which is then its distribution."""
    listed: bool = True
    """Whether it is told unasked; a part of others in a file of code is found by its name alone."""

    @property
    def qualified(self) -> str:
        """`distribution:name`, which tells apart two components of one name."""
        return f"{self.distribution}:{self.name}"

    @property
    def origin(self) -> str:
        """Distribution and version."""
        return f"{self.distribution} {self.version}".rstrip()

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.origin}"


@lru_cache(maxsize=1)
def own_version() -> str:
    """The version of the installed prunekit; empty where it runs uninstalled."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        own = distribution("prunekit")
    except PackageNotFoundError:
        return ""
    # the parser of a whole message takes longer than all the rest
    line = re.search(r"^Version: *(\S+)", own.read_text("METADATA") or "", re.MULTILINE)
    return line[1] if line else own.version


@lru_cache(maxsize=1)
def installed_components(search_path: tuple[str, ...]) -> tuple[Component, ...]:
    """The components of third parties, from the metadata of what is installed.

    Args:
        search_path: `sys.path`; the answer is kept until it changes.
    """
    from importlib.metadata import distributions

    found: dict[str, list[Component]] = {}
    for distribution in distributions():
        try:
            components = list(_components_of(distribution))
            # a name is looked for in the whole of its metadata: only where it is needed
            key = re.sub(r"[-_.]+", "-", distribution.name).lower() if components else ""
        except Exception:  # another package's broken metadata must not stop this one
            continue
        if key:  # of two copies on the path Python imports the first
            found.setdefault(key, components)
    return tuple(component for components in found.values() for component in components)


def _components_of(distribution: Distribution) -> Iterator[Component]:
    if "prunekit." not in (distribution.read_text("entry_points.txt") or ""):
        return
    for point in distribution.entry_points:
        if point.group in KINDS:
            yield Component(
                kind=KINDS[point.group],
                name=point.name,
                value=point.value.partition("[")[0].strip(),
                distribution=distribution.name,
                version=distribution.version,
                builtin=False,
            )


def import_object(value: str) -> Any:
    """The object that `module:attribute` names."""
    module, _, attribute = value.partition(":")
    return reduce(getattr, attribute.split("."), import_module(module))


def import_component(component: Component) -> Any:
    """Import what a component names.

    Raises:
        PluginError: its module does anything but import, `sys.exit()` included.
    """
    told = f"{component} ({component.value}) cannot be imported"
    with ForeignCode(lambda error: f"{told}: {reason(error)}"):
        return import_object(component.value)


class UnknownNameError(ValueError):
    """No component has this name."""


class AmbiguousNameError(ValueError):
    """Two distributions give components of this name."""


def usable_names(known: Sequence[Component]) -> list[str]:
    """The name under which each component can be had, with its distribution where it must."""
    told = [c for c in known if c.listed]
    return [c.name if resolve_all(c.name, known) == [c] else c.qualified for c in told]


def resolve_all(name: str, known: Sequence[Component]) -> list[Component]:
    """The components that `name` may stand for: one, unless it is unknown or ambiguous.

    A built-in wins over what is installed. `distribution:name` is exact; else what follows a colon
    is a variant, as in `torchvision:vit_b_16`. A name of the user's own file must be one alone,
    unless it is that of a part of others in it.
    """
    same = [c for c in known if c.name == name]
    same = [c for c in same if c.listed] or same
    first = same if any(c.own for c in same) else [c for c in same if c.builtin]
    found = first or same or [c for c in known if c.qualified == name]
    if found or ":" not in name:
        return found
    return resolve_all(name.partition(":")[0], known)


def claim_refused(component: Component, known: Sequence[Component]) -> str | None:
    """Why a component of a third party does not have its name for itself; None where it does."""
    others = [c for c in known if c.name == component.name and c != component]
    if component.builtin or not others:
        return None
    owner = next((c for c in others if c.builtin), others[0])
    return (
        f"its name {component.name!r} is that of {owner.origin} too: a recipe must write "
        f"{component.qualified!r}"
    )


def resolve(name: str, kind: str, known: Sequence[Component]) -> Component:
    """The one component that `name` stands for.

    Raises:
        AmbiguousNameError: two distributions give it; says which, and what to write.
        UnknownNameError: none does.
    """
    found = resolve_all(name, known)
    if not found:
        raise UnknownNameError(f"no {kind} is called {name!r}")
    if len(found) > 1:
        both = " and ".join(f"{c.origin} ({c.value})" for c in found)
        remedy = " or ".join(repr(q) for q in dict.fromkeys(c.qualified for c in found))
        raise AmbiguousNameError(f"{kind} {name!r} is given by {both}: write {remedy}")
    return found[0]


def explain_unknown(
    name: str, kind: str, known: Sequence[Component], failed: Collection[str], others: Sequence[str]
) -> str:
    """Why a name is unknown, what is near, and what is known.

    Args:
        name: the unknown name.
        kind: what was asked for.
        known: the components of this kind.
        failed: names of those that could not be imported when they were tried.
        others: kinds that do have a component of this name.
    """
    hint = f", it is a {others[0]}" if others else ""
    names = usable_names(known)
    listed = ", ".join(f"{n} (cannot be imported)" if n in failed else n for n in names)
    near = did_you_mean(name, names)
    own = "" if any(c.own for c in known) else ". One of your own: --code FILE (docs/your-own.md)"
    return f"no {kind} is called {name!r}{hint}.{near} Known: {listed or 'none'}{own}"
