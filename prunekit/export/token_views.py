"""The tokens of test images at several ratios of one trained model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from prunekit.data.load import open_test_split
from prunekit.errors import UsageError
from prunekit.export.served import ServedModel, open_served
from prunekit.export.subject import MODEL_FILE
from prunekit.models.patch_groups import TokenWatch, patch_groups
from prunekit.models.saved import load_at_eval_ratio
from prunekit.recipe.load import dataset_from
from prunekit.runs.directory import open_run
from prunekit.runs.merged_patches import PatchGroups

AS_TRAINED = "as trained"


def token_views(
    run_dir: str | Path,
    ratios: Sequence[float] = (),
    images: int = 6,
    device: str | None = None,
) -> dict[str, list[PatchGroups]]:
    """What becomes of the patches of the first test images.

    Args:
        run_dir: a finished run.
        ratios: of all compressors in evaluation, each in [0, 1).
        images: how many.
        device: as a recipe's; None = that of the run, where it is here, else `auto`.

    Returns:
        `as trained`, then each `ratio 0.5` -> the images in their order.

    Raises:
        CheckpointError: no finished run.
        UsageError: it has no compressor, or one that does not tell, or a ratio it cannot have.
    """
    file = open_run(run_dir).existing(MODEL_FILE)
    served = open_served(run_dir, device)
    watch = TokenWatch(served.module, served.path)  # refuses before the data is decoded
    config = dataset_from(dict(served.data or {}), ())
    with closing(open_test_split(config, served.device, served.storage)) as split:
        first = torch.arange(len(split.labels("test")))[:images]
        pixels = next(split.plain("test", first, (len(first),), fill=True))[0].to(served.device)
    found = {AS_TRAINED: _seen(served, watch, pixels)}
    for ratio in ratios:
        if not 0 <= ratio < 1:
            raise UsageError(f"ratio {ratio:g}: must be at least 0 and less than 1")
        other = served.with_module(load_at_eval_ratio(file, ratio))
        found[f"ratio {ratio:g}"] = _seen(other, TokenWatch(other.module, served.path), pixels)
    return found


@torch.no_grad()
def _seen(served: ServedModel, watch: TokenWatch, pixels: torch.Tensor) -> list[PatchGroups]:
    batch = served.preprocessing(pixels)
    with served.as_in_its_run(), watch:
        served.logits(batch)
    return [*patch_groups(watch, batch, served.preprocessing)]
