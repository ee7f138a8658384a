"""One plugin of every kind in one run: each from a distribution of its own."""

import json
import sys
import textwrap

import pytest
import torch

from prunekit import load_model, open_run
from prunekit.cli import main
from tests.support.training import result, rewound, same

SCORED = """
    from typing import Literal
    from prunekit import ScoredStrategy

    class Mine(ScoredStrategy):
        '''Keep large weights.'''

        class Config(ScoredStrategy.Config):
            name: Literal["plug_large"]

        def score(self, name, ctx):
            return ctx.weights[name].abs()
"""
UNSCORED = """
    from typing import Literal
    import torch
    from prunekit import PruningStrategy, StrategyConfig, Update

    class Mine(PruningStrategy):
        '''Close one weight more of each tensor, at random, every fifth step.'''

        class Config(StrategyConfig):
            name: Literal["plug_one_more"]

        def __init__(self, config):
            super().__init__(config)
            self.updates = 0

        def due(self, clock):
            return clock.step > 0 and clock.step % 5 == 0

        def update(self, ctx):
            self.updates += 1
            masks = {}
            for name, mask in ctx.masks.items():
                kept = mask.flatten().nonzero().flatten()
                lost = kept[torch.randint(len(kept), (), generator=ctx.generator)]
                masks[name] = mask.flatten().index_fill(0, lost, False).view_as(mask)
            return Update(masks=masks)

        def metrics(self):
            return {"updates": self.updates}

        def state_dict(self):
            return {"updates": self.updates}

        def load_state_dict(self, state):
            self.updates = state["updates"]
"""
COMPRESSOR = """
    from typing import Literal
    from prunekit import CompressorConfig, DataCompressor, TokenBatch

    class Mine(DataCompressor):
        '''Keep the first tokens.'''

        class Config(CompressorConfig):
            name: Literal["plug_first"]
            count: int

        conserves_mass = False

        def output_tokens(self, n):
            return min(n, self.config.count)

        def forward(self, tokens):
            end = tokens.protected + self.output_tokens(tokens.x.shape[1] - tokens.protected)
            return TokenBatch(tokens.x[:, :end], tokens.size[:, :end], tokens.protected)
"""
MODEL = """
    from typing import Literal
    import torch
    from torch import nn
    from prunekit import DataSpec, ModelConfig, TokenBatch

    class Rows(nn.Module):
        slots = ("tokens",)

        def __init__(self, spec, width):
            super().__init__()
            self.embed = nn.Linear(spec.channels * spec.width, width)
            self.head = nn.Linear(width, spec.classes)
            self.compressor = None

        def attach(self, slot, compressor):
            self.compressor = compressor

        def forward(self, images):
            x = self.embed(images.transpose(1, 2).flatten(2))
            if self.compressor is not None:
                x = self.compressor(TokenBatch(x, torch.ones_like(x[..., :1]), 0)).x
            return self.head(x.relu().mean(1))

    class Mine(ModelConfig):
        '''A row of the image is a token.'''

        name: Literal["plug_rows"]
        width: int = 8

        def build(self, spec):
            return Rows(spec, self.width)
"""
DATASET = """
    from typing import Literal
    import torch
    from prunekit import DatasetConfig, Samples

    class Mine(DatasetConfig):
        '''Noise with one bright column, whose number is the class.'''

        name: Literal["plug_bars"]

        def load(self, split):
            count = 64 if split == "train" else 32
            noise = torch.Generator().manual_seed(count)
            images = torch.randint(0, 64, (count, 1, 6, 6), generator=noise)
            labels = torch.arange(count) % 4
            images[torch.arange(count), 0, :, labels] += 128
            return Samples(images.to(torch.uint8), labels, ("a", "b", "c", "d"))
"""
PROBE = """
    from typing import Literal
    from prunekit import Probe, ProbeConfig

    class Mine(Probe):
        '''The largest gradient so far.'''

        class Config(ProbeConfig):
            name: Literal["plug_peak"]

        def __init__(self, config):
            super().__init__(config)
            self.peak = 0.0

        def due(self, clock):
            return True

        def observe(self, ctx):
            self.peak = max(self.peak, *(float(g.abs().max()) for g in ctx.grads.values()))
            return {"peak": self.peak}

        def state_dict(self):
            return {"peak": self.peak}

        def load_state_dict(self, state):
            self.peak = state["peak"]
"""
RECIPE = """
# One plugin of every kind.
name: plug_together
data: {name: plug_bars, batch_size: 16}
model: {name: plug_rows, width: 8}
compressors: [{name: plug_first, count: 5}]
strategies:
  - {name: plug_large, sparsity: 0.5, scope: {include: [embed.weight]}, cadence: {every: 3st}}
  - {name: plug_one_more, mode: masked, scope: {include: [head.weight]}}
probes: [plug_peak]
optimizer: {name: adamw, lr: 5.0e-2}
phases: [{name: train, length: 6ep}]
evaluate: {every: 2ep}
checkpoint: {every: 8st}
logging: {every: 1st}
"""
GROUPS = {
    "plug_large": ("strategies", SCORED),
    "plug_one_more": ("strategies", UNSCORED),
    "plug_first": ("compressors", COMPRESSOR),
    "plug_rows": ("models", MODEL),
    "plug_bars": ("datasets", DATASET),
    "plug_peak": ("probes", PROBE),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path with seven distributions: one a component, one with the recipe."""
    for name, (group, source) in GROUPS.items():
        write_info(tmp_path, f"dist-{name}", f"[prunekit.{group}]\n{name} = {name}_module:Mine\n")
        (tmp_path / f"{name}_module.py").write_text(textwrap.dedent(source))
    write_info(tmp_path, "dist-recipes", "[prunekit.recipes]\nx = plug_book.recipes\n")
    folder = tmp_path / "plug_book" / "recipes"
    folder.mkdir(parents=True)
    (folder / "plug_together.yaml").write_text(RECIPE.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]


def write_info(site, distribution, entry_points):
    info = site / f"{distribution.replace('-', '_')}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(entry_points)


def call(*args):
    with pytest.raises(SystemExit) as exit_info:
        main([str(arg) for arg in args])
    return exit_info.value.code


def test_a_plugin_of_every_kind_in_one_run(site, capsys):
    assert call("run", "plug_together", "--out", "runs") == 0, capsys.readouterr().err
    path = (site / "runs" / "plug_together" / "latest").resolve()
    masks = open_run(path).masks()
    assert int(masks["embed.weight"].sum()) == 24  # half of 6 x 8
    assert int((~masks["head.weight"]).sum()) == 4  # 24 steps, one weight each fifth
    report = json.loads((path / "report.json").read_text())
    assert report["accuracy"]["test_top1"] > 0.5
    lines = open_run(path).metrics()
    peaks = [line["probe/plug_peak/peak"] for line in lines if "probe/plug_peak/peak" in line]
    assert len(peaks) >= 6
    assert peaks == sorted(peaks)
    plugins = report["environment"]["plugins"]
    assert {f"dist-{name}" for name in GROUPS} <= set(plugins)
    assert "dist-recipes" not in plugins  # a recipe changes nothing but what it says

    model = load_model(path)
    assert type(model).__module__ == "plug_rows_module"
    assert same(dict(model.state_dict()), open_run(path).final_weights())
    images = torch.rand(3, 1, 6, 6)
    changed = images.clone()
    changed[:, :, 5] = 0  # the compressor dropped the sixth token
    assert torch.equal(model(images), model(changed))

    # a run that was killed goes on with the state of every plugin
    again = rewound(path, 8, site / "again")
    assert call("resume", again) == 0, capsys.readouterr().err
    assert same(result(path), result(again))
    assert open_run(again).metrics()[-1] == open_run(path).metrics()[-1]
