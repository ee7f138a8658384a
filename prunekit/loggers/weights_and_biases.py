"""Weights & Biases, by its own package. Nothing is sent unless `mode` is `online`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from prunekit.errors import RecipeError, UsageError
from prunekit.loggers.base import LoggedRun, Logger
from prunekit.registry.configs import LoggerConfig

BINS = 64


class WeightsAndBiases(Logger):
    """Log to Weights & Biases: scalars, histograms, pictures, recipe, final numbers.

    A resumed run is a W&B run of its own in the same group, as W&B takes no step twice; what the
    first one logged after the checkpoint stays in it.
    """

    class Config(LoggerConfig):
        """Settings of wandb."""

        name: Literal["wandb"]
        project: str = "prunekit"
        """The project at W&B."""
        entity: str | None = None
        """The user or team; null = the one that is logged in."""
        run_name: str | None = None
        """What the run is called there; null = recipe and run directory."""
        mode: Literal["offline", "online"] = "offline"
        """`offline`: into `wandb` beside the run directory, for `wandb sync`; `online`: sent as it
        comes, with the key of `WANDB_API_KEY` or `wandb login`. It never asks for one."""

    config: WeightsAndBiases.Config

    def check(self) -> None:
        """The package is an extra.

        Raises:
            RecipeError: it is not installed, or cannot be imported.
        """
        remedy = "pip install 'prunekit[wandb]'"
        if find_spec("wandb") is None:
            raise RecipeError(f"needs the package wandb: {remedy}")
        try:
            _package()
        except Exception as error:  # whatever an import of others raises
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise RecipeError(f"the package wandb cannot be imported: {told}: {remedy}") from error

    def open(self, run: LoggedRun) -> None:
        """Begin a W&B run."""
        wandb = _package()

        if self.config.mode == "online" and not wandb.api.api_key:
            raise UsageError("no API key: set WANDB_API_KEY, call `wandb login`, or mode: offline")
        self._done = False
        group = f"{run.name}-{run.path.name}"
        name = self.config.run_name or group
        again = run.resume_step is not None and run.resume_step >= 0
        self._run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            name=f"{name} from step {run.resume_step}" if again else name,
            group=group,
            dir=str(run.path.parent),  # it makes links, and a run directory has none
            mode=self.config.mode,
            config=dict(run.recipe),
            reinit="create_new",
            save_code=False,
            settings=wandb.Settings(
                silent=True,
                console="off",  # what the terminal shows stays there
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Under their tags."""
        self._run.log(dict(values), step=step)

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """Counted here; what is not finite is left out."""
        import wandb

        counted = np.histogram(values[np.isfinite(values)], bins=BINS)
        self._run.log({tag: wandb.Histogram(np_histogram=counted)}, step=step)

    def image(self, step: int, tag: str, pixels: np.ndarray) -> None:
        """As PNG."""
        import wandb

        self._run.log({tag: wandb.Image(pixels)}, step=step)

    def finish(self, report: Mapping[str, Any]) -> None:
        """The numbers of the report as the run's summary."""
        parts = ("accuracy", "loss", "sparsity", "tokens", "macs", "parameters", "train")
        self._run.summary.update({key: report[key] for key in parts if key in report})
        self._done = True

    def close(self) -> None:
        """Write what is left; a run that did not finish counts as failed there."""
        self._run.finish(exit_code=0 if self._done else 1)


def _package() -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
    import wandb

    return wandb
