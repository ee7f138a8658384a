"""Which component a name stands for, and what to say where it stands for none or for two."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prunekit.components.installed import Component
from prunekit.foundation.suggestions import did_you_mean


class UnknownNameError(ValueError):
    """No component has this name."""


class AmbiguousNameError(ValueError):
    """Two distributions give components of this name."""


def usable_names(known: Sequence[Component]) -> list[str]:
    """The name under which each component can be had, with its distribution where it must."""
    return [c.name if resolve_all(c.name, known) == [c] else c.qualified for c in known]


def resolve_all(name: str, known: Sequence[Component]) -> list[Component]:
    """The components that `name` may stand for: one, unless it is unknown or ambiguous.

    A built-in wins over third parties. `distribution:name` is exact; else what follows a colon is a
    variant, as in `torchvision:vit_b_16`.
    """
    same = [c for c in known if c.name == name]
    found = [c for c in same if c.builtin] or same or [c for c in known if c.qualified == name]
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
        both = " and ".join(f"{c.distribution} {c.version} ({c.value})" for c in found)
        remedy = " or ".join(repr(q) for q in dict.fromkeys(c.qualified for c in found))
        raise AmbiguousNameError(f"{kind} {name!r} is given by {both}: write {remedy}")
    return found[0]


def explain_unknown(
    name: str, kind: str, names: Sequence[str], failed: Collection[str], other_kinds: Sequence[str]
) -> str:
    """Why a name is unknown, what is near, and what is known.

    Args:
        name: the unknown name.
        kind: what was asked for.
        names: the known names of this kind.
        failed: those that could not be imported when they were tried.
        other_kinds: kinds that do have a component of this name.
    """
    hint = f", it is a {other_kinds[0]}" if other_kinds else ""
    known = ", ".join(f"{n} (cannot be imported)" if n in failed else n for n in names)
    near = did_you_mean(name, names)
    return f"no {kind} is called {name!r}{hint}.{near} Known: {known or 'none'}"
