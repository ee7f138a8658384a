"""What goes wrong in code of others is theirs; a Ctrl-C is nobody's fault."""

import pytest

from prunekit.errors import PluginError
from prunekit.registry.foreign import ForeignCode, reason

Panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


@pytest.mark.parametrize("error", [ValueError("a"), SystemExit(3), Panic("a"), BaseException("a")])
def test_whatever_it_raises_is_told_as_its_own(error: BaseException) -> None:
    with pytest.raises(PluginError) as told, ForeignCode(lambda e: f"zoo: {reason(e)}"):
        raise error
    assert str(told.value) == f"zoo: {type(error).__name__}: {error}"
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_more_than_the_code_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as passed, ForeignCode(reason):
        raise error
    assert passed.value is error


def test_what_it_does_well_is_its_own() -> None:
    with ForeignCode(reason):
        found = 1
    assert found == 1
