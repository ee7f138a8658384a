"""Which samples of a split are used: what its limit leaves, and what is held out of that."""

from __future__ import annotations

import torch
from torch import Tensor

from prunekit.data.split import stratified
from prunekit.errors import DataError, PluginError, RecipeError
from prunekit.registry.configs import DatasetConfig, Split


def check_labels(labels: Tensor, count: int, classes: tuple[str, ...], what: str) -> None:
    """Labels are the numbers of classes, one for each image.

    Args:
        labels: of a split.
        count: its images.
        classes: their names.
        what: the subject of an error, with its verb.

    Raises:
        PluginError: they are not.
    """
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise PluginError(f"{what} labels {labels.dtype} {list(labels.shape)} for {count} images")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise PluginError(
            f"{what} labels {int(labels.min())} .. {int(labels.max())} of {len(classes)} classes"
        )


def within_limit(labels: Tensor, limit: int | None, split: Split) -> Tensor:
    """The samples that `train_limit` or `test_limit` leaves, bool [N].

    Raises:
        DataError: it is larger than the split.
    """
    if limit is None:
        return torch.ones(len(labels), dtype=torch.bool)
    if limit > len(labels):
        raise DataError(
            f"data.{split}_limit: {limit} is more than the {len(labels)} samples of the "
            f"{split} split: lower it or set it to null"
        )
    return stratified(labels, limit)


def held_out(labels: Tensor, share: float) -> Tensor:
    """Those that are validated on, bool [N]: `share` of them, rounded to the nearest number.

    Raises:
        RecipeError: none, or all of a class.
    """
    total = len(labels)
    count = int(share * total + 0.5)
    if share and not count:
        raise RecipeError(
            f"data.validation: {share} of {total} training samples holds none out: raise it, or "
            "set it to 0"
        )
    try:
        return stratified(labels, count, spare=1)
    except ValueError as error:
        raise RecipeError(f"data.validation: {share}: {error}: lower it") from error


def check_batch(config: DatasetConfig, samples: int) -> None:
    """The training samples make a batch at least.

    Raises:
        RecipeError: they do not.
    """
    if samples < config.batch_size:
        raise RecipeError(
            f"data.batch_size: {config.batch_size} is more than the {samples} training "
            "samples: lower it, or raise data.train_limit"
        )
