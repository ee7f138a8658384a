"""A run that nothing befell, once for all files."""

import pytest

from tests.reliability.undisturbed import Undisturbed, undisturbed
from tests.support.commands import Commands


@pytest.fixture(scope="session")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(commands, tmp_path_factory.mktemp("whole"))
