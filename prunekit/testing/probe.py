"""What must hold of a probe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prunekit.probes.base import Probe, ProbeConfig
from prunekit.testing import looks
from prunekit.testing.fault import ConformanceError, faults_of, report
from prunekit.testing.models import SMALL_MODELS, SmallModel
from prunekit.testing.search import failure, smallest_failure, trials
from prunekit.testing.settings import checked_settings
from prunekit.testing.training import Training
from prunekit.testing.trial import Trial
from prunekit.testing.watch import Watch


def check_probe(
    cls: type[Probe],
    config: ProbeConfig | Mapping[str, Any],
    *,
    models: Mapping[str, SmallModel] = SMALL_MODELS,
    examples: int = 25,
    trial: Trial | None = None,
) -> None:
    """Check that a probe reads and changes nothing, in small training runs on the CPU.

    Args:
        cls: the probe.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        models: what to try it on, simplest first.
        examples: runs to draw, over all models.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: ProbeConfig = checked_settings(cls, config, Probe, ProbeConfig)

    def run(case: Trial) -> None:
        with faults_of("the constructor"):
            probe = cls(settings)
        training = Training(case, models[case.model], [], probes=[probe])
        watch = Watch(probe, training)
        watch.put_pure("due", looks.at_due)
        watch.put("observe", looks.at_metrics)
        training.start()
        training.advance()

    def find() -> tuple[Trial, ConformanceError] | None:
        if trial is not None:
            return failure(run, trial)
        share = math.ceil(examples / len(models))
        searches = (smallest_failure(run, trials(name), share) for name in models)
        return next((found for found in searches if found is not None), None)

    report("probe", cls, settings, find)
