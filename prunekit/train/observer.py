"""What a run tells while it trains: the log, TensorBoard and the display."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

from prunekit.compressors.auxiliary import with_a_loss
from prunekit.foundation.console import console
from prunekit.foundation.tally import Tally
from prunekit.foundation.warn import WarningRelay
from prunekit.loggers.base import LoggedRun
from prunekit.models import token_counts
from prunekit.pruning.sparsity import measure_sparsity, warn_empty_tensors
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.train.build import Run
from prunekit.train.log import RunLog
from prunekit.train.passes import Evaluation
from prunekit.train.progress import Display


class Observer:
    """Counts on the device, and waits for it only when something is due to be logged.

    What is told of new masks was counted as they were decided: it is not waited for again.
    """

    def __init__(self, run: Run, run_dir: Path, resume_step: int | None = None) -> None:
        self.run, self.timeline, self.warnings = run, run.timeline, list[str]()
        self.screen = Display(self.timeline.total_steps, console())  # quiet on all ranks but one
        # step 0 is told anew by a run that begins there again
        last = -1 if resume_step == 0 else resume_step
        told = LoggedRun(run_dir, run.recipe.model_dump(mode="json"), last)
        loggers = run.recipe.loggers
        self.log_to = RunLog(told if run.group.is_main else None, loggers, warn=self.warn)
        total, epoch = self.timeline.total_steps, self.timeline.steps_per_epoch
        logging = run.recipe.logging
        self.every = max(1, logging.every.steps(total, epoch))
        self.histograms = logging.histograms and max(1, logging.histograms.steps(total, epoch))
        self._terms = (
            *(f"compressor/{label}/loss" for label in with_a_loss(run.model)),
            *(f"penalty/{label}" for label in run.engine.penalties.labels),
        )
        self._sums = Tally(3 + len(self._terms), run.group.device)
        self._since = (time.perf_counter(), 0)
        self._listener = WarningRelay(self.warn)
        self._outlooks = run.engine.outlooks()

    def __enter__(self) -> Self:
        """Begin to show."""
        self.screen.__enter__()
        self._listener.listen()
        if self.run.data.pixels.line:
            self.screen.note(self.run.data.pixels.line)
        for note in (*self.run.data.notes, *self.run.notes, *self.run.engine.notes):
            self.warn(note)
        for outlook in self._outlooks:
            self.screen.note(outlook.line())
            for sentence in outlook.warnings():
                self.warn(sentence)
        return self

    def __exit__(self, *reason: object) -> None:
        """Leave the last numbers on the screen, and close the log."""
        self._listener.stop()
        self.screen.__exit__(*reason)
        self.log_to.close()

    def warn(self, text: str) -> None:
        """Show a warning once, and keep it for the report."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.screen.note(f"warning: {text}")

    def begin(self, images: int) -> None:
        """The state before the first step, also after a resume; `images` were seen before."""
        step = self.run.engine.step
        self._since = (time.perf_counter(), images)
        self.run.model.train()
        if step == 0:
            self.log_to.text(0, "recipe", f"```yaml\n{dump_yaml(self.run.recipe)}```")
            if lines := [outlook.line() for outlook in self._outlooks]:
                self.log_to.text(0, "masks", "\n\n".join(lines))
        if counts := token_counts(self.run.model, self.run.data.spec.input_shape):
            tokens = {"tokens/in": counts.before, "tokens/out": counts.after}
            if step == 0:
                self.log_to.scalars(0, tokens)
            self.screen.show(step, tokens)
        self.saw_update()

    def state_dict(self) -> dict[str, Any]:
        """Sums since the last log, over all ranks: each rank must call it. And what was warned."""
        self.share_skipped()
        skipped = self.run.data.pixels.skipped.flags.nonzero().flatten()
        return {
            "sums": self._sums.read(self.run.group.total),
            "warnings": [*self.warnings],
            "lines": self.log_to.written,
            **({"skipped": skipped} if len(skipped) else {}),
        }

    def share_skipped(self) -> None:
        """Every rank learns which images another one passed over: each must call it."""
        skipped, group = self.run.data.pixels.skipped, self.run.group
        if len(skipped.flags) and group.world > 1:
            everywhere = group.total(skipped.flags.int().to(group.device))
            skipped.also(everywhere.cpu().nonzero().flatten())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding; the main rank holds what all had."""
        if "skipped" in state:
            self.run.data.pixels.skipped.also(state["skipped"])
        if self.run.group.is_main:
            self.log_to.keep(state.get("lines"))
            missing = 3 + len(self._terms) - len(state["sums"])  # of an earlier version
            self._sums.set(F.pad(state["sums"], (0, missing)))
            self.warnings = list(dict.fromkeys([*state["warnings"], *self.warnings]))

    def saw_batch(self, sums: Tensor) -> None:
        """A batch was trained on: its share of the mean loss, hits, samples, and of each term."""
        self._sums.add(sums)

    def saw_step(self) -> None:
        """A step was taken: the display moves on, also where logs are far apart."""
        self.screen.show(self.run.engine.step)

    def due(self, step: int) -> bool:
        """Whether to log after this step."""
        return step % self.every == 0 or step == self.timeline.total_steps

    def saw_update(self) -> None:
        """Masks were decided at this step: how far they are, and what changed."""
        engine = self.run.engine
        updated = engine.updated()
        if not updated or not self.run.group.is_main:
            return
        sparsity = measure_sparsity(self.run.model, engine.mask_set.counted())
        values = {f"density/{tensor.name}": tensor.density for tensor in sparsity.tensors}
        values |= {f"flips/{a.label}": sum(a.flips.values()) for a in updated}
        values |= engine.corrections(now=True)
        values["sparsity/achieved"] = sparsity.scope
        if (target := engine.target()) is not None:
            values["sparsity/target"] = target
        self.log_to.scalars(engine.step, values)
        self.screen.show(engine.step, values)
        for sentence in warn_empty_tensors(sparsity):
            if not any(told.endswith(f": {sentence}") for told in self.warnings):
                self.warn(f"step {engine.step}: {sentence}")

    def log(self, images: int, lr: float) -> None:
        """Means since the last time, over all ranks; `images` were trained on so far."""
        engine, ranks = self.run.engine, self.run.group
        loss_sum, correct, count, *terms = self._sums.read(ranks.total).tolist()
        self._sums.clear()
        now, (then, before) = time.perf_counter(), self._since
        steps = count / self.run.recipe.data.batch_size
        values = {
            "train/loss": loss_sum / ranks.world / max(steps, 1e-9),
            "train/accuracy": correct / max(count, 1),
            "train/lr": lr,
            "train/images_per_second": (images - before) / max(now - then, 1e-9),
            **{
                tag: term / ranks.world / max(steps, 1e-9)
                for tag, term in zip(self._terms, terms, strict=True)
            },
            **engine.metrics(),
        }
        self._since = (now, images)
        self.log_to.scalars(engine.step, values)
        self.screen.show(engine.step, values)

    def log_details(self) -> None:
        """What the probes saw, and histograms where they are asked for."""
        engine = self.run.engine
        if engine.observed:
            self.log_to.scalars(engine.step, engine.observed)
        due = self.histograms and engine.step % self.histograms == 0
        if due and self.log_to.takes("histogram"):
            for name, param in engine.params.items():
                self.log_to.histogram(engine.step, f"weights/{name}", param)
                if param.grad is not None:
                    self.log_to.histogram(engine.step, f"gradients/{name}", param.grad)

    def log_evaluation(self, images: int, split: str, found: Evaluation) -> None:
        """An evaluation, after `images` were trained on."""
        step = self.run.engine.step
        values = {f"eval/{split}_top1": found.top1, f"eval/{split}_loss": found.loss}
        self.log_to.scalars(step, values)
        self.screen.show(step, values)
        self._since = (time.perf_counter(), images)
