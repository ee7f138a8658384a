"""A plain function or map-style data set of a user's own as a data set: read once into bytes."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from prunekit.data.plain_samples import PlainSplit, classes_seen, decode_plain
from prunekit.errors import DataError, PluginError, PrunekitError
from prunekit.registry.configs import DatasetConfig, Samples, Split
from prunekit.registry.signature import (
    SignatureConfig,
    gives,
    place_of,
    settings_from,
    told_with_line,
)

SPLIT, TRAIN = "split", "train"
"""Parameters that tell which split is wanted: `train` or `test`; true or false."""
NO_SAMPLES = (nn.Module, Tensor, int, float, str, type(None))
"""A function that says it gives one of these is a helper."""
_SEEN: dict[Any, tuple[str, ...]] = {}
"""The classes of a training split whose test split is to follow, where the data names none."""
SHARED = ("root", "download", "image_size")
"""Keys of all data sets that a parameter may ask for."""


class OwnDatasetConfig(SignatureConfig, DatasetConfig):
    """The settings of a plain class or function that gives samples."""

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Whether a class or function of a file may be a data set."""
        if inspect.isfunction(value):
            found = gives(value)
            return not (isinstance(found, type) and issubclass(found, NO_SAMPLES))
        map_style = hasattr(value, "__getitem__") and hasattr(value, "__len__")
        return isinstance(value, type) and map_style and not issubclass(value, nn.Module)

    @classmethod
    def of(cls, value: Any, name: str) -> type[Self]:
        """The settings of one.

        Raises:
            PluginError: its signature cannot be settings.
        """
        return settings_from(value, cls, name, (SPLIT, TRAIN), SHARED)

    def load(self, split: Split) -> Samples:
        """Read a split: with the same random draws each time, so that it is the same each time.

        Raises:
            DataError: a file is missing, or an image or label is not what it must be.
            PluginError: the class or function fails, or gives something else.
        """
        with _fixed_draws(), self._told():
            wanted, key = self._split(split), (self.signature.made_by, self.model_dump_json())
            what, classes = f"{self.name}, {split} split", wanted.classes
            if classes is None and split == "test":
                classes = _SEEN.pop(key, None) or classes_seen(self._split("train"), what)
            found = decode_plain(wanted, classes, what)
            if wanted.classes is None and split == "train":
                _SEEN[key] = found.classes
            return found

    def _split(self, split: Split) -> PlainSplit:
        asked = self.signature.parameters
        apart = SPLIT in asked or TRAIN in asked
        found = self.signature.call(self, {SPLIT: split, TRAIN: split == "train"})
        if not apart:
            found = self._of_pair(found, split)
        place = place_of(self.signature.made_by)
        return PlainSplit.of(found, f"{place}: the {split} split")

    def _of_pair(self, found: Any, split: Split) -> Any:
        if isinstance(found, dict) and {"train", "test"} <= found.keys():
            return found[split]
        if isinstance(found, tuple | list) and len(found) == 2:
            return found[split == "test"]
        raise PluginError(
            f"{place_of(self.signature.made_by)}: gives one {type(found).__name__}: give a pair "
            "(train, test), or take a parameter `split` (train or test) or `train` (true or false)"
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the user's code in one line, with its place."""
        try:
            yield
        except PrunekitError:
            raise
        except OSError as error:
            raise DataError(f"{self.name}: {told_with_line(error)}") from error
        except Exception as error:
            raise PluginError(f"{self.name}: {told_with_line(error)}") from error


@contextmanager
def _fixed_draws() -> Iterator[None]:
    """Whatever is drawn inside is the same each time; the states outside do not move."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - those that others draw from
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
