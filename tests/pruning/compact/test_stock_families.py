"""Each family of stock models: random channels closed, taken out, written, loaded; or refused.

`pytest -m soak tests/pruning/compact/test_stock_families.py -s` prints what came of each, in hours.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from prunekit.errors import RemovalError
from prunekit.models import build_model
from prunekit.models.saved import load_model, model_metadata, write_model
from prunekit.pruning.compact.conv_graph import without_closed
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec
from tests.support.dead_channels import CLASSES, close, lived_in

TRIED = json.loads((Path(__file__).parents[3] / "docs/models_tried.json").read_text("utf-8"))
CONVOLUTIONS = {
    family: row
    for family, row in TRIED["models"].items()
    if row.get("filters", "").startswith(("trains", "without "))
}


def taken_out(model, shape, tmp_path, config, spec):
    """What came of it, in a line."""
    closed = close(model, shape)
    try:
        found = without_closed(model, closed, shape)
    except RemovalError as error:
        return f"refused: {error}"
    sizes = [sum(p.numel() for p in one.parameters()) for one in (model, found.model)]
    told = (
        f"{sizes[1] / sizes[0]:.2f} of the parameters, {sum(found.removed.values())} channels for "
        f"{sum(map(len, closed.values()))} that are empty"
    )
    for reason, count in Counter(found.stayed.values()).most_common(3):
        told += f"; {count} layers: {reason}"
    metadata = model_metadata(found.model, config, [], spec)
    if not metadata:
        return f"{told}; cannot be loaded"
    write_model(tmp_path / "m", found.model, {}, metadata)
    loaded = load_model(tmp_path / "m")
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        before, after = (one.double().eval()(images) for one in (model, loaded))
    assert (before - after).abs().max() <= 1e-9 * before.abs().max()
    return told


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", CONVOLUTIONS)
def test_a_family_gets_smaller_or_is_refused(family, tmp_path):
    row = CONVOLUTIONS[family]
    channels, height, width = map(int, row["input"].split("x"))
    spec = DataSpec(channels=channels, height=height, width=width, classes=CLASSES)
    config = MODELS.parse({"name": row["model"]})
    torch.manual_seed(0)
    model = lived_in(build_model(config, spec), spec.input_shape)
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return
    told = taken_out(model, spec.input_shape, tmp_path, config, spec)
    assert "\n" not in told
    sys.stdout.write(f"{row['model']}: {told}\n")
