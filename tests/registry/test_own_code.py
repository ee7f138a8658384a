"""A file of code is run because a call names it, once, alone, and for as long as it is in use."""

import pickle
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from prunekit.errors import CheckpointError, PluginError, RecipeError, UsageError
from prunekit.recipe.identity import cell_key, recipe_hash
from prunekit.recipe.load import load_recipe
from prunekit.registry import DATASETS, LOGGERS, LOSSES, MODELS, PROBES, REGISTRIES, STRATEGIES
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.own_code import (
    CodeFile,
    code_of,
    current_code,
    read_code,
    require_code,
    use_code,
)
from tests.support.own_code import RECIPE, SOURCE, own_recipe, sha256_of, written

BUILTIN = {kind: set(registry.names()) for kind, registry in REGISTRIES.items()}


def own_names(path: Path) -> dict[str, set[str]]:
    with use_code(path):
        found = {
            kind: set(registry.names()) - BUILTIN[kind] for kind, registry in REGISTRIES.items()
        }
    return {kind: names for kind, names in found.items() if names}


def test_classes_are_names_while_the_file_is_in_use(tmp_path):
    assert own_names(written(tmp_path)) == {"model": {"TinyNet"}, "dataset": {"stripes"}}
    assert current_code() is None
    with pytest.raises(UnknownNameError, match=r"--code FILE \(docs/your-own.md\)"):
        MODELS.component("TinyNet")


KINDS = '''
from collections.abc import Mapping
from collections import OrderedDict
from typing import Literal

import torch
from prunekit import (
    Clock, Context, DataCompressor, DataSpec, DatasetConfig, ModelConfig, Probe, ProbeConfig,
    RatioCompressor, RatioConfig, Samples, ScoredStrategy, TokenBatch,
)
from prunekit.pruning.strategies.magnitude import Magnitude
from torch import nn
from torch.nn import Linear
from torch.utils.data import Dataset, TensorDataset


class Base(ScoredStrategy):
    def score(self, name, ctx):
        return ctx.weights[name].abs()


class Named(Base):
    class Config(ScoredStrategy.Config):
        name: Literal["by_its_config"]
        power: float = 1.0


class Larger(Magnitude):
    """A built-in with another name."""


class First(RatioCompressor):
    class Config(RatioConfig):
        name: Literal["first"]

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        return tokens


class Looks(Probe):
    class Config(ProbeConfig):
        name: Literal["looks"]

    def due(self, clock: Clock) -> bool:
        return True

    def observe(self, ctx: Context) -> Mapping[str, float]:
        return {}


class Wide(ModelConfig):
    name: Literal["wide"]

    def build(self, spec: DataSpec) -> nn.Module:
        return nn.Linear(1, 1)


class Plain(nn.Module):
    pass


class Rows(Dataset):
    def __getitem__(self, i):
        return None

    def __len__(self):
        return 1


def samples():
    return None


def built(width: int = 3) -> nn.Module:
    return nn.Linear(width, 1)


def helper(x: int) -> int:
    return x


def pixels(x) -> "torch.Tensor":
    return x


def _private():
    return None


class _Private(nn.Module):
    pass


value = 3
made = Plain()
alias = Plain
'''


def test_what_each_kind_takes_and_what_is_imported_or_private_is_not_offered(tmp_path):
    assert own_names(written(tmp_path, KINDS)) == {
        "strategy": {"Base", "by_its_config", "Larger"},
        "compressor": {"first"},
        "probe": {"looks"},
        "model": {"wide", "Plain", "built"},
        "dataset": {"Rows", "samples"},
    }


PARTS = """
from pathlib import Path
from torch import nn
from torch.utils.data import Dataset


class Block(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()


class Net(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.block = Block()


class Wider(Net):
    pass


class Photos(Dataset):
    def __init__(self, split, root="photos"):
        self.files = list_files(Path(root) / split)

    def __getitem__(self, i):
        return self.files[i]


def list_files(folder):
    return sorted(folder.iterdir())


def loose(folder, split):
    return folder


def pair(count: int = 3):
    return Photos("train"), Photos("test")


def seed_everything(seed: int = 0):
    return None


def digits(split):
    return list_files(split)


def mixed(split):
    return digits(split)


seed_everything()
"""


def test_blocks_and_helpers_are_not_listed_and_can_be_named(tmp_path):
    path = written(tmp_path, PARTS)
    assert own_names(path) == {"model": {"Net", "Wider"}, "dataset": {"Photos", "pair", "mixed"}}
    with use_code(path):
        assert MODELS.parse({"name": "Block"}).width == 4
        with pytest.raises(PluginError, match="'folder' has neither a type nor a default"):
            DATASETS.load("loose")
        assert DATASETS.component("digits").builtin  # a helper of that name is not meant


