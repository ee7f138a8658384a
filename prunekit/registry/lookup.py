"""Names in a recipe to classes: one path for what is built in and for what others install."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from prunekit.errors import PluginError
from prunekit.registry.installed import (
    Component,
    UnknownNameError,
    explain_unknown,
    import_component,
    import_object,
    installed_components,
    own_version,
    resolve,
    usable_names,
)
from prunekit.registry.source import Description, describe_class, describe_source

if TYPE_CHECKING:
    from pydantic import ValidationInfo

    from prunekit.foundation.values import ComponentConfig


class Registry:
    """The components of one kind.

    A built-in name cannot be taken by a third party: that component, and each of two that share a
    name, is reached as `distribution:name`. A name with a variant, `torchvision:vit_b_16`, resolves
    by the part before the colon.

    Args:
        kind: `strategy`, `compressor`, `model`, `structure`, ..: the word of one.
        base: `module:Class` that the classes inherit from.
        config: `module:Class` that their configs inherit from; the same as `base` where the class
            is its own config.
        builtins: name -> `module:Class`.
        plain: `module:Class` of the settings of plain classes and functions in a file of a user's
            own, with `takes(value)`, `is_meant(value, part)` and `of(value, name)`; None = this
            kind has a base alone.
        among: the registries of all kinds, for the hint that a name is one of another kind.
    """

    def __init__(
        self,
        kind: str,
        base: str,
        config: str,
        builtins: Mapping[str, str],
        *,
        plain: str | None = None,
        among: Mapping[str, Registry] | None = None,
    ) -> None:
        self.kind, self._among = kind, {} if among is None else among
        self._base, self.config, self._builtins, self._plain = base, config, builtins, plain
        self.own: Mapping[Component, Any] = {}
        """What the file of code in use has of this kind, and what it is made of."""
        self._made: dict[tuple[Any, str], tuple[type[Any], type[ComponentConfig]]] = {}
        self._temporary: dict[str, type] = {}
        self._failed: set[str] = set()

    def components(self) -> list[Component]:
        """Everything under this kind, built-ins first. Imports nothing."""
        found = [*self._built_in]
        third = installed_components(tuple(sys.path))
        found += sorted(
            (c for c in third if c.kind == self.kind), key=lambda c: (c.name, c.qualified)
        )
        for name, cls in self._temporary.items():
            value = f"{cls.__module__}:{cls.__qualname__}"
            found.append(Component(self.kind, name, value, "this process", "", False))
        return [*found, *self.own]

    @cached_property
    def _built_in(self) -> list[Component]:
        kind, own = self.kind, own_version()
        return [Component(kind, n, v, "prunekit", own, True) for n, v in self._builtins.items()]

    def names(self) -> list[str]:
        """The names that a recipe may use, with the distribution where it must. Imports nothing."""
        return usable_names(self.components())

    def component(self, name: str) -> Component:
        """What a name stands for. Imports nothing.

        Raises:
            UnknownNameError: nothing has this name; says what is near and what is known.
            AmbiguousNameError: two distributions give it; says which.
        """
        try:
            return resolve(name, self.kind, self.components())
        except UnknownNameError:
            others = [r.kind for r in self._among.values() if r is not self and name in r.names()]
            known = self.components()
            raise UnknownNameError(
                explain_unknown(name, self.kind, known, self._failed, others)
            ) from None

    def load(self, name: str) -> type[Any]:
        """Import the class of this name, and no other.

        Raises:
            UnknownNameError, AmbiguousNameError: see `component`.
            PluginError: the import fails, or the class is not what it must be.
        """
        return self._load(self.component(name))[0]

    def _load(self, component: Component) -> tuple[type[Any], type[ComponentConfig]]:
        try:
            if component in self.own:
                return self._own_class(component, self.own[component])
            cls = self._temporary.get(component.name) or import_component(component)
            config = checked_config(component, cls, self._base, self.config)
            _check_name(component, config)
            return cls, config
        except PluginError:
            self._failed |= {component.name, component.qualified}
            raise

    def _own_class(
        self, component: Component, value: Any
    ) -> tuple[type[Any], type[ComponentConfig]]:
        from prunekit.registry.settings import config_named

        key = value, component.name
        if key in self._made:
            return self._made[key]
        if self.own_name(value) is None:  # a plain one
            cls = config = import_object(str(self._plain)).of(value, component.name)
        else:
            cls = value
            config = checked_config(component, cls, self._base, self.config)
            if config.__module__ != cls.__module__ or _literal(config) != component.name:
                config = config_named(config, component.name, cls.__module__)
            cls = config if self._base == self.config else cls
        return self._made.setdefault(key, (cls, config))

    def own_name(self, value: Any) -> str | None:
        """The name of a class of a user's own; None where it is not of this kind.

        That of its config, else that of the class. A base that others in the file build on is none.
        """
        if not (isinstance(value, type) and issubclass(value, import_object(self._base))):
            return None
        if getattr(value, "__abstractmethods__", ()) and value.__subclasses__():
            return None
        config = value if self._base == self.config else getattr(value, "Config", None)
        own = getattr(config, "__module__", None) == value.__module__
        return (_literal(config) if own else None) or value.__name__

    def plain_name(self, value: Any) -> str | None:
        """The name of a plain class or function; None where this kind takes none such."""
        if self._plain is None or not import_object(self._plain).takes(value):
            return None
        return str(value.__name__)

    def is_meant(self, value: Any, part: bool) -> bool:
        """Whether a plain class or function of this kind is one that a recipe would name.

        Args:
            value: what `plain_name` has a name for.
            part: whether another class or function of its file uses it.
        """
        return bool(import_object(str(self._plain)).is_meant(value, part))

    def config_class(self, name: str) -> type[ComponentConfig]:
        """The settings of a component: its nested `Config`, or the class where it is its own.

        Under a name with its distribution: the same settings, allowing that name.

        Raises:
            UnknownNameError, AmbiguousNameError, PluginError: see `load`.
        """
        component = self.component(name)
        config = self._load(component)[1]
        if name != component.qualified:
            return config

        from prunekit.registry.settings import config_named

        return config_named(config, name)

    def parse(self, value: Any, as_of: int | None = None) -> ComponentConfig:
        """Turn `{"name": ..., **settings}`, or only a name, into the config of that component.

        Args:
            value: as a recipe has it.
            as_of: an earlier format of that recipe; None = that of this version.

        Raises:
            ValidationError: the settings or the name are not valid; paths begin at `value`.
            PluginError: the component cannot be imported, or fails while it reads its settings.
        """
        from prunekit.registry.settings import parse_settings

        return parse_settings(self, value, as_of)

    def parse_in_recipe(self, value: Any, info: ValidationInfo) -> ComponentConfig:
        """`parse` as a field's validator: a PluginError becomes an error that has a place."""
        from prunekit.registry.settings import parse_with_place

        return parse_with_place(self, value, (info.context or {}).get("as_of"))

    def create(self, config: ComponentConfig) -> Any:
        """The component with these settings: of a strategy, compressor, probe, loss or logger."""
        return self.load(config.name)(config)

    def describe(self, name: str) -> Description:
        """Summary and paper of a component, from its source, without importing it."""
        component = self.component(name)
        if component in self.own:
            return describe_class(self.own[component])
        if component.name in self._temporary:
            return describe_class(self._temporary[component.name])
        return describe_source(component.value)

    @contextmanager
    def temporarily(self, name: str, cls: type[Any]) -> Iterator[None]:
        """Give a class a name for the length of a `with`: for tests and notebooks.

        Raises:
            ValueError: the name is taken.
        """
        if any(component.name == name for component in self.components()):
            raise ValueError(f"{self.kind} {name!r} is there already: choose another name")
        self._temporary[name] = cls
        try:
            yield
        finally:
            del self._temporary[name]


