"""SNIP, GraSP and SynFlow against finite differences and path sums, and what they leave alone."""

import copy
from collections import OrderedDict
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.timeline import Timeline
from prunekit.pruning.context import Sources, StepContext
from prunekit.pruning.engine import Engine
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.runs.directory import open_run
from tests.support.ranks import TwoRanks
from tests.support.scored import same, slow_masks, total
from tests.support.training import run, with_steps

SEEDS = st.integers(0, 2**16)
SPARSITIES = st.floats(0.05, 0.95)
NAMES = ("snip", "grasp", "synflow")
VIT = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 16, "heads": 2}
SHORT = [{"name": "train", "length": "2st"}]


class Samples:
    """Calibration data: `count` inputs of `shape`, in batches of `size`."""

    def __init__(self, seed=0, count=12, shape=(4,), classes=3, size=12):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, *shape, generator=draw, dtype=torch.float64)
        self.y = torch.randint(classes, (count,), generator=draw)
        self.size, self.asked = size, []

    def calibration(self, samples, balanced):
        self.asked.append((samples, balanced))
        x, y = self.x[:samples], self.y[:samples]
        return zip(x.split(self.size), y.split(self.size), strict=True)


def seeded(make, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def smooth(seed=0):
    return seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), seed)


def positive(widths, seed=0):
    """Linear layers and ReLUs without biases."""

    def make():
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        return nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())][:-1])

    return seeded(make, seed)


def convolutional(seed=0):
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 3, 2, bias=False),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(12, 3, bias=False),
        ),
        seed,
    )


def chosen(name, data, settings):
    if name != "synflow":
        settings = {"samples": len(data.y)} | settings
    return strategy(name, **{"sparsity": 0.5} | settings)


def pruner_of(name, model, data=None, shape=(4,), **settings):
    made = chosen(name, data, settings)
    return Pruner(model, [made], total_steps=3, data=data, input_shape=shape)


def masks_of(name, model, data=None, shape=(4,), **settings):
    pruner = pruner_of(name, model, data, shape, **settings)
    pruner.start()
    return pruner.masks()


def scores_of(name, model, data=None, shape=(4,), **settings):
    sources = Sources(data=data, input_shape=shape)
    engine = Engine(model, [chosen(name, data, settings)], Timeline.single(3), sources=sources)
    ctx = StepContext(engine.around, name, engine.assigned[0].scope, engine.timeline.clock(0), 0)
    return engine.assigned[0].strategy.passes(ctx)


def weights_of(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim > 1}


def loss_at(model, weights, data, temperature=1.0):
    """The mean cross-entropy of `smooth` by its formula, at other weights."""
    biases = dict(model.named_parameters())
    hidden = torch.tanh(data.x @ weights["0.weight"].T + biases["0.bias"])
    logits = (hidden @ weights["2.weight"].T + biases["2.bias"]) / temperature
    return -logits.log_softmax(1)[torch.arange(len(data.y)), data.y].mean()


# ---- SNIP


def gate_derivatives(model, data, step=1e-5):
    """|dL/dc| at c = 1, each weight multiplied by a gate c, by central differences."""
    weights, scores = weights_of(model), {}
    with torch.no_grad():
        for name, weight in weights.items():
            scores[name] = torch.zeros_like(weight)
            for index in product(*map(range, weight.shape)):
                losses = []
                for gate in (1 + step, 1 - step):
                    moved = {n: w.clone() for n, w in weights.items()}
                    moved[name][index] *= gate
                    losses.append(loss_at(model, moved, data))
                scores[name][index] = abs(losses[0] - losses[1]) / (2 * step)
    return scores


@with_steps
@given(seed=SEEDS, sparsity=SPARSITIES, size=st.integers(1, 12))
def test_snip_keeps_what_a_gate_on_each_weight_moves_most(seed, sparsity, size):
    model, data = smooth(seed), Samples(seed, size=size)
    slow = gate_derivatives(model, data)
    masks = masks_of("snip", model, data, sparsity=sparsity)
    assert same(masks, slow_masks(slow, keep_count(total(slow), sparsity)))


