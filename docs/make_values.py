"""Write `docs/values.md` from the settings classes: `python docs/make_values.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prunekit.cli.fields import describe_fields, group_text
from prunekit.cli.values import forms
from prunekit.foundation.plain import flow
from prunekit.recipe.optimizers import AdamWConfig, OtherOptimizer, SGDConfig
from prunekit.recipe.schema import Phase, Recipe
from prunekit.registry import REGISTRIES, STRATEGIES
from prunekit.registry.configs import DatasetConfig
from prunekit.registry.values import Chosen

PAGE = Path(__file__).parent / "values.md"
HEAD = """# Values in a recipe

What the keys of a [recipe](recipe.md) with several forms take, written by `python docs/make_values.py` from the code.
A name alone, as `schedule: cubic`, stands for `{name: cubic}`. `prunekit show NAME` tells the same of one value, and all
keys of a strategy, compressor, probe, model or data set. In a schedule `u` is the way from `start` to `stop`, from 0 to 1.
"""
GROUPS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("strategies.N.schedule", STRATEGIES.config_class("magnitude"), "schedule"),
    ("strategies.N.cadence", STRATEGIES.config_class("magnitude"), "cadence"),
    ("strategies.N.distribution", STRATEGIES.config_class("magnitude"), "distribution"),
    ("strategies.N.structure", STRATEGIES.config_class("magnitude"), "structure"),
    ("strategies.N.scope", STRATEGIES.config_class("magnitude"), "scope"),
    ("phases.N.lr_schedule", Phase, "lr_schedule"),
    ("data.augment", DatasetConfig, "augment"),
    ("optimizer", Recipe, "optimizer"),
    ("optimizer.rules.N", AdamWConfig, "rules"),
    ("ema", Recipe, "ema"),
)
FORMS: dict[str, tuple[type[BaseModel], ...]] = {
    "optimizer": (AdamWConfig, SGDConfig, OtherOptimizer)
}
"""Of keys whose settings are found by name."""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n## `{title}`\n\n{group(*at)}" for title, *at in GROUPS)


def group(owner: type[BaseModel], key: str) -> str:
    """What one key takes: a form a paragraph, with its keys below."""
    annotation = owner.model_fields[key].rebuild_annotation()
    kind = next((mark.kind for mark in owner.model_fields[key].metadata if is_chosen(mark)), None)
    lines = []
    for form in FORMS.get(key) or dict.fromkeys(built_in(kind) if kind else forms(annotation)):
        summary = " ".join((form.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"**`{group_text(form)}`**: {summary}\n")
        lines += [
            f"- `{field['name']}`{facts(field)}: {field['description']}"
            for field in describe_fields(form)
        ]
        lines += [""] if len(form.model_fields) > ("name" in form.model_fields) else []
    return "\n".join(lines).rstrip("\n") + "\n"


def is_chosen(mark: Any) -> bool:
    """Whether it says that a component is taken by its name."""
    return isinstance(mark, Chosen)


def built_in(kind: str) -> list[type[BaseModel]]:
    """The settings of prunekit's own components of a kind."""
    registry = REGISTRIES[kind]
    return [registry.config_class(c.name) for c in registry.components() if c.builtin]


def facts(field: dict[str, Any]) -> str:
    """Its default, type and bounds."""
    told = "required" if field["required"] else f"default `{flow(field['default'])}`"
    return " (" + ", ".join(filter(None, (told, field["type"], field["bounds"]))) + ")"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
