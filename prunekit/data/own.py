"""A plain function or map-style data set of a user's own as a data set."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.data import Dataset

from prunekit.data.plain_samples import (
    PlainSplit,
    classes_seen,
    counted_classes,
    decode_plain,
    pixels_of,
    sample_of,
)
from prunekit.data.plain_source import PlainSource, labels_of_all, told_of
from prunekit.data.sources import STREAM_KEYS, StreamableConfig, StreamSettings
from prunekit.errors import PluginError
from prunekit.foundation.draws import fixed_draws
from prunekit.recipe.load import dataset_from
from prunekit.registry.configs import Samples, Split
from prunekit.registry.own_code import CodeFile, code_of, use_code
from prunekit.registry.signature import SignatureConfig, gives, place_of, settings_from

SPLIT, TRAIN = "split", "train"
"""Parameters that tell which split is wanted: `train` or `test`; true or false."""
NO_SAMPLES = (nn.Module, Tensor, int, float, str, type(None))
"""A function that says it gives one of these is a helper."""
_SEEN: dict[Any, tuple[str, ...]] = {}
"""The classes of a training split whose test split is to follow, where the data names none."""
SHARED = ("root", "download", "image_size", *STREAM_KEYS)
"""Keys of all data sets that a parameter may ask for: it is given the first ones; the last ones
came later than parameters of such a name, which are the user's."""


class OwnDatasetConfig(SignatureConfig, StreamableConfig):
    """The settings of a plain class or function that gives samples."""

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Whether a class or function of a file may be a data set."""
        if inspect.isfunction(value):
            found = gives(value)
            return not (isinstance(found, type) and issubclass(found, NO_SAMPLES))
        if not isinstance(value, type) or issubclass(value, nn.Module):
            return False
        meant = issubclass(value, Dataset)  # what it lacks is told where it is used
        return hasattr(value, "__getitem__") and (meant or hasattr(value, "__len__"))

    @classmethod
    def is_meant(cls, value: Any, part: bool) -> bool:
        """Whether it looks like a data set: a `Dataset`, or what no other of its file uses.

        Of a function that does not say what it gives, a recipe must be able to set the parameters.
        """
        if isinstance(value, type):
            return not part or issubclass(value, Dataset)
        if part or gives(value) is not None:
            return not part
        try:
            return bool(cls.of(value, value.__name__))
        except PluginError:
            return False

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
        with fixed_draws(), told_of(self.name):
            wanted, key = self.split_of(split), (self.signature.made_by, self.model_dump_json())
            what, classes = self._what(split), wanted.classes
            if classes is None and split == "test":
                classes = _SEEN.pop(key, None) or classes_seen(self.split_of("train"), what)
            found = decode_plain(wanted, classes, what)
            if wanted.classes is None and split == "train":
                _SEEN[key] = found.classes
            return found

    @property
    def stream_settings(self) -> StreamSettings:
        """How it is streamed; a parameter of that name is the user's own."""
        own = self.signature.settings
        return StreamSettings(**{k: getattr(self, k) for k in STREAM_KEYS if k not in own})

    def open_source(self, split: Split) -> PlainSource:
        """The samples of a split, to be read one by one; errors as of `load`."""
        what = self._what(split)
        with fixed_draws(), told_of(self.name):
            found = self.split_of(split)
            labels = labels_of_all(found, what)
            classes = found.classes
            if classes is None and split == "train":
                classes = counted_classes(labels, what)
            elif classes is None:
                trained = labels_of_all(self.split_of("train"), self._what("train"))
                classes = counted_classes(trained, self._what("train"))
        opens = _Opens(self.model_dump(mode="json"), split, code_of(self))
        return PlainSource(opens, found, labels, tuple(classes), what)

    def decoded_bytes(self, split: Split) -> int:
        """What the images of a split take, were all as the first."""
        what = self._what(split)
        with fixed_draws(), told_of(self.name):
            found = self.split_of(split)
            total = len(found.source)
            return total * pixels_of(sample_of(found, 0, what)[0], 0, what).numel() if total else 0

    def split_of(self, split: Split) -> PlainSplit:
        """What the class or function gives, made anew."""
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

    def _what(self, split: Split) -> str:
        return f"{self.name}, {split} split"


@dataclass(frozen=True)
class _Opens:
    """Makes a split anew in another process, which has run the file of code by then."""

    settings: dict[str, Any]
    split: Split
    code: CodeFile | None

    def __call__(self) -> PlainSplit:
        with use_code(self.code), fixed_draws():
            config = dataset_from(self.settings)
            if not isinstance(config, OwnDatasetConfig):
                raise PluginError(f"{config.name}: is no class or function of a file")
            return config.split_of(self.split)
