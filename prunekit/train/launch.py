"""From a recipe to a finished run directory: the entry point of `run` and `resume`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from rich.text import Text
from torch import Tensor

from prunekit.data import check_shares
from prunekit.errors import CheckpointError, UsageError, WriteError
from prunekit.foundation.console import console
from prunekit.foundation.devices import most_processes
from prunekit.foundation.files import json_text, write_text
from prunekit.foundation.locks import hold_unnamed, lock
from prunekit.foundation.ranks import place, was_restarted
from prunekit.recipe.identity import recipe_hash
from prunekit.recipe.load import recipe_from_text
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry.own_code import CodeFile, code_of, use_code
from prunekit.runs.checkpoint import load_checkpoint, newest_checkpoint
from prunekit.runs.directory import RunDir, open_run
from prunekit.runs.links import refuse_links
from prunekit.runs.new_directory import clear_parts, new_run_dir, point_latest
from prunekit.train.build import Run, build
from prunekit.train.distributed import ProcessGroup, joined
from prunekit.train.going_on import (
    as_begun,
    beginning,
    beginning_folder,
    begun_run,
    status_of,
)
from prunekit.train.manifest import changes_since, check_same_code, manifest_of, note_code
from prunekit.train.observer import Observer
from prunekit.train.processes import Started, start_processes
from prunekit.train.state import average_notes
from prunekit.train.supervised import train
from prunekit.train.torch_errors import ToldPlainly
from prunekit.train.trainer import Trainer

GO_ON = "go on"
"""What a started process is told where the newest run of the recipe is to be gone on with."""


RESTART_WAITS = 60.0
"""Seconds in which the processes of an earlier attempt, on another machine, may still end."""


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
    go_on: bool = False,
) -> Path:
    """Run a recipe to the end.

    Args:
        recipe: what to run.
        source_text: the recipe as the user wrote it, kept beside the result; else all its keys.
        out: the parent of the run directories.
        nproc: processes to start on this machine; under torchrun or srun its processes are used.
        code: the file of your own that the recipe was read with; None = it need not be said again.
        go_on: go on with the newest run of this recipe in `out`, if there is one, and leave it as
            it is where it is done. Processes that torchrun starts again do so by themselves.

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
        wish = GO_ON if go_on else ""
        if nproc > 1 and not place().started_by:
            check_shares(recipe.data, nproc)  # before processes are there that would say so
            arguments = (resolved, source, str(out), wish)
            return Path(start_processes(nproc, recipe.threads, _run, *arguments))
        return _run_here(recipe, source, out, wish)


def resume_run(
    run_dir: Path,
    *,
    device: str | None = None,
    code: str | Path | CodeFile | None = None,
    nproc: int | None = None,
) -> Path:
    """Continue a stopped run from its newest whole checkpoint.

    Args:
        run_dir: its directory.
        device: where it goes on, as a recipe's `device`; None = as its recipe says.
        code: the file of your own that the run was made with, where it was.
        nproc: processes to start on this machine; None = as many as it had. Under torchrun or srun
            its processes are used.

    Raises:
        CheckpointError: no such run, no whole checkpoint, or other code.
        PrunekitError: with the exit code of what went wrong.
    """
    run = open_run(run_dir)
    world = nproc or run.processes()
    if nproc is None and not place().started_by:
        _check_processes(run, world, device)
    with use_code(code):
        if world > 1 and not place().started_by:
            recipe, given = run.recipe(), (str(run.path), device or "")
            check_shares(recipe.data, world)
            return Path(start_processes(world, recipe.threads, _resume, *given))
        return _resume_here(run.path, device)


def _check_processes(run: RunDir, world: int, device: str | None) -> None:
    """A folder from anywhere does not decide that more processes start than this machine serves."""
    most = most_processes(device or run.recipe().device) if world > 1 else 1
    if world > most:
        raise CheckpointError(
            f"{run.path}: was made by {world} processes, and there is room for {most} here: give "
            "--nproc N; on another number the result differs by rounding"
        )


def _run_here(
    recipe: Recipe, source_text: str, out: Path, wish: str, started: Started | None = None
) -> Path:
    with ToldPlainly(), joined(recipe.device) as group:
        _check_writable(out)
        check_same_code(recipe, group)
        asked = wish == GO_ON
        begun = begun_run(recipe, out, group, asked=asked)
        with ExitStack() as alone:
            if asked and begun is None:
                alone.enter_context(beginning(recipe, out, group))
                begun = begun_run(recipe, out, group, asked=asked)  # another call was first
            if begun is None or begun.left == "all":
                return _begin(recipe, source_text, group, begun.path if begun else out, started)
            if begun.left == "nothing":
                console().print(Text(f"{begun.path}: is done already"), soft_wrap=True)
                return begun.path
            return _go_on(begun.path, group, started, now=recipe)


