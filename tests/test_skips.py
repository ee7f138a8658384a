"""What CI may skip is what some test really says: a reason that was renamed fails here."""

from pathlib import Path

import pytest

from tests.conftest import MAY_SKIP

TESTS = Path(__file__).parent


@pytest.mark.parametrize("reason", MAY_SKIP)
def test_a_reason_that_ci_allows_is_the_reason_of_a_test(reason):
    texts = (path.read_text() for path in TESTS.rglob("test_*.py"))
    assert any(f'reason="{reason}' in text for text in texts)
