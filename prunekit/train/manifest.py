"""`manifest.json`: what the result of a run depends on, and who made it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunekit.errors import UsageError
from prunekit.foundation.files import write_json
from prunekit.foundation.ranks import launch_id
from prunekit.recipe.identity import as_before, recipe_hash
from prunekit.recipe.schema import Recipe
from prunekit.registry.own_code import code_of
from prunekit.train.build import Run
from prunekit.train.distributed import ProcessGroup
from prunekit.train.environment import changes_between, environment, git_state

DECODER = "data_decoder"
"""What decodes images of a streamed set: another may differ in a last bit."""


def manifest_of(run: Run) -> dict[str, Any]:
    """What the result depends on."""
    later, code = as_before(run.recipe), code_of(run.recipe)
    told = run.data.pixels.told
    return {
        **({"as_before": later} if later else {}),
        **({"code": code.told()} if code else {}),
        "recipe_hash": recipe_hash(run.recipe),
        "seed": run.recipe.seed,
        "data": run.data.fingerprint(),
        **{f"data_{key}": told[key] for key in ("storage", "decoder") if key in told},
        **({"loss": known} if (known := run.loss.identity()) else {}),
        "argv": sys.argv,
        "git": git_state(),
        **({"launch": launch} if (launch := launch_id()) else {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(run.group.device, run.group.world),
    }


def changes_since(manifest: Mapping[str, Any], run: Run) -> list[str]:
    """A sentence for each thing that a result depends on and that is another than in a manifest."""
    before, now = manifest["environment"], environment(run.group.device, run.group.world)
    decoders = manifest.get(DECODER), run.data.pixels.told.get("decoder")
    if all(decoders):  # else one was in memory, or is of an earlier version
        before, now = (
            {**one, DECODER: by} for one, by in zip((before, now), decoders, strict=True)
        )
    return changes_between(before, now)


def check_same_code(recipe: Recipe, group: ProcessGroup) -> None:
    """Under an outer torchrun each rank reads the file of code of its own machine."""
    code = code_of(recipe)
    if not group.all_equal(bytes.fromhex(code.sha256) if code else bytes(32)):
        name = code.name if code else "the file of code"
        raise UsageError(f"--code {name}: is not the same for all processes: copy one to all")


def note_code(run: Run, run_dir: Path, manifest: dict[str, Any]) -> list[str]:
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