def test_a_strategy_without_a_config_of_its_own_has_that_of_its_base(tmp_path):
    with use_code(written(tmp_path, KINDS)):
        config = STRATEGIES.parse({"name": "Larger", "sparsity": 0.5})
        assert type(STRATEGIES.create(config)).__name__ == "Larger"
        assert STRATEGIES.parse({"name": "by_its_config", "sparsity": 0.5}).power == 1.0
        assert PROBES.parse({"name": "looks"}).name == "looks"
        assert code_of(config).name == "mine.py"


LOOSE = """
from prunekit import Logger, Loss, LossBatch

class Squares(Loss):
    def value(self, batch: LossBatch):
        return batch.logits.square().mean()

class Silent(Logger):
    def open(self, run):
        pass
    def scalars(self, step, values):
        pass
"""


def test_a_loss_and_a_logger_may_have_nothing_to_set(tmp_path):
    with use_code(written(tmp_path, LOOSE)):
        assert LOSSES.parse("Squares").name == "Squares"
        logger = LOGGERS.create(LOGGERS.parse("Silent"))
        assert logger.config.name == "Silent"
        with pytest.raises(ValidationError, match="gamma"):
            LOSSES.parse({"name": "Squares", "gamma": 1})


def test_a_file_is_run_once_a_process_and_again_when_it_changed(tmp_path):
    ran = str(tmp_path / "ran")
    source = f"{SOURCE}\nwith open({ran!r}, 'a') as file:\n    file.write('x')\n"
    path = written(tmp_path, source)
    for _ in range(2):
        with use_code(path):
            kept = MODELS.config_class("TinyNet")
    with use_code(path):
        assert MODELS.config_class("TinyNet") is kept
    assert (tmp_path / "ran").read_text() == "x"
    with use_code(written(tmp_path, source + "# other\n")):
        assert MODELS.config_class("TinyNet") is not kept
    assert (tmp_path / "ran").read_text() == "xx"


def test_the_same_content_has_the_name_of_the_file_that_is_given(tmp_path):
    for name in ("one.py", "two.py"):
        with use_code(written(tmp_path, name=name)):
            assert code_of(MODELS.parse({"name": "TinyNet"})).name == name


def test_reading_a_file_runs_nothing(tmp_path):
    path = written(tmp_path, "raise SystemExit")
    file = read_code(path)
    assert (file.name, file.sha256) == ("mine.py", sha256_of(path))


