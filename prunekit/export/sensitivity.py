"""What each layer of a finished run can lose: one at a time, at several sparsities, untrained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.data import open_dataset
from prunekit.errors import RecipeError, UsageError
from prunekit.export.layer_trials import LayerPoint, LayerTrials, Split
from prunekit.export.served import pass_of
from prunekit.export.subject import MODEL_FILE
from prunekit.foundation.devices import cpu_threads, device_of_run
from prunekit.foundation.numerics import Numerics
from prunekit.models.saved import load_model
from prunekit.recipe.load import dataset_from
from prunekit.registry import STRATEGIES
from prunekit.registry.make import make
from prunekit.runs.directory import open_run

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
ALREADY = 0.01
"""From so many zeros on, as a share, a model counts as pruned."""
SAMPLES = 2000
"""Images an accuracy is measured on, where there are as many."""


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What a layer loses."""

    name: str
    """Of its weight."""
    units: int
    points: tuple[LayerPoint, ...]
    chosen: float
    """The highest sparsity up to which no point is below the tolerance; 0 = none."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """All layers of a run, each pruned alone."""

    source: str
    strategy: str
    structure: str
    split: Split
    samples: int
    top1: float
    """Of the model as it is."""
    loss: float
    tolerance: float
    """Accuracy that a layer may cost, as a share: 0.01 is a point."""
    layers: tuple[LayerSensitivity, ...]
    left_out: Mapping[str, str]
    """Layers that the strategy refuses, and why."""
    zeros: float = 0.0
    """Share of the weights of the layers that is zero before one is pruned, [0, 1]."""

    def document(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "sparsity": self.sparsity, "notes": self.notes}

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the numbers."""
        notes = []
        if self.zeros >= ALREADY:
            notes.append(
                f"{self.source} is pruned: {100 * self.zeros:.1f} % of the weights of these layers "
                "are zero already, and pruning those again costs nothing: choose sparsities from a "
                "dense run"
            )
        if self.tolerance * self.samples < 1 - 1e-9:
            notes.append(
                f"one image of {self.samples:,} is {100 / self.samples:.1f} points, more than the "
                f"tolerance of {100 * self.tolerance:g}, so no image may be lost and chance has a "
                "say: measure on more images (--samples), or choose a higher --tolerance"
            )
        return notes

    @property
    def sparsity(self) -> float:
        """Of all units, at the sparsities that were chosen."""
        total = sum(layer.units for layer in self.layers)
        return sum(layer.units - _kept(layer) for layer in self.layers) / total

    def per_pattern(self) -> dict[str, Any]:
        """A strategy with the chosen sparsities, as a recipe takes it."""
        return {
            "name": self.strategy,
            "sparsity": self.sparsity,
            "structure": self.structure,
            "scope": {"include": [layer.name for layer in self.layers]},
            "distribution": {
                "name": "per_pattern",
                "sparsities": {layer.name: layer.chosen for layer in self.layers},
            },
        }


def _kept(layer: LayerSensitivity) -> int:
    return next((p.kept for p in layer.points if p.sparsity == layer.chosen), layer.units)


def sensitivity(  # noqa: PLR0913 - each is a choice of the caller's
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    sparsities: Sequence[float] = SPARSITIES,
    strategy: str = "magnitude",
    structure: str = "unstructured",
    tolerance: float = 0.01,
    split: Split | None = None,
    samples: int = SAMPLES,
    device: str | None = None,
) -> Sensitivity:
    """Prune one layer at a time of a finished run, without training, and measure what it costs.

    Args:
        source: a run directory, or `runs/<recipe>/latest`.
        overrides: settings of the data, such as `data.root=photos`.
        sparsities: shares of the units of a layer to prune, each in (0, 1).
        strategy: what ranks them: any that prunes without a step.
        structure: `unstructured`, `channel`, `head`, ...
        tolerance: accuracy that a layer may cost, as a share.
        split: what is measured on; None = validation, where the run held some out, else training
            samples: what is chosen from the test split cannot be judged on it.
        samples: images at most.
        device: as a recipe's; None = that of the run, where it is here, else `auto`.

    Raises:
        UsageError: settings that are none, or a strategy that needs training.
        SettingsError: no such strategy, or one without such a structure.
        RecipeError: no such device here.
        CheckpointError: no finished run.
        DataError: its data is not to be had.
    """
    sparsities = _checked(sparsities, tolerance, samples)
    with _trials(source, overrides, split, samples, device) as trial:
        top1, loss = trial.measure()
        tried, left_out = _each_alone(trial, sparsities, strategy, structure)
    return Sensitivity(
        source=str(source),
        strategy=strategy,
        structure=structure,
        split=trial.split,
        samples=trial.count,
        top1=top1,
        loss=loss,
        tolerance=tolerance,
        layers=tuple(_layer(name, at, top1 - tolerance) for name, at in tried.items()),
        left_out=left_out,
        zeros=_zeros(trial.model, [*tried]),
    )


