"""From a recipe to a finished run directory: the entry point of `run` and `resume`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from prunekit.errors import CheckpointError, PrunekitError, UsageError, WriteError
from prunekit.foundation.files import lock, write_json
from prunekit.recipe.identity import as_before, recipe_hash
from prunekit.recipe.load import recipe_from_text
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry.own_code import CodeFile, code_of, use_code
from prunekit.runs.checkpoint import load_checkpoint, newest_checkpoint
from prunekit.runs.directory import new_run_dir, open_run, point_latest, refuse_links
from prunekit.train.build import Run, build
from prunekit.train.distributed import ProcessGroup, joined, start_processes
from prunekit.train.environment import changes_between, environment, git_state
from prunekit.train.finish import conclude
from prunekit.train.observer import Observer
from prunekit.train.state import average_notes
from prunekit.train.torch_errors import told_plainly
from prunekit.train.trainer import Trainer


class AnchorFile:
    """The dense weights at the anchor step, read whenever they are asked for."""

    path: Path | None = None

    def __call__(self) -> Mapping[str, Tensor]:
        """Weights by name."""
        if self.path is None or not self.path.is_dir():
            raise CheckpointError("the anchor step is not reached yet: nothing to rewind to")
        return load_checkpoint(self.path).weights


def run_recipe(
    recipe: Recipe,
    *,
    source_text: str | None = None,
    out: Path = Path("runs"),
    nproc: int = 1,
    code: str | Path | CodeFile | None = None,
) -> Path:
    """Run a recipe to the end.

    Args:
        recipe: what to run.
        source_text: the recipe as the user wrote it, kept beside the result; else all its keys.
        out: the parent of the run directories.
        nproc: processes to start on this machine; under torchrun its processes are used.
        code: the file of your own that the recipe was read with; None = it need not be said again.

    Returns:
        The run directory.

    Raises:
        PrunekitError: with the exit code of what went wrong.
    """
    resolved = dump_yaml(recipe)
    source = resolved if source_text is None else source_text
    read_with = code_of(recipe)
    with use_code(code or read_with) as given:
        if read_with and given and read_with.sha256 != given.sha256:
            raise UsageError(f"{given.path}: not the code that the recipe was read with")
        if nproc > 1 and "RANK" not in os.environ:
            return Path(start_processes(nproc, recipe.threads, _run, resolved, source, str(out)))
        return _run_here(recipe, source, out)


def resume_run(
    run_dir: Path, *, device: str | None = None, code: str | Path | CodeFile | None = None
) -> Path:
    """Continue a stopped run from its newest whole checkpoint, in as many processes as it had.

    Args:
        run_dir: its directory.
        device: where it goes on, as a recipe's `device`; None = as its recipe says.
        code: the file of your own that the run was made with, where it was.

    Raises:
        CheckpointError: no such run, no whole checkpoint, or other code.
        PrunekitError: with the exit code of what went wrong.
    """
    run = open_run(run_dir)
    world = run.processes()
    with use_code(code):
        if world > 1 and "RANK" not in os.environ:
            given = str(run.path), device or ""
            return Path(start_processes(world, run.recipe().threads, _resume, *given))
        return _resume_here(run.path, device)


def _run_here(recipe: Recipe, source_text: str, out: Path) -> Path:
    with joined(recipe.device) as group:
        _check_writable(out)
        _check_same_code(recipe, group)
        anchor = AnchorFile()
        run = build(recipe, group, anchor)
        hash8 = recipe_hash(recipe)[:8]
        made = str(new_run_dir(out, recipe.name, hash8)) if group.is_main else ""
        run_dir = Path(group.share(made))
        with _held(run_dir, group):
            if group.is_main:
                (run_dir / "recipe.yaml").write_text(source_text, encoding="utf-8")
                (run_dir / "resolved.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
                write_json(run_dir / "manifest.json", _manifest(run))
                point_latest(run_dir)
            trainer = _trainer(run, run_dir, anchor)
            _train(trainer, trainer.begin)
    return run_dir


def _resume_here(run_dir: Path, device: str | None = None) -> Path:
    opened = open_run(run_dir)
    refuse_links(run_dir)
    manifest = opened.manifest()
    with joined(device or opened.recipe().device) as group, _held(run_dir, group):
        if opened.status().get("status") == "done":
            raise CheckpointError(
                f"{run_dir}: the run is complete: nothing to resume; to train on from its weights, "
                f"run a recipe with model.init={run_dir}"
            )
        checkpoint, refused = newest_checkpoint(run_dir)
        pending = [checkpoint]  # handed over: it must not be held for the length of the run
        anchor = AnchorFile()
        run = build(opened.recipe(), group, anchor, resuming=True)
        _check_same_code(run.recipe, group)
        changed = changes_between(manifest["environment"], environment(group.device, group.world))
        if manifest["data"] != run.data.fingerprint():
            raise CheckpointError(f"{run_dir}: the data changed since the run began: restore it")
        if manifest.get("loss", "") != run.loss.identity():
            raise CheckpointError(
                f"{run_dir}: the teacher of the loss changed since the run began: restore it"
            )
        changed += _note_code(run, run_dir, manifest)
        trainer = _trainer(run, run_dir, anchor, resume_step=checkpoint.step)
        del checkpoint
        trainer.refused |= refused.keys()
        for line in (*refused.values(), *changed):
            trainer.observer.warn(line)
        _train(trainer, lambda: trainer.resume(pending.pop()))
    return run_dir


def _trainer(
    run: Run, run_dir: Path, anchor: AnchorFile, resume_step: int | None = None
) -> Trainer:
    observer = Observer(run, run_dir, resume_step=resume_step)
    trainer = Trainer(run, run_dir, observer)
    for line in average_notes(run.recipe.ema):
        observer.warn(line)
    anchor.path = run_dir / "checkpoints" / f"step-{trainer.plan.anchor_step}"
    return trainer


def _train(trainer: Trainer, start: Any) -> None:
    """Train and report; `status.json` tells how it ended, whatever happens."""
    status = _Status(trainer.run_dir, trainer)
    status.write("running", 0, "")
    try:
        with told_plainly(), trainer.stopping.requests, trainer.observer:
            start()
            trainer.fit()
            conclude(trainer)
    except PrunekitError as error:
        status.write(_outcome(error), error.exit_code, str(error))
        raise
    except KeyboardInterrupt:
        status.write("stopped", 130, "interrupted")
        raise
    except Exception as error:
        status.write("failed", 1, f"{type(error).__name__}: {error}")
        raise
    status.write("done", 0, "")


class _Status:
    def __init__(self, run_dir: Path, trainer: Trainer) -> None:
        self.path, self.trainer = run_dir / "status.json", trainer

    def write(self, status: str, code: int, message: str) -> None:
        if self.trainer.group.is_main:
            step = self.trainer.engine.step
            document = {"status": status, "exit_code": code, "message": message, "step": step}
            write_json(self.path, document)


def _outcome(error: PrunekitError) -> str:
    return {6: "diverged", 75: "stopped"}.get(error.exit_code, "failed")


def _manifest(run: Run) -> dict[str, Any]:
    """What the result depends on."""
    later, code = as_before(run.recipe), code_of(run.recipe)
    return {
        **({"as_before": later} if later else {}),
        **({"code": code.told()} if code else {}),
        "recipe_hash": recipe_hash(run.recipe),
        "seed": run.recipe.seed,
        "data": run.data.fingerprint(),
        **({"loss": known} if (known := run.loss.identity()) else {}),
        "argv": sys.argv,
        "git": git_state(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(run.group.device, run.group.world),
    }


def _check_same_code(recipe: Recipe, group: ProcessGroup) -> None:
    """Under an outer torchrun each rank reads the file of code of its own machine."""
    code = code_of(recipe)
    if not group.all_equal(bytes.fromhex(code.sha256) if code else bytes(32)):
        name = code.name if code else "the file of code"
        raise UsageError(f"--code {name}: is not the same for all processes: copy one to all")


def _note_code(run: Run, run_dir: Path, manifest: dict[str, Any]) -> list[str]:
    """Where a run goes on with other code, later commands ask for that; a sentence for it."""
    code, before = code_of(run.recipe), manifest.get("code")
    if code is None or before is None or before["sha256"] == code.sha256:
        return []
    if run.group.is_main:
        past = manifest.get("code_before")
        past = [*(past if isinstance(past, list) else []), before]
        write_json(run_dir / "manifest.json", manifest | {"code": code.told(), "code_before": past})
    return [
        f"{code.name} changed since the run began: what follows is of SHA-256 {code.sha256[:12]}, "
        f"what came before of {before['sha256'][:12]}"
    ]


def _check_writable(out: Path) -> None:
    """Find out before the data is decoded, not after."""
    existing = next(
        folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise WriteError(f"{existing}: cannot be written: give another folder with --out")


@contextmanager
def _held(run_dir: Path, group: ProcessGroup) -> Iterator[None]:
    """The main rank holds the lock of the run directory."""
    with lock(run_dir) if group.is_main else nullcontext():
        yield


# ---- what a started process does


def _run(text: str, source_text: str, out: str) -> str:
    return str(_run_here(recipe_from_text(text), source_text, Path(out)))


def _resume(run_dir: str, device: str) -> str:
    return str(_resume_here(Path(run_dir), device or None))