def test_snip_prunes_zero_weights_first():
    model, data = smooth(), Samples()
    with torch.no_grad():
        model[0].weight[:2] = 0
    scores = scores_of("snip", model, data)
    assert torch.equal(scores["0.weight"] == 0, model[0].weight == 0)
    assert (scores["2.weight"] > 0).all()


def test_snip_sums_signed_gradients_before_the_absolute_value():
    """Two samples that pull a weight in opposite directions say nothing about it."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 2.0]]))
    data = Samples(count=2, shape=(2,), size=1)
    data.x, data.y = torch.tensor([[1.0, 0], [1, 0]]).double(), torch.tensor([0, 1])
    assert not scores_of("snip", model, data)["0.weight"].any()


# ---- GraSP


def hessian_gradient(model, data, temperature):
    """W * (H g) with H g as a central difference of the gradient along g."""
    weights = weights_of(model)

    def gradient(at):
        at = {n: w.clone().requires_grad_() for n, w in at.items()}
        grads = torch.autograd.grad(loss_at(model, at, data, temperature), list(at.values()))
        return dict(zip(at, grads, strict=True))

    g = gradient(weights)
    step = 1e-5 / float(sum(part.square().sum() for part in g.values())) ** 0.5
    ahead = gradient({n: w + step * g[n] for n, w in weights.items()})
    behind = gradient({n: w - step * g[n] for n, w in weights.items()})
    return {n: w * (ahead[n] - behind[n]) / (2 * step) for n, w in weights.items()}


@with_steps
@given(
    seed=SEEDS,
    sparsity=SPARSITIES,
    size=st.integers(1, 12),
    temperature=st.sampled_from([1.0, 200.0]),
)
def test_grasp_agrees_with_finite_differences(seed, sparsity, size, temperature):
    model, data = smooth(seed), Samples(seed, size=size)
    slow = hessian_gradient(model, data, temperature)
    fast = scores_of("grasp", model, data, temperature=temperature)
    for name, score in slow.items():
        torch.testing.assert_close(
            fast[name], score, rtol=1e-4, atol=float(score.abs().max()) / 1e6
        )
    masks = masks_of("grasp", model, data, sparsity=sparsity, temperature=temperature)
    assert same(masks, slow_masks(slow, keep_count(total(slow), sparsity)))


def test_grasp_prunes_where_the_gradient_flow_grows():
    model, data = smooth(), Samples()
    scores = scores_of("grasp", model, data, temperature=1.0)

    def flow(name, index, factor):
        at = {n: w.clone() for n, w in weights_of(model).items()}
        at[name].view(-1)[index] *= factor
        at = {n: w.requires_grad_() for n, w in at.items()}
        grads = torch.autograd.grad(loss_at(model, at, data), list(at.values()))
        return float(sum(grad.square().sum() for grad in grads))

    for name, score in scores.items():
        before = flow(name, 0, 1.0)
        assert flow(name, int(score.argmin()), 0.999) > before
        assert flow(name, int(score.argmax()), 0.999) < before


def test_grasp_asks_for_balanced_classes_twice_the_same():
    data = Samples()
    pruner_of("grasp", smooth(), data).start()
    assert data.asked == [(12, True), (12, True)]


# ---- what both leave alone


class Counting(nn.BatchNorm2d):
    """Follows its batches whenever it is trained, whatever `track_running_stats` says."""

    def forward(self, x):
        self.num_batches_tracked += 1
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=self.training)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Counting])
@pytest.mark.parametrize("name", NAMES)
def test_buffers_modes_gradients_and_random_state_are_left_alone(name, norm):
    model, data = convolutional(), Samples(shape=(2, 6, 6))
    model[1] = norm(4).double()
    model[1].running_mean.fill_(3.0)
    model[1].eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    scores_of(name, model, data, (2, 6, 6))
    assert same(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model] == [m is not model[1] for m in model]
    assert model[1].track_running_stats
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_batchnorm_scores_by_its_batch_and_dropout_is_off(name):
    model, data = convolutional(), Samples(shape=(2, 6, 6))
    with torch.no_grad():
        model[1].running_mean.fill_(9.0)
    scores = scores_of(
        name, model, data, (2, 6, 6), **({"temperature": 1.0} if name == "grasp" else {})
    )
    peer = copy.deepcopy(model).train()
    peer[6].p = 0.0
    weights = [p for p in peer.parameters() if p.ndim > 1]
    loss = F.cross_entropy(peer(data.x), data.y)
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    expected = [(w * g).abs() for w, g in zip(weights, grads, strict=True)]
    if name == "grasp":
        inner = sum((g * g.detach()).sum() for g in grads)
        curved = torch.autograd.grad(inner, weights)
        expected = [w * h for w, h in zip(weights, curved, strict=True)]
    for score, other in zip(scores.values(), expected, strict=True):
        torch.testing.assert_close(score, other.detach(), rtol=1e-9, atol=1e-12)


# ---- SynFlow


def path_sums(weights, masks):
    """Of each weight, the sum over all paths through it of the product of the path's |w|."""
    layers = [(weights[n] * masks[n]).abs().tolist() for n in weights]
    scores = [[[0.0] * len(row) for row in layer] for layer in layers]
    widths = [len(layers[0][0]), *map(len, layers)]
    for path in product(*map(range, widths)):
        flow = 1.0
        for depth, layer in enumerate(layers):
            flow *= layer[path[depth + 1]][path[depth]]
        for depth, score in enumerate(scores):
            score[path[depth + 1]][path[depth]] += flow
    return {n: torch.tensor(s, dtype=torch.float64) for n, s in zip(weights, scores, strict=True)}


