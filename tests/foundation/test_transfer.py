"""What goes between host and device."""

from __future__ import annotations

import pytest
import torch

from prunekit.foundation.transfer import read, send

CPU = torch.device("cpu")


def test_on_the_host_nothing_is_copied() -> None:
    here = torch.arange(5)
    assert send(here, CPU) is here


def test_what_is_sent_keeps_shape_and_type() -> None:
    there = send(torch.ones(2, 3, dtype=torch.int16), torch.device("meta"))
    assert (there.device.type, there.shape, there.dtype) == ("meta", (2, 3), torch.int16)


def test_numbers_are_read_whatever_their_type_and_shape() -> None:
    numbers = [torch.tensor(2**40), torch.tensor([True]), torch.zeros((), dtype=torch.int32)]
    assert read(numbers) == [2**40, 1, 0]
    assert read([]) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_it_without_a_wait() -> None:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = send(torch.arange(1000), torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert torch.equal(there.cpu(), torch.arange(1000))
