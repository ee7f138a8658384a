"""A recipe: everything that a run depends on, as one frozen value. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from ruamel.yaml import YAML

from prunekit.errors import PluginError, RecipeError
from prunekit.foundation.timeline import Duration, duration
from prunekit.foundation.values import ComponentConfig, Frozen, as_values
from prunekit.reading.conflicts import conflicts
from prunekit.reading.document import Document, Fault, dotted
from prunekit.reading.faults import faults_in
from prunekit.reading.files import as_lines, read_text, read_text_document
from prunekit.reading.overrides import apply_overrides
from prunekit.reading.scalars import kind_of
from prunekit.recipe_names import find_recipe
from prunekit.recipe_parts import (
    AdamWConfig,
    CheckpointConfig,
    EMAConfig,
    EvaluateConfig,
    LoggingConfig,
    Name,
    OptimizerConfig,
    Phase,
    SGDConfig,
)
from prunekit.registry import COMPRESSORS, DATASETS, MODELS, PROBES, STRATEGIES

if TYPE_CHECKING:
    from prunekit.compressors.base import CompressorConfig
    from prunekit.data.base import DatasetConfig
    from prunekit.models.base import ModelConfig
    from prunekit.probes.base import ProbeConfig
    from prunekit.strategies.base import StrategyConfig
else:  # these import torch; the registry checks that a config is of its kind
    CompressorConfig = DatasetConfig = ModelConfig = ProbeConfig = StrategyConfig = ComponentConfig

__all__ = [
    "AdamWConfig",
    "CheckpointConfig",
    "EMAConfig",
    "EvaluateConfig",
    "LoggingConfig",
    "OptimizerConfig",
    "Phase",
    "Recipe",
    "SGDConfig",
    "document_from_text",
    "dump_yaml",
    "json_schema",
    "load_recipe",
    "recipe_from",
    "recipe_from_document",
    "recipe_from_text",
    "recipe_hash",
    "yaml_text",
]

AnyDataset = Annotated[SerializeAsAny[DatasetConfig], BeforeValidator(DATASETS.parse_in_recipe)]
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(MODELS.parse_in_recipe)]
AnyCompressor = Annotated[
    SerializeAsAny[CompressorConfig], BeforeValidator(COMPRESSORS.parse_in_recipe)
]
AnyStrategy = Annotated[SerializeAsAny[StrategyConfig], BeforeValidator(STRATEGIES.parse_in_recipe)]
AnyProbe = Annotated[SerializeAsAny[ProbeConfig], BeforeValidator(PROBES.parse_in_recipe)]

NOT_HASHED = ("name", "logging", "checkpoint", "probes")
"""Keys that cannot change the result: what it is called, and what watches or saves it."""
NOT_HASHED_DATA = ("root", "download")
"""Where the same data comes from."""


class Recipe(Frozen):
    """One experiment: data, model, how it is compressed and pruned, how it is trained."""

    name: Name
    """What the experiment is called; names its folder under `runs`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Every random draw is a function of it."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What forward and backward compute in; weights and optimizer state stay in fp32."""
    compile: bool = False
    """Whether the training step goes through `torch.compile`."""
    threads: int = Field(default=1, ge=1)
    """CPU threads a process; another number gives other last bits."""
    ema: EMAConfig | None = None
    """A moving average of the weights that is evaluated in their place; null = none."""
    data: AnyDataset = Field(examples=[{"name": "digits"}])
    """What is learned from, and how batches are made of it."""
    model: AnyModel = Field(examples=[{"name": "vit", "patch_size": 2}])
    """What is trained; it takes channels, classes and image size from the data."""
    compressors: tuple[AnyCompressor, ...] = ()
    """What shortens the token sequence, one a slot."""
    strategies: tuple[AnyStrategy, ...] = ()
    """What prunes the weights, each in a scope of its own; none = the dense baseline."""
    probes: tuple[AnyProbe, ...] = ()
    """What watches gradients and changes nothing."""
    optimizer: OptimizerConfig = Field(examples=[{"name": "adamw", "lr": 1e-3}])
    """What moves the weights."""
    anchor: Duration = duration("0st")
    """The step to whose weights a phase with `start: anchor` rewinds; `%` of the whole run."""
    phases: tuple[Phase, ...] = Field(
        min_length=1, examples=[[{"name": "train", "length": "10ep"}]]
    )
    """The spans of training, one after the other."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """When accuracy is measured."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When a checkpoint is written."""
    logging: LoggingConfig = LoggingConfig()
    """When scalars and histograms are written."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        found = [
            InitErrorDetails(
                type=PydanticCustomError("conflict", "{what}", {"what": what}), loc=path, input=None
            )
            for path, what in conflicts(self)
        ]
        if found:
            raise ValidationError.from_exception_data("Recipe", found, hide_input=True)
        return self


def load_recipe(path: str | FilePath, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file; a str may also be the name of a recipe of prunekit or of a plugin.
        overrides: `key.path=value`, such as `strategies.0.sparsity=0.8`, applied in this order
            before anything is checked.

    Raises:
        RecipeError: everything that is wrong, one a line: `file:line:column path: what`.
        PluginError: a component that it names cannot be imported.
        UsageError: a str is neither a file nor the name of a recipe.
    """
    file = find_recipe(path) if isinstance(path, str) else path
    return recipe_from_text(read_text(file), overrides, source=str(file))


