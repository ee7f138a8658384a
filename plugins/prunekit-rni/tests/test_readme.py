"""What the README shows works."""

import re
from pathlib import Path

import prunekit_rni
import pytest

import prunekit

README = Path(__file__).parents[1] / "README.md"
RECIPES = Path(prunekit_rni.__file__).parent / "recipes"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="installed without its README")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch_pruning")
    monkeypatch.chdir(tmp_path)
    text = (RECIPES / "rni_digits.yaml").read_text(encoding="utf-8")
    Path("rni_digits.yaml").write_text(text.replace("8ep", "1ep"), encoding="utf-8")
    [code] = blocks("python")
    exec(compile(code, str(README), "exec"), {"__name__": "example"})  # noqa: S102 - our own text
    assert int(capsys.readouterr().out.splitlines()[-1]) < 45_154


def test_yaml_blocks_are_valid(tmp_path):
    [text] = blocks("yaml")
    base = (RECIPES / "rni_vgg16_cifar.yaml").read_text(encoding="utf-8")
    kept = re.sub(r"^(strategies|phases):.*?(?=^\w|\Z)", "", base, flags=re.M | re.S)
    path = tmp_path / "shown.yaml"
    path.write_text(kept + text, encoding="utf-8")
    assert prunekit.load_recipe(path).strategies[0].name == "rni"


@pytest.mark.parametrize("name", ["rni", "l1_bn", "ucs"])
def test_every_key_is_in_the_table(name):
    text = README.read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text.split("| key |")[1], re.M))
    fields = type(prunekit.strategy(name, sparsity=0.5).config).model_fields
    for key, field in fields.items():
        if key not in ("name", "mode"):
            assert key in shown
        if key in ("cut", "min_channels", "exact", "remove", "shift", "lr_scale"):
            default = str(field.default).lower()
            assert shown[key].strip("` ") == default.removesuffix(".0"), key


def test_recipes_are_named():
    named = set(re.findall(r"`(rni_\w+)`", README.read_text(encoding="utf-8")))
    assert named == {path.stem for path in RECIPES.glob("*.yaml")}