@with_steps
@given(seed=SEEDS, sparsity=SPARSITIES, iterations=st.integers(1, 6))
def test_synflow_keeps_what_sums_over_paths_keep(seed, sparsity, iterations):
    model = positive((3, 4, 3, 2), seed)
    weights = weights_of(model)
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    entries = total(weights)
    for k in range(1, iterations + 1):
        scores = path_sums(weights, masks)
        scores = {n: s.masked_fill(~masks[n], -torch.inf) for n, s in scores.items()}
        asked = sparsity if k == iterations else 1 - (1 - sparsity) ** (k / iterations)
        masks = slow_masks(scores, keep_count(entries, asked))
    found = masks_of("synflow", model, None, (3,), sparsity=sparsity, iterations=iterations)
    assert same(found, masks)


@with_steps
@given(seed=SEEDS)
def test_synflow_gives_each_layer_the_same_sum(seed):
    model = convolutional(seed)
    scores = scores_of("synflow", model, None, (2, 6, 6))
    sums = [float(score.sum()) for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert all((score >= 0).all() for score in scores.values())


@with_steps
@given(
    seed=SEEDS,
    widths=st.lists(st.integers(1, 4), min_size=3, max_size=5),
    spare=st.integers(0, 6),
)
def test_synflow_leaves_a_full_path_where_one_fits(seed, widths, spare):
    model = positive(widths, seed)
    entries = total(weights_of(model))
    keep = min(entries, len(widths) - 1 + spare)
    sparsity = 1 - keep / entries
    settings = {"sparsity": sparsity, "iterations": 4 * entries}  # at most one weight a round
    masks = masks_of("synflow", model, None, widths[:1], **settings)
    assert sum(int(mask.sum()) for mask in masks.values()) == keep_count(entries, sparsity)
    flow = torch.ones(widths[0], dtype=torch.float64)
    for mask in masks.values():
        flow = mask.double() @ flow
    assert flow.sum() > 0


class Branches(nn.Module):
    """A strong and a weak layer side by side, and one behind both."""

    def __init__(self):
        super().__init__()
        self.strong, self.weak, self.out = (nn.Linear(2, 2, bias=False) for _ in range(3))
        for layer, size in ((self.strong, 10.0), (self.weak, 0.1), (self.out, 1.0)):
            nn.init.constant_(layer.weight, size)

    def forward(self, x):
        return self.out(self.strong(x) + self.weak(x))


def test_synflow_shares_the_flow_among_branches_and_may_empty_one():
    """By hand: a weight of a branch is on two paths, one of `out` gets 2 x (10 + 0.1)."""
    model = Branches().double()
    found = scores_of("synflow", model, None, (2,))
    for name, score in (("strong", 20.0), ("weak", 0.2), ("out", 20.2)):
        assert found[f"{name}.weight"].flatten().tolist() == pytest.approx([score] * 4)
    masks = masks_of("synflow", model, None, (2,), sparsity=0.5)  # six stay: a path needs two
    assert [int(masks[f"{name}.weight"].sum()) for name in ("strong", "weak", "out")] == [3, 0, 3]


def test_synflow_reads_neither_data_nor_signs_nor_running_statistics():
    first, second = convolutional(), convolutional()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.neg_()
        second[1].running_mean.fill_(5.0)
        second[1].running_var.copy_(torch.tensor([0.01, 1.0, 9.0, 99.0]))
    masks = [masks_of("synflow", model, None, (2, 6, 6)) for model in (first, second)]
    assert same(*masks)


def test_synflow_is_exact_where_all_scores_are_equal():
    model = positive((4, 4, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    masks = masks_of("synflow", model, sparsity=0.3, distribution="uniform")
    assert [int(mask.sum()) for mask in masks.values()] == [11, 11]


def test_synflow_brings_no_weight_back_when_nothing_flows_any_more():
    """Round one of two empties the first layer; then all scores are 0, and its index is lower."""
    masks = masks_of("synflow", positive((8, 1, 2)), None, (8,), sparsity=0.94, iterations=2)
    assert {n: int(mask.sum()) for n, mask in masks.items()} == {"0.weight": 0, "2.weight": 1}


@pytest.mark.parametrize("regrow", [False, True])
def test_a_second_update_of_synflow_brings_back_only_what_it_may(regrow):
    """After the first the pruned weights are made the largest; `masked` keeps them on the shelf."""
    model = positive((6, 8, 3))
    schedule = {"name": "multi_step", "table": [["0%", 0.5], ["50%", 1.0]]}
    settings = {"mode": "masked", "regrow": regrow, "schedule": schedule, "sparsity": 0.8}
    pruner = Pruner(model, [strategy("synflow", **settings)], total_steps=2, input_shape=(6,))
    pruner.start()
    first = {name: mask.clone() for name, mask in pruner.masks().items()}
    for name, mask in first.items():
        pruner.set_dense(name, torch.where(mask, pruner.dense(name), 100.0))
    pruner.after_step()
    second = pruner.masks()
    assert sum(int(mask.sum()) for mask in second.values()) == 72 - round(0.8 * 72)
    back = sum(int((second[name] & ~first[name]).sum()) for name in first)
    assert (back > 0) is regrow


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (nn.LayerNorm(5), r"1 is a LayerNorm, which divides .* use snip, grasp or magnitude"),
        (nn.Softmax(-1), r"1 is a Softmax"),
        (Centred(), r"a larger \|w\| in 0.weight lowers the output .* use snip"),
        (nn.Threshold(99.0, 0.0), r"0.weight moves no output.*scope.exclude"),
    ],
)
def test_synflow_refuses_a_model_whose_flow_is_no_sum_of_positive_parts(inside, message):
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), inside, nn.Linear(5, 3)), 0)
    with pytest.raises(RecipeError, match=message):
        masks_of("synflow", model)