def _begin(
    recipe: Recipe, source_text: str, group: ProcessGroup, where: Path, started: Started | None
) -> Path:
    """Begin a run.

    Args:
        recipe: what to run.
        source_text: as the user wrote it.
        group: the processes.
        where: the parent of run directories, or that of a run that was killed before it saved
            anything, which begins again in it.
        started: who started this process, if it was for this run.
    """
    anchor, again = AnchorFile(), (where / "manifest.json").is_file()
    run = build(recipe, group, anchor)
    made, documents = str(where), dict[str, str]()
    if group.is_main:
        told = {"recipe.yaml": source_text, "resolved.yaml": dump_yaml(recipe)}
        documents = {**told, "manifest.json": json_text(manifest_of(run))}
        if not again:
            hold_unnamed(beginning_folder(recipe, where))
            made = str(new_run_dir(where, recipe.name, recipe_hash(recipe)[:8], documents))
    run_dir = Path(group.share(made))
    if again:
        refuse_links(run_dir)
    with _held(run_dir, group, started):
        if group.is_main:
            for name, text in documents.items() if again else ():
                write_text(run_dir / name, text)
            point_latest(run_dir)
        trainer = _trainer(run, run_dir, anchor, resume_step=0 if again else None)
        _train(trainer, trainer.begin, started)
    return run_dir


def _resume_here(run_dir: Path, device: str | None = None, started: Started | None = None) -> Path:
    with ToldPlainly(), joined(device or open_run(run_dir).recipe().device) as group:
        return _go_on(run_dir, group, started)


def _go_on(
    run_dir: Path, group: ProcessGroup, started: Started | None, now: Recipe | None = None
) -> Path:
    """Go on from the newest whole checkpoint.

    Args:
        run_dir: of the run.
        group: the processes.
        started: who started this one, if it was for this run.
        now: the same recipe as it is given now; None = as it stands in the run.
    """
    opened = open_run(run_dir)
    refuse_links(run_dir)
    manifest = opened.manifest()
    with _held(run_dir, group, started):
        if status_of(run_dir) == "done":
            raise CheckpointError(
                f"{run_dir}: the run is complete: nothing to resume; to train on from its weights, "
                f"run a recipe with model.init={run_dir}"
            )
        checkpoint, refused = newest_checkpoint(run_dir)
        pending = [checkpoint]  # handed over: it must not be held for the length of the run
        anchor = AnchorFile()
        recipe, kept = as_begun(opened.recipe(), now)
        run = build(recipe, group, anchor, resuming=True, storage=opened.storage())
        check_same_code(run.recipe, group)
        changed = changes_since(manifest, run)
        if manifest["data"] != run.data.fingerprint():
            raise CheckpointError(f"{run_dir}: the data changed since the run began: restore it")
        if manifest.get("loss", "") != run.loss.identity():
            raise CheckpointError(
                f"{run_dir}: the teacher of the loss changed since the run began: restore it"
            )
        changed += [*kept, *note_code(run, run_dir, manifest)]
        trainer = _trainer(run, run_dir, anchor, resume_step=checkpoint.step)
        del checkpoint
        trainer.refused |= refused.keys()
        for line in (*refused.values(), *changed):
            trainer.observer.warn(line)
        _train(trainer, lambda: trainer.resume(pending.pop()), started)
    return run_dir


def _train(trainer: Trainer, start: Callable[[], None], started: Started | None) -> None:
    train(trainer, start)
    if started is not None:
        started.too_late = trainer.stopping.requests.times > 0


def _trainer(
    run: Run, run_dir: Path, anchor: AnchorFile, resume_step: int | None = None
) -> Trainer:
    observer = Observer(run, run_dir, resume_step=resume_step)
    trainer = Trainer(run, run_dir, observer)
    for line in average_notes(run.recipe.ema):
        observer.warn(line)
    anchor.path = run_dir / "checkpoints" / f"step-{trainer.plan.anchor_step}"
    return trainer


def _check_writable(out: Path) -> None:
    """Find out before the data is decoded, not after."""
    existing = next(
        folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists()
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise WriteError(f"{existing}: cannot be written: give another folder with --out")


@contextmanager
def _held(run_dir: Path, group: ProcessGroup, started: Started | None) -> Iterator[None]:
    """The main rank holds the lock of the run directory, and says where that is."""
    if started and group.is_main:
        started.runs_in(run_dir)
    wait = RESTART_WAITS if was_restarted() else 0.0
    with lock(run_dir, wait) if group.is_main else nullcontext():
        if group.is_main:
            clear_parts(run_dir)
        yield


# ---- what a started process does


def _run(started: Started, text: str, source_text: str, out: str, wish: str) -> str:
    recipe = recipe_from_text(text)
    return str(_run_here(recipe, source_text, Path(out), wish, started))


def _resume(started: Started, run_dir: str, device: str) -> str:
    return str(_resume_here(Path(run_dir), device or None, started))
