"""What the README shows is so."""

import re
from pathlib import Path

import pytest
from prunekit_nnrelief.strategy import NNrelief

from prunekit import load_recipe

README = Path(__file__).parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="installed without its README")
REST = """
name: readme
data: {name: digits, image_size: 16}
model: {name: lenet5}
optimizer: {name: adamw, lr: 1.0e-3}
"""


def test_its_recipe_is_valid(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "recipe.yaml"
    path.write_text(REST + block)
    assert load_recipe(path).strategies[0].alpha_conv == 0.9


def test_its_table_has_every_key_with_its_default():
    text = README.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    fields = NNrelief.Config.model_fields
    assert rows.keys() == fields.keys() - {"name"}
    for key in ("alpha_conv", "alpha_fc", "samples", "reduction", "propagate", "mode"):
        assert rows[key].strip("`") == str(fields[key].default)