def test_synflow_refuses_a_layer_that_starts_at_zero_but_not_a_bias_that_does():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), 0)
    with torch.no_grad():
        model[0].bias.zero_()
    masks = masks_of("synflow", model, scope={"include": ["*"]})
    assert not masks["0.bias"].any()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(RecipeError, match=r"0.weight moves no output"):
        masks_of("synflow", model)


@pytest.mark.parametrize("name", NAMES)
def test_a_tied_weight_is_scored_once_for_all_its_uses(name):
    layers = {"a": nn.Linear(4, 4, bias=False), "mid": nn.ReLU(), "b": nn.Linear(4, 4, bias=False)}
    model = seeded(lambda: nn.Sequential(OrderedDict(layers)), 0)
    model.b.weight = model.a.weight
    scores = scores_of(name, model, Samples())
    assert list(scores) == ["a.weight"]
    w = model.a.weight.detach()
    if name == "synflow":
        flow = w.abs().sum(1)  # into b, from ones
        expected = w.abs() * (w.abs().sum(0)[:, None] + flow[None, :])
        torch.testing.assert_close(scores["a.weight"], expected)


def test_synflow_leaves_a_module_that_stands_in_two_places_as_it_is():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.again = nn.ModuleList([self.one])
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.again[0](self.one(x).relu()))

    model = Twice()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Pruner(model, [strategy("synflow", sparsity=0.0)], total_steps=1, input_shape=(4,)).start()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.again[0].weight is model.one.weight