def recipe_from_text(text: str, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
    """Read a recipe from YAML text; `source` stands for the file in errors. See `load_recipe`."""
    return recipe_from_document(document_from_text(text, overrides, source))


def document_from_text(
    text: str, overrides: Sequence[str] = (), source: str = "recipe"
) -> Document:
    """Read the YAML text of a recipe as a mapping with places, nothing in it checked yet.

    Raises:
        RecipeError: it is no YAML, or no mapping.
    """
    document = read_text_document(text, source)
    if not isinstance(document.root, dict):
        got = "empty" if document.root is None else kind_of(document.root)
        what = f"a recipe is a mapping of keys to values, this is {got}"
        raise RecipeError(as_lines([*document.faults, Fault(document.place(()), "", what)]))
    apply_overrides(document, overrides)
    return document


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """Make a recipe of plain values, such as a parsed JSON document. See `load_recipe`."""
    return recipe_from_document(Document(root=dict(tree)))


def recipe_from_document(document: Document) -> Recipe:
    """Check a mapping as it was written, faults found before included. See `load_recipe`."""
    try:
        recipe = Recipe.model_validate(as_values(document.root))
    except ValidationError as error:
        faults = [*document.faults, *faults_in(error, document, Recipe)]
        problems = error.errors()
        if not any(problem["type"] == "conflict" for problem in problems):
            found = conflicts(document.root)
            faults += [Fault(document.place(path), dotted(path), what) for path, what in found]
        for problem in problems:
            if problem["type"] == "plugin":
                raise PluginError(as_lines(faults)) from problem["ctx"]["cause"]
        raise RecipeError(as_lines(faults)) from None
    if document.faults:
        raise RecipeError(as_lines(document.faults))
    return recipe


def dump_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out; `recipe_from_text` reads the same value back."""
    return yaml_text(recipe.model_dump(mode="json"))


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Plain values as YAML in the order of their keys."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = False  # it would write U+0085 in a way that it reads as a space
    yaml.width = 100
    yaml.representer.ignore_aliases = lambda data: True  # they are refused at reading
    text = io.StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


def recipe_hash(recipe: Recipe) -> str:
    """64 hexadecimal digits, equal for recipes that must give the same result.

    The SHA-256 of the recipe with every default written out, as JSON with sorted keys, without
    `NOT_HASHED` and without `NOT_HASHED_DATA` of `data`. Evaluation counts, as it chooses weights
    under `keep: best`; threads, precision, compile and micro_batch count, as they change last bits.
    """
    tree = recipe.model_dump(mode="json", exclude=set(NOT_HASHED))
    for key in NOT_HASHED_DATA:
        tree["data"].pop(key, None)
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of recipes; imports every component, and skips what cannot be."""
    from prunekit.reading.schema import schema_of

    return schema_of(Recipe)
