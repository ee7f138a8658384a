"""Whether a set is kept in memory or streamed."""

from __future__ import annotations

from typing import Literal

import torch

from prunekit.data.cache import available_memory
from prunekit.data.sources import StreamableConfig
from prunekit.errors import PrunekitError
from prunekit.registry.configs import DatasetConfig, Split

Settled = Literal["memory", "stream"]


def settle_storage(config: DatasetConfig, device: torch.device) -> Settled:
    """As the settings say; with `auto` in memory where it fits, which may change from day to day.

    Args:
        config: the settings.
        device: where the set would be kept.
    """
    if not isinstance(config, StreamableConfig):
        return "memory"
    asked = config.stream_settings.storage
    if asked != "auto":
        return asked
    try:
        return "memory" if _fits(config, device) else "stream"
    except PrunekitError:  # told by whatever opens it
        return "memory"


def _fits(config: StreamableConfig, device: torch.device) -> bool:
    """By the same measure by which a set that is decoded would be refused."""
    splits: tuple[Split, ...] = ("train", "test")
    need = {split: config.decoded_bytes(split) for split in splits}
    new = [need[split] for split in splits if not config.kept_decoded(split)]
    if sum(new) > available_memory():
        return False
    if device.type == "cpu" or sum(need.values()) <= (left := available_memory(device)):
        return True
    for split, limit in zip(splits, (config.train_limit, config.test_limit), strict=True):
        if limit is not None:
            need[split] = need[split] * limit // max(len(config.open_source(split).labels), limit)
    return sum(need.values()) <= left
