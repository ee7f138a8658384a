"""The extra `kit`: all that a plugin's tests need, and nothing of what prunekit's own tests do."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TRY = """
import sys
sys.modules.update(dict.fromkeys({absent}))  # None: not installed
from prunekit.pruning.strategies.magnitude import Magnitude
from prunekit.testing import check_strategy
from prunekit.testing.cases import SMALL_MODELS
models = {{"attention": SMALL_MODELS["attention"]}}
settings = {{"sparsity": 0.5, "cadence": {{"every": "2st"}}}}
check_strategy(Magnitude, settings, models=models, examples=2)
"""


def distributions(extra):
    """Names that an extra asks for, those of the extras that it names included."""
    found = set()
    for line in EXTRAS[extra]:
        if inner := re.fullmatch(r"prunekit\[(.+)\]", line):
            found |= {name for one in inner[1].split(",") for name in distributions(one)}
        else:
            found.add(re.match(r"[\w-]+", line)[0])
    return found


def test_it_is_light_and_part_of_what_the_tests_have():
    assert distributions("kit") == {"pytest", "hypothesis"}
    assert distributions("kit") < distributions("test")


@pytest.mark.parametrize(
    "path",
    [
        "prunekit/cli/templates/common/pyproject.toml.tmpl",
        *("plugins/prunekit-nnrelief/pyproject.toml", "plugins/prunekit-rni/pyproject.toml"),
    ],
)
def test_plugins_ask_for_it(path):
    assert re.search(r'^test = \["prunekit\[kit[],]', (ROOT / path).read_text(), re.M)


@pytest.mark.slow
def test_it_is_enough_to_hold_a_strategy_to_the_contract():
    absent = sorted(name.replace("-", "_") for name in distributions("test") - distributions("kit"))
    assert {"lightning", "accelerate", "onnx", "timm"} <= set(absent)
    script = TRY.format(absent=json.dumps(absent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
