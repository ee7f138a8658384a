"""Whether a scope holds the head of a classifier, where whole rows are pruned."""

from __future__ import annotations

from prunekit.foundation.warn import LOG
from prunekit.models.classifier import class_rows
from prunekit.pruning.engine import Engine
from prunekit.pruning.structures import Channel
from prunekit.registry.configs import DataSpec


def tell_of_classes(engine: Engine, spec: DataSpec) -> None:
    """Warn of channels that are classes: one that is pruned has the same logit for every image."""
    for index, assigned in enumerate(engine.assigned):
        if not isinstance(getattr(assigned.strategy.config, "structure", None), Channel):
            continue
        alike = [n for n in assigned.scope if engine.params[n].shape[:1] == (spec.classes,)]
        found = class_rows(engine.model, alike, spec)
        if names := ", ".join(name for name in alike if name in found):
            LOG.warning(
                f"strategies.{index}: each channel of {names} is a class, which is lost where it "
                f"is pruned: leave the head out: scope.exclude: [{names}]"
            )
