"""Run directories: `<out>/<recipe>/<UTC>-<hash8>/`, with the link `latest` beside them.

A run directory holds `recipe.yaml` (as given), `resolved.yaml`, `manifest.json`, `metrics.jsonl`,
`checkpoints/step-N/`, `masks.safetensors`, `model.safetensors`, `status.json` and
`report.json`. Torch-free at import.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prunekit.errors import CheckpointError, RecipeError, ResourceError
from prunekit.foundation.files import check_digest, read_json
from prunekit.foundation.json_lines import read_lines
from prunekit.foundation.locks import lock
from prunekit.foundation.system import followed
from prunekit.runs.logged import Logged, read_logged
from prunekit.runs.mask_files import read_masks

if TYPE_CHECKING:
    from torch import Tensor

    from prunekit.recipe.schema import Recipe

EXPORT_RECORD = "export/export.json"
RECIPES = (".yaml", ".yml")
NOTHING_SAVED = (
    "the run ended before its first checkpoint: nothing of it can be gone on with: begin it again "
    "with `prunekit run`"
)
STAMP = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}(-\d+)?")
"""What the directory of a run is called."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """A run on the disk. Every method raises CheckpointError for what is missing or corrupt."""

    path: Path

    def recipe(self) -> Recipe:
        """The resolved recipe."""
        from prunekit.recipe.load import read_written_out
        from prunekit.registry.own_code import require_code

        path = self.existing("resolved.yaml")
        require_code(self.code(), self.path)
        try:
            return read_written_out(path)
        except RecipeError as error:
            raise CheckpointError(f"{path}: corrupt or of another version: {error}") from error

    def processes(self) -> int:
        """How many made the run.

        Raises:
            CheckpointError: the manifest is missing or corrupt, or says no number of processes.
        """
        found = self.manifest().get("environment", {}).get("world_size", 1)
        if type(found) is not int or found < 1:
            raise CheckpointError(
                f"{self.path / 'manifest.json'}: corrupt: environment.world_size is {found!r}, no "
                "number of processes: give --nproc N; on another number than it had the result "
                "differs by rounding"
            )
        return found

    def manifest(self) -> dict[str, Any]:
        """Versions, seed, device, threads, world size: all that the result depends on."""
        return self._document("manifest.json")

    def storage(self) -> Literal["memory", "stream"]:
        """How its data was kept: images may have other last bits in the other way."""
        return "stream" if self.manifest().get("data_storage") == "stream" else "memory"

    def code(self) -> Any:
        """Name and SHA-256 of the user's own file that the run was made with; None = none."""
        there = (self.path / "manifest.json").is_file()
        return self.manifest().get("code") if there else None

    def status(self) -> dict[str, Any]:
        """`status` (running, done, stopped, diverged, failed), `exit_code`, `message`, `step`."""
        return self._document("status.json")

    def report(self) -> dict[str, Any]:
        """The numbers of a finished run."""
        return self._document("report.json")

    def ragged_report(self) -> dict[str, Any]:
        """The numbers as far as there are any; what is not of its type the reader tells."""
        path = self.existing("report.json")
        value = read_json(path)
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: corrupt: not a JSON object")
        return value

    def exported(self) -> dict[str, Any]:
        """What `prunekit export` measured, where it wrote into the run; else nothing.

        A damaged one is none: it is no part of the run. Nor is one of a smaller model, which
        `--compact` made for the export: its times are not those of the run's own.
        """
        with suppress(CheckpointError):
            found, stored = self._document(EXPORT_RECORD), self.ragged_report()
            counts = stored.get("parameters")  # runs of before do not say it
            own = counts.get("stored") if isinstance(counts, dict) else None
            if own is None or found.get("parameters", own) == own:
                return found
        return {}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` in order; one that a kill cut short is left out."""
        return read_lines(self.existing("metrics.jsonl"))

    def series(self, key: str) -> list[tuple[int, float]]:
        """What was logged under one key: (optimizer steps done, value), in order.

        A step whose value was not finite is left out; a key that was never logged has no steps.
        """
        return self.logged().series(key)

    def logged(self) -> Logged:
        """What `metrics` gives, by key: a tenth of its memory."""
        return read_logged(self.existing("metrics.jsonl"))

    def masks(self) -> dict[str, Tensor]:
        """The final masks: parameter name -> bool, True = kept."""
        path = self.path / "masks.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"{self.path}: has no masks: it ran no strategy, or did not finish"
            )
        return read_masks(path)

    def initial_weights(self) -> dict[str, Tensor]:
        """Dense weights and buffers before the first step, checked against their SHA-256."""
        from prunekit.runs.tensors import read_tensors

        weights = self.existing("checkpoints/step-0/weights.safetensors")
        check_digest(weights, self._document("checkpoints/step-0/sha256.json"))
        return read_tensors(weights)[0]

    def final_weights(self) -> dict[str, Tensor]:
        """Weights and buffers at the end; pruned entries are zero."""
        from prunekit.runs.tensors import read_tensors

        return read_tensors(self.existing("model.safetensors"))[0]

    def existing(self, name: str) -> Path:
        """The path of a file of the run.

        Raises:
            CheckpointError: it is not there; says why and what to do.
        """
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing: {self._why_not_there()}")
        return path

    def _why_not_there(self) -> str:
        status = self.status()["status"] if (self.path / "status.json").is_file() else ""
        if status == "diverged":
            return "the run diverged, and would again: change its recipe and run that"
        if status == "done":
            lost = "the run is done; it could not write this and said why, or it was taken away"
            return f"{lost}: `prunekit run {self.path / 'recipe.yaml'}` makes it anew"
        if not any((self.path / "checkpoints").glob("step-*")):
            return NOTHING_SAVED
        return f"the run did not get that far; `prunekit resume {self.path}` continues it"

    def _document(self, name: str) -> dict[str, Any]:
        from prunekit.runs.documents import SHAPES, Document, checked

        path = self.existing(name)
        return checked(path, read_json(path), SHAPES.get(name, Document))


def no_run(file: Path) -> str:
    """What to say of a file that is given in place of a run."""
    if file.suffix.lower() in RECIPES:
        return f"a recipe: give the run directory that `prunekit run {file}` makes"
    return "a file: give the run directory that it lies in"


def open_run(path: str | Path) -> RunDir:
    """Open a run directory, or `runs/<recipe>/latest`.

    Raises:
        CheckpointError: there is no run at `path`.
    """
    run = followed(path)
    if run.is_file():
        raise CheckpointError(f"{run}: {no_run(run)}")
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: no such run directory: give runs/<recipe>/latest, or make the run with "
            "`prunekit run`"
        )
    if not (run / "resolved.yaml").is_file():
        real = run.resolve()
        if STAMP.fullmatch(real.name) and not (real / "checkpoints").exists():
            raise CheckpointError(f"{run}: {NOTHING_SAVED}")
        remedy = (
            f"did you mean {run / 'latest'}?"
            if followed(run / "latest").is_dir()
            else ("give the folder that holds resolved.yaml")
        )
        raise CheckpointError(f"{run}: not a run directory: {remedy}")
    return RunDir(run.resolve())


def model_file(path: Path) -> Path:
    """The `model.safetensors` of a run directory, or of a folder that `prunekit compact` wrote.

    Raises:
        CheckpointError: the folder is neither, or the run has none, as it did not finish.
    """
    path = followed(path)
    file = path / "model.safetensors"
    if file.is_file() and not (path / "resolved.yaml").is_file():
        return file
    return open_run(path).existing("model.safetensors")


def newest_of(out: Path, recipe: Recipe, launch: str | None = None) -> Path | None:
    """The newest run of a recipe's name and hash in `out`, whatever became of it.

    Args:
        out: the parent of all run directories.
        recipe: what is looked for; keys that cannot change the result may differ.
        launch: only runs of this launch by torchrun; None = of any. Where torchrun was not told to
            name its launches, those that another process holds are left out as well.
    """
    from prunekit.recipe.identity import recipe_hash

    whole = recipe_hash(recipe)
    of_hash = re.compile(rf"\d+T\d+Z-{whole[:8]}(-\d+)?")  # no copy that somebody keeps beside it
    found = [path for path in (out / recipe.name).glob("*") if of_hash.fullmatch(path.name)]
    found = [path for path in found if not path.is_symlink()]
    for path in sorted(found, key=_age, reverse=True):
        with suppress(CheckpointError, ResourceError):  # no whole manifest, or held
            manifest = RunDir(path).manifest()
            if manifest.get("recipe_hash") != whole:
                continue
            if launch is not None and manifest.get("launch", "") != launch:
                continue
            if launch in UNNAMED:
                with lock(path):
                    pass
            return path
    return None


UNNAMED = ("", "none")
"""What torchrun calls a launch where nobody gave it a name: another one may be called so, too."""


def _age(run_dir: Path) -> tuple[str, int]:
    stamp, _, *number = run_dir.name.split("-")  # a second one of the same second has its number
    return stamp, int(number[0]) if number else 1


def events_dir(run_dir: Path) -> Path:
    """Where TensorBoard's files of a run lie: beside it, as `latest` would show them once more.

    A run of before has them in `tb` of its own, and goes on there.
    """
    own = run_dir / "tb"
    return own if own.is_dir() else run_dir.parent / "tb" / run_dir.name
