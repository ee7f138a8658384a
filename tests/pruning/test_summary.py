"""What a Pruner says of its model: hand-worked numbers, before, during and after training."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from prunekit import Pruner, strategy
from prunekit.models.cost import Macs
from prunekit.pruning.summary import ModelSummary


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),  # 216 entries, 8 filters
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),  # 1,280 entries
    )


FILTERS = {"scope": {"include": ["0.weight"]}, "sparsity": 0.25}
LINEAR = {"name": "linear", "stop": "100%"}
ENTRIES = {"scope": {"include": ["3.weight"]}, "sparsity": 0.9}


def pruner_of(model, **settings):
    made = [
        strategy("filter_magnitude", **FILTERS),
        strategy("magnitude", cadence={"every": "1st"}, schedule=LINEAR, **ENTRIES),
    ]
    return Pruner(model, made, total_steps=4, **settings)


def train(pruner, steps, model=None):
    optimizer = torch.optim.SGD(pruner.model.parameters(), lr=0.01)
    pruner.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        (model or pruner.model)(torch.randn(2, 3, 4, 4)).square().sum().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()


def test_the_numbers_are_those_of_the_hand():
    pruner = pruner_of(net(), input_shape=(3, 4, 4))
    before = pruner.summary()
    assert (before.step, before.total_steps, before.finished) == (0, 4, False)
    assert (before.sparsity, before.nonzero, before.parameters) == (0.0, 1506, 1506)
    assert [one.target for one in before.strategies] == [None, None]
    train(pruner, 2)
    half = pruner.summary()
    # linear: 45 % of 1,280 are pruned at half of the steps, and 2 of 8 filters of 27 from the start
    assert [(one.label, one.unit, one.total, one.kept, one.target) for one in half.strategies] == [
        ("filter_magnitude", "channels", 8, 6, 0.25),
        ("magnitude", "entries", 1280, 704, 0.45),
    ]
    assert [one.sparsity for one in half.strategies] == [0.25, pytest.approx(0.45)]
    assert [(one.name, one.shape, one.entries, one.kept) for one in half.layers] == [
        ("0.weight", (8, 3, 3, 3), 216, 162),
        ("3.weight", (10, 128), 1280, 704),
        ("3.bias", (10,), 10, 10),
    ]
    assert [one.strategy for one in half.layers] == ["filter_magnitude", "magnitude", ""]
    assert [one.density for one in half.layers] == [0.75, 0.55, 1.0]
    assert half.nonzero == 162 + 704 + 10
    assert half.sparsity == pytest.approx((54 + 576) / 1496)
    assert half.model_sparsity == pytest.approx((54 + 576) / 1506)
    # each entry of a filter is used at 4 * 4 positions, each of the linear layer once
    assert half.macs == Macs(dense=4736, executed=4736, theoretical=162 * 16 + 704)


def test_it_is_told_of_the_finished_model_as_well():
    pruner = pruner_of(net(), input_shape=(3, 4, 4))
    train(pruner, 4)
    last = pruner.summary()
    pruner.finish()
    finished = pruner.summary()
    assert finished.finished
    assert not last.finished
    same = ("sparsity", "nonzero", "parameters", "strategies", "layers", "macs")
    assert all(getattr(finished, name) == getattr(last, name) for name in same)
    assert finished.strategies[1].kept == 128
    assert (last.effective, finished.effective) == (None, finished.sparsity)
    assert "effective sparsity     80.61%" in str(finished)


TABLE = """\
state                  step 2 of 4
sparsity in scope      42.11%
sparsity of the model  41.83%
parameters kept        876 of 1,506
multiply-adds          4.74 k dense, 4.74 k executed, 3.30 k theoretical

strategy          kept     of     units  sparsity  target
filter_magnitude     6      8  channels    25.00%  25.00%
magnitude          704  1,280   entries    45.00%  45.00%