@contextmanager
def _trials(
    source: str | Path,
    overrides: Sequence[str],
    split: Split | None,
    samples: int,
    device: str | None,
) -> Iterator[LayerTrials]:
    """The finished model of a run with the data that its layers are tried on, open inside."""
    run = open_run(source)
    recipe, model = run.recipe(), load_model(run.existing(MODEL_FILE))
    place = device_of_run(recipe.device, device)
    config = dataset_from(recipe.data.model_dump(mode="json"), overrides)
    data = open_dataset(
        config, seed=recipe.seed, device=place, storage=None if overrides else run.storage()
    )
    model.to(place)
    with closing(data), cpu_threads(recipe.threads), Numerics.of(recipe).during():
        own: Split = "validation" if data.validation_size else "train"
        logits = pass_of(model, recipe, data.spec.input_shape, place)
        yield LayerTrials(model, data, split or own, samples, logits)


def _each_alone(
    trial: LayerTrials, sparsities: Sequence[float], strategy: str, structure: str
) -> tuple[dict[str, list[tuple[LayerPoint, int]]], dict[str, str]]:
    """What each layer gives at each sparsity, with its units; of others, why they do not.

    Raises:
        UsageError: none gives anything.
    """
    tried, left_out = dict[str, list[tuple[LayerPoint, int]]](), dict[str, str]()
    for name in _layers(trial.model, strategy, structure):
        try:
            tried[name] = [trial.point(name, s, strategy, structure) for s in sparsities]
        except RecipeError as error:
            left_out[name] = str(error)
    if not tried:
        raise UsageError(f"{strategy} prunes no layer of the run: {next(iter(left_out.values()))}")
    return tried, left_out


def _zeros(model: nn.Module, names: Sequence[str]) -> float:
    """Share of zeros in these parameters."""
    named = dict(model.named_parameters(remove_duplicate=False))
    chosen = [named[name].detach() for name in names]
    total = sum(weight.numel() for weight in chosen)
    return 1 - sum(int(weight.count_nonzero()) for weight in chosen) / total if total else 0.0


def _layer(name: str, tried: Sequence[tuple[LayerPoint, int]], least: float) -> LayerSensitivity:
    """A layer whose points are tried, with the sparsity that leaves an accuracy of `least`."""
    points = tuple(point for point, _ in tried)
    return LayerSensitivity(name, tried[0][1], points, _chosen(points, least))


def _checked(sparsities: Sequence[float], tolerance: float, samples: int) -> list[float]:
    if not sparsities or not all(0 < s < 1 for s in sparsities):
        raise UsageError("sparsities: give numbers between 0 and 1, such as 0.5,0.8,0.9")
    if not 0 <= tolerance <= 1:
        raise UsageError(
            f"tolerance {tolerance:g}: a share of accuracy from 0 to 1: 0.01 is a point"
        )
    if samples < 1:
        raise UsageError(f"samples {samples}: must be at least 1")
    return sorted(set(sparsities))


def _layers(model: nn.Module, strategy: str, structure: str) -> Sequence[str]:
    """The default scope of a strategy.

    Raises:
        UsageError: its method is in the training.
        SettingsError: no such strategy, or it has no such structure.
    """
    made = make(STRATEGIES, strategy, {"sparsity": 0.5})
    if made.needs_steps or made.needs_learning != "never":
        raise UsageError(
            f"strategy {strategy}: needs training: use one that ranks what is there, as magnitude, "
            "lamp or snip"
        )
    made = make(STRATEGIES, strategy, {"sparsity": 0.5, "structure": structure})
    names: Sequence[str] = made.config.scope.select(model, made.default_scope)
    return names


def _chosen(points: Sequence[LayerPoint], least: float) -> float:
    """The highest sparsity before the first point whose accuracy is below `least`."""
    chosen = 0.0
    for point in points:
        if point.top1 < least:
            break
        chosen = point.sparsity
    return chosen
