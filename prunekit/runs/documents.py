"""The shapes of the JSON documents of runs and sweeps: what is read from one has its type.

That of the state in a checkpoint is here too. A folder from anywhere may hold anything. What is
named here is looked at once, when a document is read; what is not named may be there, as versions
before and after have other keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from prunekit.errors import CheckpointError


def _share(value: float) -> float:
    if not (math.isnan(value) or 0 <= value <= 1):
        raise ValueError("must be between 0 and 1")
    return value


def _short(value: Any) -> Any:
    if len(str(value)) > LONGEST:
        raise ValueError(f"must be a number, not {LONGEST} characters or more")
    return value


def _below(path: str) -> str:
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or ":" in path or {"", ".", ".."} & set(parts):
        raise ValueError("must be a path below its folder")
    return path


LONGEST = 100
"""Characters of what is told as it is."""
Share = Annotated[float, AfterValidator(_share)]
"""In [0, 1]; NaN where there is none, which no mean counts."""
Count = Annotated[int, Field(ge=0)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-][0-9A-Za-z._-]{0,63}$")]
"""Names files of its cell."""
Text = Annotated[str, Field(max_length=100_000)]
Relative = Annotated[str, AfterValidator(_below)]
"""A path that leads to nothing above its folder."""


class Document(BaseModel):
    """Of a type where a key is known, and of any where it is not."""

    model_config = ConfigDict(extra="allow", strict=True)


class CodeDocument(Document):
    """The user's own file."""

    name: Text
    sha256: Hex


class EnvironmentDocument(Document):
    """What bit-equality depends on."""

    device: Text | None = None
    device_name: Text | None = None
    world_size: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] | None = None
    versions: dict[str, Text | None] = {}
    plugins: dict[str, Text] = {}
    numerics: dict[str, Any] | None = None


class BegunInDocument(EnvironmentDocument):
    """That in which a run was begun, by however many processes.

    `RunDir.processes` looks at the number: a resume that is told another one does not need it.
    """

    world_size: Annotated[Any, AfterValidator(_short)] = 1


class ManifestDocument(Document):
    """`manifest.json`."""

    recipe_hash: Hex | None = None
    seed: int = 0
    data: Text | None = None
    data_storage: Text | None = None
    data_decoder: Text | None = None
    launch: Text | None = None
    environment: BegunInDocument = BegunInDocument()
    as_before: list[Text] = []
    code: CodeDocument | None = None
    code_before: list[Any] = []


class StatusDocument(Document):
    """`status.json`."""

    status: Literal["running", "done", "stopped", "diverged", "failed"]
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0
    message: Text = ""
    step: Count = 0


class AccuracyDocument(Document):
    """On the test split."""

    test_top1: Share | None = None


class SparsitiesDocument(Document):
    """Shares of weights that are zero."""

    asked: Share | None = None
    target: Share | None = None
    units: Share | None = None
    scope: Share | None = None
    effective: Share | None = None
    model: Share | None = None
    strategies: dict[str, Share | None] = {}


class TokensDocument(Document):
    """Of one image."""

    before: Count | None = None
    after: Count | None = None


class LayerDocument(Document):
    """One parameter that masks reach."""

    name: Text
    entries: Count
    kept: Count
    density: Share


class ReportDocument(Document):
    """`report.json`."""

    status: Text | None = None
    recipe: Text | None = None
    accuracy: AccuracyDocument | None = None
    loss: dict[str, float | None] | None = None
    sparsity: SparsitiesDocument | None = None
    units: dict[str, dict[str, Any]] | None = None
    tokens: TokensDocument | None = None
    macs: dict[str, Count | None] | None = None
    parameters: dict[str, Count | None] | None = None
    latency: dict[str, Any] | None = None
    files: dict[str, Count | None] | None = None
    layers: list[LayerDocument] | None = None
    train: dict[str, float | None] | None = None
    environment: EnvironmentDocument | None = None
    warnings: list[Text] | None = None


class CellDocument(Document):
    """`cells/<key>.json` of a sweep."""

    model_config = ConfigDict(extra="forbid", strict=True)
    status: Literal["done", "failed"]
    run: Relative | None
    error: Text | None = None
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    resumed: bool = False


class PlannedCellDocument(Document):
    """One of the `cells` of a plan."""

    id: Text
    arm: Text
    axes: dict[str, Text]
    also: list[dict[str, Text]]
    key: Key
    needs: dict[str, Text]


class PlanDocument(Document):
    """`plan.json` of a sweep."""

    name: Text
    axes: dict[str, list[Text]]
    arms: list[Text]
    cells: list[PlannedCellDocument]
    code: CodeDocument | None = None


class FirstStateDocument(Document):
    """`state.pt` of the checkpoint of step 0, whose run has nothing else yet."""

    observer: dict[str, Any] | None = None


class StateDocument(Document):
    """`state.pt` of any later one: the parts of a run by name, each of which looks at its own."""

    observer: dict[str, Any]
    pruner: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    ema: dict[str, Any] | None = None
    ema_updates: Count = 0
    best: dict[str, Any] | None
    loss: dict[str, Any] = {}
    images: Count
    passed: Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


SHAPES: Mapping[str, type[Document]] = {
    "manifest.json": ManifestDocument,
    "status.json": StatusDocument,
    "report.json": ReportDocument,
    "plan.json": PlanDocument,
}
"""File -> the shape of what is in it."""


def checked(path: Path, value: Any, shape: type[Document]) -> dict[str, Any]:
    """`value`, which is of that shape.

    Args:
        path: the file that it was read from.
        value: what was in it.
        shape: which one.

    Raises:
        CheckpointError: it is not; says where.
    """
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{path}: corrupt: {where}{': ' if where else ''}{what}") from error
    assert isinstance(value, dict)
    return value
