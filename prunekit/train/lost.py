"""A run that lost one of its processes: what the others say, and where it goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from prunekit.errors import LostPeerError, PrunekitError
from prunekit.foundation.files import write_json
from prunekit.runs.checkpoint import checkpoints, step_of
from prunekit.runs.directory import RunDir

GRACE = 10.0
"""Seconds for the others to tell; a launcher ends them as soon as it sees that one is gone."""


def go_on_with(run_dir: Path) -> str:
    """The remedy, with the step of the newest checkpoint."""
    saved = checkpoints(run_dir)
    if not saved:
        return f"{run_dir} has no checkpoint yet: begin the run again"
    return f"go on from step {step_of(saved[-1])} with `prunekit resume {run_dir}`"


def lost_peer(run_dir: Path, step: int) -> LostPeerError:
    """The error of a process that is left, after `step` steps; `status.json` has it too.

    The main rank may be the one that is gone, so whoever is left writes.
    """
    error = LostPeerError(
        f"a process of the run was lost or did not answer at step {step}: {go_on_with(run_dir)}"
    )
    told = {"status": "failed", "exit_code": error.exit_code, "message": str(error), "step": step}
    with suppress(PrunekitError):  # the loss is what is told
        if RunDir(run_dir).status().get("status") == "running":
            write_json(run_dir / "status.json", told)
    return error
