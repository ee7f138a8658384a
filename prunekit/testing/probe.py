"""What must hold of a probe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prunekit.pruning.probes.base import Probe
from prunekit.registry.configs import ProbeConfig
from prunekit.testing import looks
from prunekit.testing.fault import ConformanceError, faults_of, report
from prunekit.testing.models import SMALL_MODELS, SmallModel
from prunekit.testing.search import failure, smallest_failure, trials
from prunekit.testing.settings import checked_settings
from prunekit.testing.snapshot import through_a_file
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

    And that a run which is saved and continued tells the same as one that never stopped.

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

    def make(case: Trial, **more: Any) -> Training:
        with faults_of("the constructor"):
            probe = cls(settings)
        return Training(case, models[case.model], [], probes=[probe], **more)

    def run(case: Trial) -> None:
        whole, stopped = make(case), make(case)
        watch = Watch(whole.pruner.probes[0], whole)
        watch.put_pure("due", looks.at_due)
        watch.put("observe", looks.at_metrics)
        whole.start()
        stopped.start()
        told = _told(whole, sum(case.phases))
        _told(stopped, case.stop)
        state = through_a_file(stopped.saved(), "the saved run")
        again = make(case, anchor=state["anchor"])
        with faults_of("load_state_dict"):
            again.load(state)
        if _told(again, sum(case.phases)) != told[case.stop :]:
            raise ConformanceError(
                f"a run that was saved after step {case.stop} and continued tells something else: "
                "state_dict() must hold what observe remembers"
            )

    def find() -> tuple[Trial, ConformanceError] | None:
        if trial is not None:
            return failure(run, trial)
        share = math.ceil(examples / len(models))
        searches = (smallest_failure(run, trials(name), share) for name in models)
        return next((found for found in searches if found is not None), None)

    report("probe", cls, settings, find)


def _told(training: Training, until: int) -> list[dict[str, float]]:
    """Train to a step; what the probe said at each."""
    told = []
    for step in range(training.pruner.step, until):
        training.advance(step + 1)
        told.append(training.pruner.observed)
    return told
