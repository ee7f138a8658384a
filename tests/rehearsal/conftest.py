"""The process with the pretend device, for whoever rehearses on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal.compiler import NO_COMPILER, built, has_compiler
from tests.rehearsal.process import DeviceProcess


@pytest.fixture(scope="session")
def _library() -> Path:
    if not has_compiler():
        pytest.skip(NO_COMPILER)
    return built()


@pytest.fixture(scope="session")
def pretend(_library: Path) -> Iterator[DeviceProcess]:
    """`pretend(function, *args)`: the result of a function, called where the device is."""
    with DeviceProcess(_library) as process:
        yield process


@pytest.fixture(scope="session")
def pretend_float32(_library: Path) -> Iterator[DeviceProcess]:
    """The same, where the device refuses float64."""
    with DeviceProcess(_library, float64=False) as process:
        yield process
