"""The metadata of a model file: its keys, and what it says of the images of its model."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prunekit.data.preprocessing import Preprocessing
from prunekit.errors import CheckpointError
from prunekit.models.bounds import settings_in

CONFIG = "prunekit"
"""Metadata key: JSON of `{"model": ModelConfig, "data": DataSpec, "compressors": [...]}`, of a
smaller model that its config cannot tell `"sizes": Sizes`, and, where one of them is of a file of
the user's own, `"code": {"name": ..., "sha256": ...}`."""
IMAGES = "images"
"""Metadata key: JSON of a `Preprocessing`."""


def images_metadata(preprocessing: Preprocessing) -> dict[str, str]:
    """What `preprocessing()` reads back: how images become the input of the model, its classes."""
    return {IMAGES: json.dumps(asdict(preprocessing))}


def read_preprocessing(path: Path, metadata: Mapping[str, str]) -> Preprocessing:
    """What the metadata of a file says of its images; `path` is for the message.

    Raises:
        CheckpointError: nothing, or what cannot be.
    """
    if IMAGES not in metadata:
        raise CheckpointError(
            f"{path}: does not tell how images become the input of its model, as files of earlier "
            "versions: normalise them with the mean and deviation of the training split"
        )
    try:
        found = TypeAdapter(Preprocessing).validate_json(metadata[IMAGES])
        if len(found.mean) != len(found.std):
            raise ValueError(f"{len(found.mean)} means and {len(found.std)} deviations")
        if found.resize is not None and found.resize < (found.image_size or found.resize + 1):
            raise ValueError(f"a square of {found.image_size} of a side of {found.resize}")
        if CONFIG in metadata:
            _check_data(found, settings_in(metadata[CONFIG])["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: what it says of its images cannot be read by this version of prunekit: "
            f"{first_fault(error)}"
        ) from error
    return found


def _check_data(found: Preprocessing, data: Mapping[str, int]) -> None:
    said = {
        "channels": len(found.mean),
        "height": found.size[0],
        "width": found.size[1],
        "classes": len(found.classes),
    }
    for key, count in said.items():
        if count != data[key]:
            raise ValueError(f"{count} {key}, where the model has {data[key]}")


def first_fault(error: Exception) -> str:
    """The first of what an error tells, in one line of at most 300 characters."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        return textwrap.shorten(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", 300)
    text = textwrap.shorten(str(error), 300)  # torch names every tensor, line by line
    return text or type(error).__name__