parameter          shape  entries  kept  density          strategy
0.weight   8 x 3 x 3 x 3      216   162   75.00%  filter_magnitude
3.weight        10 x 128    1,280   704   55.00%         magnitude
3.bias                10       10    10  100.00%                 -"""


def test_it_prints_as_tables():
    pruner = pruner_of(net(), input_shape=(3, 4, 4))
    train(pruner, 2)
    assert str(pruner.summary()) == TABLE
    console = Console(file=io.StringIO(), width=100)
    console.print(pruner.summary())
    assert "filter_magnitude" in console.file.getvalue()


def test_the_first_input_gives_the_shape_and_nothing_stays_behind():
    model = net()
    pruner = pruner_of(model)
    assert pruner.summary().macs is None
    assert "give the Pruner an input_shape" in str(pruner.summary())
    train(pruner, 1)
    assert not model._forward_pre_hooks
    assert pruner.summary().macs.dense == 4736
    train(pruner, 3)
    pruner.finish()
    assert pruner.summary().macs.dense == 4736


def test_an_input_by_its_name_gives_the_shape_whatever_stands_before_it():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 3)

        def forward(self, values, labels=None):
            return self.body(values)

    model = Named()
    pruner = Pruner(model, [strategy("magnitude", sparsity=0.5)], total_steps=1)
    model(labels=torch.zeros(2, 9), values=torch.zeros(2, 6))
    assert pruner.summary().macs.dense == 18


@pytest.mark.parametrize("value", [torch.zeros(2, 4, dtype=torch.long), torch.zeros(3), {}])
def test_what_is_no_batch_of_floats_gives_no_shape(value):
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, value):
            return self.linear.weight

    model = Takes()
    pruner = Pruner(model, [], total_steps=1)
    model(value)
    assert pruner.summary().macs is None


def test_a_compiled_model_is_left_alone_and_the_shape_may_be_given_late():
    model = net()
    pruner = pruner_of(model)
    train(pruner, 4, torch.compile(model, backend="eager", fullgraph=True))
    assert pruner.summary().macs is None
    assert pruner.summary((3, 4, 4)).macs.dense == 4736


def test_a_shape_that_does_not_fit_is_a_note():
    summary = pruner_of(net()).summary((3, 5, 5))
    assert summary.macs is None
    assert summary.macs_note.startswith("not counted for an input of (3, 5, 5): RuntimeError: ")
    assert "\n" not in summary.macs_note


def test_a_pruner_without_strategies_tells_of_a_dense_model():
    summary = Pruner(net(), [], total_steps=1, input_shape=(3, 4, 4)).summary()
    assert isinstance(summary, ModelSummary)
    assert (summary.sparsity, summary.nonzero, summary.strategies) == (0.0, 1506, ())
    assert summary.macs == Macs(4736, 4736, 4736)


def test_where_units_were_removed_it_counts_what_is_left():
    model = net()
    pruner = pruner_of(model, input_shape=(3, 4, 4))
    train(pruner, 4)

    def cut(finished):
        kept = finished[0].weight.detach().flatten(1).any(1)
        smaller = nn.Conv2d(3, int(kept.sum()), 3, padding=1, bias=False)
        smaller.weight = nn.Parameter(finished[0].weight.detach()[kept])
        columns = kept.repeat_interleave(16)
        head = nn.Linear(int(columns.sum()), 10)
        head.weight = nn.Parameter(finished[3].weight.detach()[:, columns])
        return nn.Sequential(smaller, nn.ReLU(), nn.Flatten(), head)

    pruner.assigned[0].strategy.finish = cut
    finished = pruner.finish()
    summary = pruner.summary()
    assert summary.parameters == 162 + 960 + 10
    assert summary.layers[0].shape == (6, 3, 3, 3)
    assert summary.layers[0].density == 1.0
    assert summary.layers[1].kept == int(finished[3].weight.count_nonzero())
    assert summary.strategies[0].kept == 6  # as it was when the run ended
    assert summary.strategies[0].total == 8
    assert summary.macs.executed == 162 * 16 + 960