def test_synflow_refuses_a_vision_transformer_before_anything_is_written(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"norm1 is a LayerNorm"):
        run(tmp_path, model=VIT, strategies=[{"name": "synflow", "sparsity": 0.5}])
    assert not list(tmp_path.iterdir())


# ---- all three, in runs


@pytest.mark.parametrize("name", NAMES)
@with_steps
@given(seed=SEEDS, sparsity=st.floats(0, 0.99))
def test_the_count_is_exact_and_the_mask_is_drawn_once(name, seed, sparsity):
    model, data = positive((4, 6, 3), seed), Samples(seed)
    rounds = {"iterations": 8} if name == "synflow" else {}
    pruner = pruner_of(name, model, data, sparsity=sparsity, **rounds)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    first = pruner.masks()
    assert sum(int(mask.sum()) for mask in first.values()) == keep_count(42, sparsity)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(data.x), data.y).backward()
        pruner.before_step()
        optimizer.step()
        pruner.after_step()
    assert pruner.assigned[0].updated_at == 0
    assert same(pruner.masks(), first)
    weights = weights_of(model)
    assert all(not weights[n][~mask].any() for n, mask in first.items())


@pytest.mark.parametrize("name", NAMES)
def test_precision_and_micro_batches_do_not_change_the_masks(name, tmp_path: Path):
    """The passes are in float32 whatever the training is, before it."""
    chosen = [{"name": name, "sparsity": 0.8}]
    data = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
    changes = ({}, {"precision": "bf16"}, {"data": data | {"micro_batch": 25}})
    runs = [
        run(tmp_path / str(i), strategies=chosen, phases=SHORT, **c) for i, c in enumerate(changes)
    ]
    plain, bf16, micro = (open_run(path).masks() for path in runs)
    assert same(plain, bf16)
    assert sum(int((plain[n] != micro[n]).sum()) for n in plain) <= 2  # sums of another order
    assert open_run(runs[0]).report()["sparsity"]["scope"] == pytest.approx(0.8, abs=1e-3)


def test_a_classifier_of_zeros_makes_every_score_of_snip_zero_and_is_refused():
    model = smooth()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(RecipeError, match=r"strategy snip: every score is 0.*model.init"):
        masks_of("snip", model, Samples())
    assert masks_of("grasp", model, Samples())["0.weight"].any()


def test_where_nothing_changes_the_loss_any_more_masks_stay_and_what_is_dead_is_said(caplog):
    """The head is emptied beside the strategy: all scores are 0 from then on."""
    model, data = smooth(), Samples()
    table = {"name": "multi_step", "table": [["0%", 0.5], ["75%", 1.0]]}
    scope = {"include": ["0.weight"]}
    settings = {"sparsity": 0.8, "samples": 12, "schedule": table, "scope": scope}
    made = strategy("taylor", cadence={"every": "1st"}, **settings)
    pruner = Pruner(model, [made], total_steps=4, data=data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.attach(optimizer)
    before = pruner.masks()
    with torch.no_grad():
        model[2].weight.zero_()

    def step():
        model(data.x).sum().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()

    step()
    step()
    assert same(before, pruner.masks())
    assert "step 1: every score is 0: no kept weight changes the loss any more" in caplog.text
    with pytest.raises(RecipeError, match=r"taylor, step 3: every score is 0.*no more can"):
        step()


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_attention_can_be_scored(name, tmp_path: Path):
    done = run(tmp_path, model=VIT, strategies=[{"name": name, "sparsity": 0.5}], phases=SHORT)
    kept = open_run(done).masks()
    assert sum(int(m.sum()) for m in kept.values()) == keep_count(total(kept), 0.5)


@pytest.mark.ddp
def test_two_processes_score_the_same_samples_as_one(two_ranks: TwoRanks, tmp_path: Path):
    chosen = [{"name": "snip", "sparsity": 0.8}]
    alone = open_run(run(tmp_path / "1", strategies=chosen, phases=SHORT))
    pair = open_run(two_ranks(run, tmp_path / "2", strategies=chosen, phases=SHORT))
    assert pair.manifest()["environment"]["world_size"] == 2
    assert same(alone.masks(), pair.masks())
