"""Any images, sorted into one folder a class or listed with their classes in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from prunekit.data.cache import cached, is_cached
from prunekit.data.file_index import FolderLayout, index_files
from prunekit.data.folder_source import FolderSource
from prunekit.data.images import layout_of
from prunekit.data.kept_index import kept_index
from prunekit.data.pack_format import is_pack
from prunekit.data.packed_source import PackedSource
from prunekit.data.sources import ImageSource, StreamableConfig
from prunekit.data.stored_images import FolderImages, PackedImages
from prunekit.errors import DataError
from prunekit.foundation.values import NewKey
from prunekit.registry.configs import Samples, Split


class ImageFolderConfig(StreamableConfig):
    """Images as `<root>/train/<class>/*` and `<root>/test/<class>/*`, decoded once and kept.

    Images may lie in folders inside that of their class. Classes are sorted by name and must be
    the same in both splits. Hidden entries are left out; so are links to folders or to nothing and
    files that are no images by their extension, and a run warns of those. Images of different
    sizes need `image_size`. `root` may be a set that `prunekit data pack` made; `test_folder` and
    `test_labels` then say nothing.
    """

    name: Literal["image_folder"]
    test_folder: str = Field(default="test", min_length=1)
    """Folder of the test images, relative to `root`."""
    test_labels: str | None = Field(default=None, min_length=1)
    """Text file with a line `FILE CLASS ...` for each test image, relative to `root`, instead of
    one folder a class; FILE is a path in `test_folder`, or a name that is there once."""
    keep_size: Annotated[int | None, NewKey(3, before=None)] = Field(default=None, ge=1)
    """Side in pixels of the squares that are kept in memory, of which `random_resized_crop` and
    `eval_resize` take theirs; null = `image_size`."""

    fingerprint: Annotated[Literal["times", "content"], NewKey(3, before="times")] = "times"
    """What tells a streamed set from another: names, sizes and times of its files, or `content`:
    all files are read once, and a copy of them is the same set. A pack goes by its content."""

    @field_validator("keep_size")
    @classmethod
    def _holds_image_size(cls, keep_size: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("image_size")
        if keep_size is not None and (side is None or keep_size < side):
            wanted = "set data.image_size" if side is None else f"at least image_size, {side}"
            raise ValueError(f"is the side of which image_size is taken: {wanted}")
        return keep_size

    @property
    def kept_side(self) -> int | None:
        """`keep_size`."""
        return self.keep_size

    def load(self, split: Split) -> Samples:
        """The images of a split, uint8 [N, 1 or 3, H, W]."""
        images = self._images(split, kept=False)
        decoded = cached(images.key(self._side), lambda: images.decoded(self._side))
        return replace(decoded, notes=images.notes)

    def open_source(self, split: Split) -> ImageSource:
        """The images of a split, to be read one by one."""
        images = self._images(split)
        if isinstance(images, PackedImages):
            return images.source
        return FolderSource(images.index, by_content=self.fingerprint == "content")

    def decoded_bytes(self, split: Split) -> int:
        """How much memory `load` would take for a split, by its first image."""
        images = self._images(split)
        shape = layout_of(images[0], self._side)
        return len(images) * shape.channels * shape.height * shape.width

    def kept_decoded(self, split: Split) -> bool:
        """Whether `load` would map a split from the disk, where it was decoded once."""
        return is_cached(self._images(split).key(self._side))

    @property
    def _side(self) -> int | None:
        return self.keep_size or self.image_size

    def _images(self, split: Split, kept: bool = True) -> FolderImages | PackedImages:
        """Those of a packed set where `root` is one, else of folders.

        Args:
            split: whose.
            kept: whether a list of large folders that was kept may be taken.
        """
        places = self._places()
        if is_pack(places.root):
            return PackedImages(PackedSource(places.root, split))
        indices = kept_index(places) if kept else index_files(places)[0]
        return FolderImages(indices[split])

    def _places(self) -> FolderLayout:
        """Where the images lie."""
        unset = FolderLayout(Path(), self.test_folder, self.test_labels)
        if self.root is None:
            raise DataError(f"data.root: not set: {unset.told}")
        return replace(unset, root=Path(self.root).expanduser().resolve())
