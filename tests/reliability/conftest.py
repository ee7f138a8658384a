"""Commands that can be disturbed, and a run that was not, once for all files."""

from collections.abc import Iterator

import pytest

from tests.reliability.faults import Commands
from tests.reliability.undisturbed import Undisturbed, undisturbed


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="session")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(commands, tmp_path_factory.mktemp("whole"))
