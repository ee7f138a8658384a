"""How a GPU rounds is set whole, whatever was before, and read back: torch has it without one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.foundation.numerics import CUBLAS_WORKSPACE, Numerics


@dataclass
class Asked:
    tf32: bool | Literal["convolutions"] = False
    cudnn_benchmark: bool = False
    deterministic: bool = False


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    os.environ.pop(CUBLAS_WORKSPACE, None)
    Numerics().set()


ANY = st.builds(Asked, st.sampled_from([True, False, "convolutions"]), st.booleans(), st.booleans())


def of_torch() -> tuple[object, ...]:
    """As its kernels and its compiler ask for it, by the newer and the older names."""
    backends = torch.backends
    return (
        backends.cuda.matmul.fp32_precision,
        backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
        backends.cudnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


@given(st.lists(ANY, min_size=1, max_size=4))
def test_the_last_settings_hold_by_every_name(settings: list[Asked]) -> None:
    for asked in settings:
        Numerics.of(asked).set()
    matmul, convolution = asked.tf32 is True, asked.tf32 in (True, "convolutions")
    assert of_torch() == (
        "tf32" if matmul else "ieee",
        matmul,
        "high" if matmul else "highest",
        *["tf32" if convolution else "ieee"] * 2,
        convolution,
        asked.cudnn_benchmark,
        asked.deterministic,
        asked.deterministic,
    )
    assert Numerics.in_force() == Numerics.of(asked)
    told = Numerics.in_force().told()
    assert told == {
        "tf32_matmul": matmul,
        "tf32_convolution": convolution,
        "cudnn_benchmark": asked.cudnn_benchmark,
        "deterministic": asked.deterministic,
    }


def test_plain_fp32_is_not_what_torch_does_by_itself() -> None:
    torch.backends.cudnn.allow_tf32 = True  # as in a fresh process
    assert Numerics.in_force() == Numerics(tf32_convolution=True)
    Numerics.of(Asked()).set()
    assert Numerics.in_force() == Numerics()


def test_a_workspace_of_cublas_that_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    Numerics(deterministic=True).set()
    assert os.environ[CUBLAS_WORKSPACE] == ":16:8"
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    Numerics(deterministic=True).set()
    assert os.environ[CUBLAS_WORKSPACE] == ":4096:8"
