"""What tests of exports need and none of them looks at."""

from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def operators_read_once():
    """torch.onnx parses its five hundred operators, which never change, again for each file."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # without onnxscript nothing is exported
        yield
        return
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(
            ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))
        )
        yield