def test_one_file_in_another_and_back(tmp_path):
    one, two = written(tmp_path), written(tmp_path, KINDS, "two.py")
    with use_code(one):
        with use_code(two):
            assert "Plain" in MODELS.names()
            assert "TinyNet" not in MODELS.names()
        with use_code(None) as same:
            assert same is current_code()
        assert "TinyNet" in MODELS.names()
    assert set(MODELS.names()) == BUILTIN["model"]


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("x = 1\nif x\n", 2, "SyntaxError: expected ':'"),
        ("import math\n\nmath.nothing\n", 3, "AttributeError"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('bye')\n", 2, "SystemExit: bye"),
        ("from . import other\n", 1, "a file of --code stands alone"),
        ("import not_there_at_all\n", 1, "a file of --code stands alone"),
        ("x = '\0'\n", None, "null bytes"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_own(tmp_path, source, line, what):
    path = written(tmp_path, source)
    with pytest.raises(PluginError) as caught, use_code(path):
        pass
    place = f"{path}:{line}: " if line else str(path)
    assert str(caught.value).startswith(f"{place}{'cannot be imported' if line else ''}")
    assert what in str(caught.value)
    assert str(caught.value).count(path.name) == 1
    assert "\n" not in str(caught.value)
    assert current_code() is None
    assert not [name for name in sys.modules if name == read_code(path).module]


def test_no_file_is_one_line(tmp_path):
    for path, what in ((tmp_path, "a folder"), (tmp_path / "no.py", "no such file")):
        with pytest.raises(UsageError, match=what), use_code(path):
            pass


def test_nothing_else_is_imported_from_its_folder(tmp_path, monkeypatch):
    """Neither by itself nor where `python -m` has put the folder on the path."""
    (tmp_path / "a_helper_of_mine.py").write_text("X = 1\n")
    path = written(tmp_path, "import a_helper_of_mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for first in ([], [""], [str(tmp_path)]):
        monkeypatch.setattr(sys, "path", [*first, *sys.path])
        with pytest.raises(PluginError, match="No module named 'a_helper_of_mine'"), use_code(path):
            pass
        assert sys.path[: len(first)] == first


def test_what_the_user_put_on_the_path_is_used(tmp_path, monkeypatch):
    (tmp_path / "another_helper.py").write_text("X = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with use_code(written(tmp_path, "import another_helper\n")):
        pass
    del sys.modules["another_helper"]


def test_the_name_of_a_built_in_is_for_neither_alone(tmp_path):
    path = written(tmp_path, "from torch import nn\nclass vit(nn.Module): pass\n")
    with use_code(path):
        with pytest.raises(AmbiguousNameError) as caught:
            MODELS.component("vit")
        assert MODELS.component("mine.py:vit").own
        assert MODELS.component("prunekit:vit").builtin
        assert code_of(MODELS.parse({"name": "mine.py:vit"})).name == "mine.py"
        assert code_of(MODELS.parse({"name": "prunekit:vit", "patch_size": 2})) is None
    assert str(caught.value).startswith("model 'vit' is given by prunekit")
    assert "mine.py (mine.py:vit): write 'prunekit:vit' or 'mine.py:vit'" in str(caught.value)


def test_two_of_one_name_in_a_file_are_one_line(tmp_path):
    source = KINDS + KINDS[KINDS.index("class Wide") : KINDS.index("class Plain")].replace(
        "class Wide", "class Second"
    )
    with pytest.raises(PluginError, match="a second model 'wide' beside Wide"):
        own_names(written(tmp_path, source))


def test_a_file_goes_to_other_processes_as_it_was_read(tmp_path):
    path = written(tmp_path)
    file = read_code(path)
    path.write_text("raise SystemExit")
    again = pickle.loads(pickle.dumps(file))  # noqa: S301 - our own
    assert again == CodeFile(str(path), SOURCE.encode())
    with use_code(again):
        assert "TinyNet" in MODELS.names()
        net = MODELS.parse({"name": "TinyNet"}).signature.made_by
        assert pickle.loads(pickle.dumps(net)) is net  # noqa: S301


def test_other_code_is_another_experiment_and_no_code_is_what_it_was(tmp_path):
    recipe = own_recipe(tmp_path)
    one = load_recipe(recipe, code=written(tmp_path))
    two = load_recipe(recipe, code=written(tmp_path, SOURCE + "# other\n"))
    assert recipe_hash(one) != recipe_hash(two)
    assert cell_key(one) != cell_key(two)
    without = load_recipe("quickstart")
    beside = load_recipe("quickstart", code=written(tmp_path))
    assert recipe_hash(without) == recipe_hash(beside)
    probed = tmp_path / "probed.yaml"
    probed.write_text((Path("recipes") / "quickstart.yaml").read_text() + "probes: [looks]\n")
    seen = [load_recipe(probed, code=written(tmp_path, KINDS + end)) for end in ("", "# other\n")]
    assert len({recipe_hash(recipe) for recipe in seen}) == 1  # what watches changes no result
    assert len({cell_key(recipe) for recipe in seen}) == 2  # but what the run leaves behind


def test_what_a_run_tells_is_compared_with_the_file_in_use(tmp_path):
    path = written(tmp_path)
    told = read_code(path).told()
    require_code(None, tmp_path)
    with pytest.raises(CheckpointError, match=r"made with 'mine.py' \(SHA-256 .{12}\): give that"):
        require_code(told, tmp_path)
    with use_code(path):
        require_code(told, tmp_path)
    other = written(tmp_path, SOURCE + "# other\n")
    with (
        use_code(other),
        pytest.raises(CheckpointError, match="give the file of then, or --code-changed"),
    ):
        require_code(told, tmp_path)
    with use_code(path, changed=True):
        require_code(told, tmp_path)
    for corrupt in ("mine.py", {}, {"name": 1, "sha256": "x"}, ["a", "b"], {"name": "a"}):
        with pytest.raises(CheckpointError, match="corrupt"):
            require_code(corrupt, tmp_path)


def test_a_class_that_lacks_a_method_is_told_when_it_is_named(tmp_path):
    source = "from prunekit import PruningStrategy\nclass Half(PruningStrategy): pass\n"
    path = written(tmp_path, source)
    with use_code(path), pytest.raises(PluginError, match="Half does not define due, update"):
        STRATEGIES.load("Half")


def test_errors_in_a_recipe_are_those_of_any_component(tmp_path):
    text = RECIPE.replace("{name: TinyNet}", "{name: TinyNet, widht: 3}")
    with pytest.raises(RecipeError, match=r"own.yaml:4:24 model.widht: unknown key of .* 'width'"):
        load_recipe(own_recipe(tmp_path, text), code=written(tmp_path))
    text = RECIPE.replace("TinyNet", "TinyNett")
    with pytest.raises(RecipeError, match=r"no model is called 'TinyNett'. Did you mean 'TinyNet'"):
        load_recipe(own_recipe(tmp_path, text), code=written(tmp_path))
    assert "stripes" not in DATASETS.names()