def checked_config(
    component: Component, cls: Any, base: str, config_base: str
) -> type[ComponentConfig]:
    """The config class of a component's class.

    Args:
        component: where the class comes from.
        cls: what its import gave.
        base: `module:Class` that it must inherit from.
        config_base: `module:Class` that its `Config` must inherit from; the same as `base` where a
            class is its own config.

    Raises:
        PluginError: another base, an abstract method left, no fitting `Config`.
    """
    ancestor = import_object(base)
    if not (isinstance(cls, type) and issubclass(cls, ancestor)):
        raise PluginError(f"{component}: {component.value} is no {ancestor.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise PluginError(f"{component}: {cls.__name__} does not define {', '.join(missing)}")
    ancestor = import_object(config_base)
    config = cls if base == config_base else getattr(cls, "Config", None)
    if config is None and component.own:  # nothing to set
        config = ancestor
    if not (isinstance(config, type) and issubclass(config, ancestor)):
        raise PluginError(f"{component}: its Config is no {ancestor.__name__}")
    return config


def _check_name(component: Component, config: type[ComponentConfig]) -> None:
    annotation = config.model_fields["name"].annotation
    allowed = get_args(annotation) if get_origin(annotation) is Literal else (component.name,)
    if component.name not in allowed:
        raise PluginError(f"{component}: its config allows only the name {allowed[0]!r}")


def _literal(config: Any) -> str | None:
    """The one name that a class of settings allows, where it says so itself."""

    def names(of: Any) -> tuple[Any, ...]:
        return get_args(of.model_fields["name"].annotation) if hasattr(of, "model_fields") else ()

    bases = [
        base for base in getattr(config, "__mro__", ()) if base.__module__ != config.__module__
    ]
    found = names(config)
    return found[0] if len(found) == 1 and found != names(bases[0] if bases else None) else None
