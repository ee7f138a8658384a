"""The JSON Schema of recipes for editors: a union of every component that can be imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from prunekit.errors import PluginError
from prunekit.foundation.values import ComponentConfig
from prunekit.recipe.optimizer_names import OPTIMIZERS
from prunekit.recipe.schema import Recipe
from prunekit.registry import (
    COMPRESSORS,
    DATASETS,
    DISTRIBUTIONS,
    LOGGERS,
    LOSSES,
    MODELS,
    PROBES,
    SCHEDULES,
    STRATEGIES,
    STRUCTURES,
)
from prunekit.registry.values import KIND, Chosen

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest that yaml-language-server documents."""


class Names(Protocol):
    """Names and their settings: a registry, or the optimizers."""

    def names(self) -> list[str]:
        """All of them."""

    def config_class(self, name: str) -> type[ComponentConfig]:
        """The settings of one."""


LISTS: dict[str, Names] = {
    "compressors": COMPRESSORS,
    "strategies": STRATEGIES,
    "probes": PROBES,
    "loggers": LOGGERS,
}
SINGLE: dict[str, Names] = {
    "data": DATASETS,
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
}
NESTED: dict[str, Names] = {
    "structure": STRUCTURES,
    "distribution": DISTRIBUTIONS,
    "schedule": SCHEDULES,
}
"""Of keys inside components."""
OF_TIMM = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^timm:"}},
    "required": ["name", "lr"],
}
"""The optimizers of an extra, whose keys are checked where it is installed."""


class _Generator(GenerateJsonSchema):
    """Writes a default as a recipe does: of itself pydantic takes a duration apart."""

    def encode_default(self, dft: Any) -> Any:
        """The value of a default as JSON has it."""
        if isinstance(dft, list | tuple):
            return [self.encode_default(one) for one in dft]
        if is_dataclass(dft) and not isinstance(dft, type):
            return TypeAdapter(type(dft)).dump_python(dft, mode="json")
        return super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of recipes; imports every component, and skips what cannot be."""

    return schema_of(Recipe)


def schema_of(recipe: type[BaseModel]) -> dict[str, Any]:
    """The schema of `recipe`, its components' own keys included."""
    every = {**LISTS, **SINGLE, **NESTED}
    known = {key: _importable(registry) for key, registry in every.items()}
    configs = {config for found in known.values() for config in found.values()}
    refs, shared = models_json_schema(
        [(model, "validation") for model in (recipe, *sorted(configs, key=repr))],
        ref_template="#/definitions/{model}",
        schema_generator=_Generator,
    )
    definitions = shared["$defs"]
    whole = definitions.pop(refs[recipe, "validation"]["$ref"].rpartition("/")[2])
    for found in known.values():
        for name, config in found.items():
            ref = refs[config, "validation"]["$ref"].rpartition("/")[2]
            _require_name(definitions[ref], name, config)
    unions = {key: _union(found, refs) for key, found in known.items() if key not in NESTED}
    for key, union in unions.items():
        slot = whole["properties"][key]
        whole["properties"][key] = {
            **{k: slot[k] for k in ("title", "description", "default") if k in slot},
            **({"type": "array", "items": union} if key in LISTS else union),
        }
    whole["properties"]["optimizer"]["anyOf"].append(OF_TIMM)
    document = {"$schema": DRAFT, **whole, "definitions": definitions}
    schema: dict[str, Any] = _draft_7(_nested(document, known, refs))
    return schema


def schema_of_sweep(sweep: type[BaseModel]) -> dict[str, Any]:
    """The schema of sweep files; the keys of recipes in them are not checked."""
    whole = sweep.model_json_schema(
        ref_template="#/definitions/{model}", schema_generator=_Generator
    )
    definitions = whole.pop("$defs")
    schema: dict[str, Any] = _draft_7({"$schema": DRAFT, **whole, "definitions": definitions})
    return schema


def _union(found: Mapping[str, type[ComponentConfig]], refs: Mapping[Any, Any]) -> dict[str, Any]:
    """A name alone, or the settings of one; a class with two names stands there once for each."""
    return {"anyOf": [{"enum": list(found)}, *(refs[c, "validation"] for c in found.values())]}


def _nested(
    node: Any, known: Mapping[str, Mapping[str, type[ComponentConfig]]], refs: Mapping[Any, Any]
) -> Any:
    """All that are known put where a component takes another by its name."""
    if isinstance(node, list):
        return [_nested(item, known, refs) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _nested(value, known, refs) for key, value in node.items()}
    if (asked := node.pop(KIND, None)) is not None:
        mark = Chosen(asked["kind"], **asked["only"])
        found = {name: c for name, c in known[mark.kind].items() if mark.takes(c)}
        node |= _union(found, refs)
    return node


def _importable(registry: Names) -> dict[str, type[ComponentConfig]]:
    found = {}
    for name in registry.names():
        try:
            config = registry.config_class(name)
            config.model_json_schema(schema_generator=_Generator)
        except (PluginError, PydanticUserError):
            continue
        found[name] = config
    return found


def _require_name(schema: dict[str, Any], name: str, config: type[ComponentConfig]) -> None:
    """An editor tells the members of the union apart by their names."""
    schema["required"] = ["name", *(k for k in schema.get("required", ()) if k != "name")]
    if get_origin(config.model_fields["name"].annotation) is None:
        schema["properties"]["name"].setdefault("pattern", f"^{name}(:.+)?$")


def _draft_7(node: Any) -> Any:
    """Rewrite what later drafts say otherwise, and allow a name for a value chosen by name."""
    if isinstance(node, list):
        return [_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {"items" if key == "prefixItems" else key: value for key, value in node.items()}
    if "discriminator" in node:
        names = sorted(node.pop("discriminator")["mapping"])
        node["anyOf"] = [{"enum": names}, *node.pop("oneOf")]
    return {key: _draft_7(value) for key, value in node.items()}
