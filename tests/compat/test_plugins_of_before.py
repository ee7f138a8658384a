"""Plugins that were written against an earlier interface go on working, unchanged.

See `tests/fixtures/plugins_of_81d581c/README.md`.
"""

import json
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit import Pruner
from prunekit.testing import check_strategy

HERE = Path(__file__).parents[1] / "fixtures/plugins_of_81d581c"
STEPS = 6
CASES = {
    "prunekit_rni.rni:RNI": {"sparsity": 0.5, "penalty": 0.01, "cut": "50%"},
    "prunekit_rni.l1_bn:L1BatchNorm": {"sparsity": 0.5, "penalty": 0.01, "cut": "50%"},
    "prunekit_rni.ucs:UniformChannels": {"sparsity": 0.5, "cut": "50%"},
    "prunekit_nnrelief.strategy:NNrelief": {"samples": 8, "alpha_conv": 0.7, "alpha_fc": 0.7},
    "prunekit_rowwise.strategy:Rowwise": {"sparsity": 0.5, "cadence": {"every": "2st"}},
}
PACKAGES = {case.partition(".")[0] for case in CASES}


@contextmanager
def of_before():
    """What is imported of the plugins inside is the fixtures', and is forgotten after."""
    held = {name: one for name, one in sys.modules.items() if name.partition(".")[0] in PACKAGES}
    for name in held:
        del sys.modules[name]
    sys.path.insert(0, str(HERE))
    try:
        yield
    finally:
        sys.path.remove(str(HERE))
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(held)


def loaded(case):
    module, name = case.split(":")
    found = getattr(import_module(module), name)
    assert Path(sys.modules[module].__file__).is_relative_to(HERE)
    return found


class Batches:
    """Calibration samples, and those of the training."""

    def calibration(self, samples, balanced):
        yield batch(samples, 0)


def batch(samples, place):
    draw = torch.Generator().manual_seed(place)
    x = torch.randn(samples, 2, 6, 6, generator=draw)
    return x, torch.randint(3, (samples,), generator=draw)


def outcome(case, settings):
    """Entries that are kept of each tensor, and the loss after some steps."""
    with of_before(), torch.random.fork_rng(devices=[]):
        cls = loaded(case)
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        )
        name = cls.Config.model_fields["name"].annotation.__args__[0]
        strategy = cls(cls.Config.model_validate_json(json.dumps(settings | {"name": name})))
        pruner = Pruner(model, [strategy], total_steps=STEPS, data=Batches(), input_shape=(2, 6, 6))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner.attach(optimizer)
        for t in range(STEPS):
            x, y = batch(16, t + 1)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if pruner.before_step():
                optimizer.step()
            pruner.after_step()
        kept = {name: int(mask.sum()) for name, mask in pruner.masks().items()}
        x, y = batch(16, 99)
        with torch.no_grad():
            return {"kept": kept, "loss": float(F.cross_entropy(pruner.finish().eval()(x), y))}


@pytest.mark.parametrize("case", CASES)
def test_a_plugin_gives_what_it_gave(case):
    expected = json.loads((HERE / "numbers.json").read_text())[case]
    now = outcome(case, CASES[case])
    assert now["kept"] == expected["kept"]
    assert now["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_plugin_keeps_the_contract_of_today(case):
    with of_before():
        check_strategy(loaded(case), CASES[case], examples=2)


if __name__ == "__main__":
    found = {case: outcome(case, settings) for case, settings in CASES.items()}
    (HERE / "numbers.json").write_text(json.dumps(found, indent=1) + "\n")
