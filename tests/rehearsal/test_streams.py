"""A streamed set on the pretend device: its batches go there from page-locked memory, unwaited."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from prunekit.data import DataSet, open_dataset
from prunekit.data.stream import streamed
from prunekit.data.stream.streamed import Streamed
from prunekit.foundation import transfer
from tests.rehearsal.device import NAME, HostWaits, host_waits
from tests.rehearsal.test_waits import most
from tests.support.data_sets import image_folder
from tests.support.streams import FilesConfig

STEPS = 4


def opened(root: Path, device: str, workers: int) -> DataSet:
    config = FilesConfig(
        root=str(root), batch_size=6, micro_batch=4, storage="stream", workers=workers
    )
    return open_dataset(config, seed=0, device=torch.device(device))


def batches() -> tuple[list[HostWaits], list[bool], list[bool]]:
    """What the host waited for in a step, whether all came from page-locked memory, and whether
    images and labels are those of the CPU."""
    pins, pinned, moved = (*transfer.PINS, NAME), list[bool](), Streamed._moved

    def watched(self: Streamed, pieces: Sequence[Tensor]) -> Tensor:
        if self.device.type == NAME:
            pinned.extend(piece.is_pinned() for piece in pieces)
        return moved(self, pieces)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(transfer, "PINS", pins),
        patch.object(streamed, "PINS", pins),
        patch.object(Streamed, "_moved", watched),
    ):
        root = image_folder(Path(folder), ["ant", "bee"], size=8)
        here, there = opened(root, "cpu", 0), opened(root, NAME, 1)
        waits, same = list[HostWaits](), list[bool]()
        for step in range(STEPS):
            with host_waits() as found:
                got = list(there.micro_batches(step))
            waits.append(found)
            for (x, y), (own, labels) in zip(got, here.micro_batches(step), strict=True):
                same.append(torch.equal(x.cpu(), own) and torch.equal(y.cpu(), labels))
        there.close()
        return waits, pinned, same


def test_a_batch_comes_from_page_locked_memory_unwaited_and_is_that_of_the_cpu(pretend):
    waits, pinned, same = pretend(batches)
    most(waits, 0)
    assert all(one.copies for one in waits)
    assert pinned
    assert all(pinned)
    assert len(same) == 2 * STEPS
    assert all(same)
