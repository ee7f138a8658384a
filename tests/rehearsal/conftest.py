"""The process with the pretend device, for whoever rehearses on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal.compiler import NO_COMPILER, built, has_compiler
from tests.rehearsal.process import DeviceProcess


@pytest.fixture(scope="session")
def library() -> Path:
    if not has_compiler():
        pytest.skip(NO_COMPILER)
    return built()


@pytest.fixture(scope="session")
def pretend(library: Path) -> Iterator[DeviceProcess]:
    """`pretend(function, *args)`: the result of a function, called where the device is."""
    with DeviceProcess(library) as process:
        yield process


@pytest.fixture(scope="session")
def pretend_float32(library: Path) -> Iterator[DeviceProcess]:
    """The same, where the device refuses float64."""
    with DeviceProcess(library, float64=False) as process:
        yield process
