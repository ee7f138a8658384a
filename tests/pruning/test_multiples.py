"""`round_to`: counts that are multiples, next to what is asked, and never more when less is."""

import itertools
import logging
from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.errors import RecipeError
from prunekit.pruning.distributions import (
    ERK,
    Demand,
    ErdosRenyi,
    Global,
    Match,
    PerPattern,
    Uniform,
)
from prunekit.pruning.multiples import Multiples
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.strategies import strategy
from prunekit.pruning.structures import Channel
from prunekit.registry import STRATEGIES
from prunekit.runs.directory import open_run
from prunekit.train.launch import resume_run
from tests.support.scored import kept_by_decimals, sparsities, stable_order, takes_structures
from tests.support.training import result, rewound, run, same

SIZES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(1, 40), min_size=1, max_size=5
)
STEPS = st.integers(2, 9)


def allowed(sizes: dict[str, int], step: int, min_keep: int) -> dict[str, list[int]]:
    """By the words of the docs: multiples from one on that leave `min_keep`; else all."""
    found = {}
    for name, size in sizes.items():
        counts = [c for c in range(step, size + 1, step) if c >= min_keep]
        found[name] = counts if size >= 2 * step and counts else [size]
    return found


def possible(sizes: dict[str, int], step: int, min_keep: int) -> set[int]:
    """Every total that tensors can have together, and that of all where nothing is pruned."""
    choices = allowed(sizes, step, min_keep).values()
    return {sum(chosen) for chosen in itertools.product(*choices)} | {sum(sizes.values())}


@given(st.data(), SIZES, STEPS, st.integers(0, 12))
def test_the_promise_is_the_possible_total_next_to_what_is_asked(data, sizes, step, min_keep):
    keep = data.draw(st.integers(0, sum(sizes.values())))
    nearest = min(possible(sizes, step, min_keep), key=lambda total: (abs(total - keep), total))
    assert Multiples.of(sizes, step, min_keep).promised(keep) == nearest


def demand(data, sizes, sparsity, min_keep):
    draws = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    levels = data.draw(st.sampled_from([2, 5, 1000]))  # few: many ties
    scores = {n: torch.randint(levels, (s,), generator=draws) / 4 for n, s in sizes.items()}
    shapes = {n: (size, data.draw(st.integers(1, 9)), 3, 3) for n, size in sizes.items()}
    return Demand(scores, sparsity, min_keep, shapes)


@st.composite
def distributions(draw, sizes):
    kind = draw(st.sampled_from([Uniform, Global, ErdosRenyi, ERK, "norm", "match", "pattern"]))
    if kind == "norm":
        return Global(normalize=True)
    if kind == "match":
        match = Match(source="runs/other/latest")
        kept = {n: (draw(st.integers(0, size)), size) for n, size in sizes.items()}
        match.__dict__["source_counts"] = kept
        return match
    if kind == "pattern":
        names = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, unique=True))
        return PerPattern(sparsities={name: draw(st.floats(0, 1)) for name in names})
    return kind()


@given(st.data(), SIZES, STEPS, st.integers(0, 12))
def test_every_tensor_keeps_an_allowed_count_and_all_what_is_promised(data, sizes, step, min_keep):
    sparsity = data.draw(sparsities(sum(sizes.values())))
    asked = demand(data, sizes, sparsity, min_keep)
    masks = Channel(round_to=step).best(asked, data.draw(distributions(sizes)))
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    keep = kept_by_decimals(sum(sizes.values()), sparsity)
    assert sum(counts.values()) == Multiples.of(sizes, step, min_keep).promised(keep)
    choices = allowed(sizes, step, min_keep)
    assert counts == sizes or all(counts[name] in choices[name] for name in sizes)


@given(st.data(), SIZES, STEPS, st.integers(0, 12))
def test_masks_only_shrink_when_less_is_asked(data, sizes, step, min_keep):
    lower, higher = sorted(data.draw(sparsities(sum(sizes.values()))) for _ in range(2))
    asked, distribution = demand(data, sizes, lower, min_keep), data.draw(distributions(sizes))
    structure = Channel(round_to=step)
    dense = structure.best(asked, distribution)
    sparse = structure.best(Demand(asked.scores, higher, min_keep, asked.shapes), distribution)
    assert not any((sparse[name] & ~dense[name]).any() for name in sizes)


@given(st.data(), SIZES, STEPS)
def test_what_is_pruned_stays_pruned_where_it_may_not_come_back(data, sizes, step):
    """Scores change from update to update; what is masked scores -inf, as with `regrow: false`."""
    distribution, structure = data.draw(distributions(sizes)), Channel(round_to=step)
    rising = sorted(data.draw(sparsities(sum(sizes.values()))) for _ in range(4))
    shapes = demand(data, sizes, 0.0, 0).shapes
    masks = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
    for sparsity in rising:
        fresh = demand(data, sizes, sparsity, 0).scores
        scores = {n: s.masked_fill(~masks[n], -torch.inf) for n, s in fresh.items()}
        new = structure.best(Demand(scores, sparsity, 0, shapes), distribution)
        assert not any((new[name] & ~masks[name]).any() for name in sizes)
        masks = new


@given(st.data(), SIZES, STEPS)
def test_a_global_ranking_rounds_and_repairs_as_by_hand(data, sizes, step):
    """All ranked once; the cut moves down the ranking until the multiples are as promised."""
    sparsity = data.draw(sparsities(sum(sizes.values())))
    asked = demand(data, sizes, sparsity, 0)
    promised = Multiples.of(sizes, step).promised(kept_by_decimals(sum(sizes.values()), sparsity))
    choices, above = allowed(sizes, step, 0), dict.fromkeys(sizes, 0)
    places = [None, *stable_order(asked.scores)]
    for place in places:
        if place is not None:
            above[place[0]] += 1
        rounded = {n: min(choices[n], key=lambda c, n=n: (abs(c - above[n]), c)) for n in sizes}
        if sum(rounded.values()) == promised:
            break
    expected = sizes if promised == sum(sizes.values()) else rounded
    masks = Channel(round_to=step).best(asked, Global())
    assert {name: int(mask.sum()) for name, mask in masks.items()} == expected
    order = stable_order(asked.scores)
    for name in sizes:  # and of each tensor the best
        best = [index for one, index in order if one == name][: expected[name]]
        assert masks[name].nonzero().flatten().tolist() == sorted(best)


@given(st.data(), st.integers(1, 6), st.integers(2, 8), st.integers(2, 6), st.floats(0, 1))
def test_uniform_gives_equal_tensors_the_same_up_to_a_multiple(
    data, tensors, step, times, sparsity
):
    sizes = {str(i): step * times for i in range(tensors)}
    asked = demand(data, sizes, sparsity, 0)
    masks = Channel(round_to=step).best(asked, Uniform())
    counts = [int(mask.sum()) for mask in masks.values()]
    assert max(counts) - min(counts) <= step
    exact = max(Fraction(step), (1 - Fraction(repr(sparsity))) * step * times)
    assert all(abs(count - exact) < step for count in counts)


def test_counts_by_hand():
    scores = {"a": torch.rand(64), "b": torch.rand(128), "small": torch.rand(24)}
    asked = Demand(scores, 0.5)  # 108 of 216: 24 stay whole, so 84 of a and b; 80 is next
    masks = Channel(round_to=16).best(asked, Uniform())
    assert {n: int(m.sum()) for n, m in masks.items()} == {"a": 32, "b": 48, "small": 24}


def test_promises_by_hand():
    found = Multiples.of({"ragged": 100, "even": 64, "small": 20}, 16)
    assert found.whole == ("small",)
    assert [found.promised(keep) for keep in (184, 183, 179, 176, 173, 172, 165, 164, 156)] == [
        *(184, 184, 180, 180, 180, 164, 164, 164, 148)  # 180: the ragged end goes at once
    ]
    assert found.promised(0) == 16 + 16 + 20
    held = Multiples.of({"ragged": 100, "even": 64}, 16, min_keep=50)
    assert held.whole == ("even",)  # 48 would leave too few
    assert held.promised(0) == 64 + 64


@pytest.mark.parametrize(
    ("sizes", "sparsity", "told"),
    [
        ({"a": 64, "b": 64}, 0.5, None),
        ({"a": 64, "b": 64}, 0.53, None),
        (
            {"a": 64, "b": 16},
            0.4,
            "so these stay whole and the others give what is asked of all: b",
        ),
        (
            {"a": 64, "b": 64},
            0.9,
            "sparsity 0.9 is asked; with round_to 16 the next is 0.75: 32 of",
        ),
        ({"a": 64, "b": 64}, 0.05, "sparsity 0.05 is asked; with round_to 16 the next is 0: 128"),
        ({"a": 16, "b": 30}, 0.0, None),
    ],
)
def test_what_cannot_be_had_is_told(sizes, sparsity, told, caplog):
    with caplog.at_level(logging.WARNING, logger="prunekit"):
        Multiples.of(sizes, 16).check(sparsity)
    assert (told in caplog.text) if told else not caplog.text


def test_a_width_that_nothing_in_scope_has_twice_is_refused():
    with pytest.raises(RecipeError, match="can lose channels: the largest is b, with 30: lower"):
        Multiples.of({"a": 16, "b": 30}, 16).check(0.5)


def test_min_keep_is_named_where_it_holds(caplog):
    asked = Demand({"small": torch.rand(40), "large": torch.rand(400)}, 0.8, 15)
    with caplog.at_level(logging.WARNING, logger="prunekit"):
        masks = Channel(round_to=8).best(asked, Uniform())
    assert {n: int(m.sum()) for n, m in masks.items()} == {"small": 16, "large": 72}
    assert "min_keep holds, else these would keep fewer units: small" in caplog.text


# ---- in training


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU()),
        *(nn.Conv2d(20, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 6, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )


STEPS = 12
WIDTHS = {"0.weight": 20, "3.weight": 24, "5.weight": 6}


@pytest.mark.parametrize("mode", ["masked", "ste", "hard"])
@pytest.mark.parametrize(
    "distribution",
    [
        *("uniform", "global", "erdos_renyi", "erk"),
        {"name": "per_pattern", "sparsities": {"3.weight": 0.75}},
    ],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_widths_of_a_rising_target(mode, distribution):
    """Every mask of a run: multiples of 4, what is promised, and never more than before."""
    one = strategy(
        *("magnitude",),
        **{"sparsity": 0.6, "mode": mode, "distribution": distribution, "regrow": False},
        **{
            "cadence": {"every": "1st"},
            "schedule": {"name": "linear", "start": "0%", "stop": "75%"},
        },
        structure={"name": "channel", "round_to": 4},
        scope={"exclude": ["9.weight"]},
    )
    model, before = net(), None
    pruner = Pruner(model, [one], total_steps=STEPS, input_shape=(3, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pruner.attach(optimizer)
    for step in range(STEPS + 1):
        rows = {name: pruner.masks()[name].flatten(1).any(1) for name in WIDTHS}
        counts = {name: int(mask.sum()) for name, mask in rows.items()}
        (units,) = pruner.units()
        keep = kept_by_decimals(50, units.asked)
        assert units.kept == sum(counts.values()) == Multiples.of(WIDTHS, 4).promised(keep)
        assert units.sparsity == pytest.approx(units.target, abs=1e-12)
        assert counts["5.weight"] == 6  # fewer than two multiples
        assert all(count % 4 == 0 for name, count in counts.items() if name != "5.weight")
        assert torch.equal(rows["0.weight"], pruner.masks()["1.weight"])  # its norm goes along
        assert torch.equal(rows["3.weight"], pruner.masks()["3.bias"])
        if before is not None:
            assert not any((rows[name] & ~before[name]).any() for name in WIDTHS)
        before = rows
        if step < STEPS:
            x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), x.mean((2, 3)).argmax(1)).backward()
            if pruner.before_step():
                optimizer.step()
            pruner.after_step()
    pruner.finish()
    assert (units.kept, units.asked, units.target) == (18, 0.6, pytest.approx(0.64))
    layers = {name: model.get_parameter(name) for name in WIDTHS}
    zero = sum(int((~p.flatten(1).any(1)).sum()) for p in layers.values())
    assert zero == 50 - 18


def test_the_summary_of_a_model_has_what_was_asked():
    one = strategy(
        *("filter_magnitude",),
        sparsity=0.6,
        structure={"name": "channel", "round_to": 4},
        scope={"exclude": ["9.weight"]},
    )
    pruner = Pruner(net(), [one], total_steps=STEPS, input_shape=(3, 6, 6))
    pruner.attach(torch.optim.SGD(pruner.model.parameters(), lr=0.1))
    words = [line.split() for line in str(pruner.summary()).splitlines()]
    assert ["strategy", "kept", "of", "units", "sparsity", "asked", "target"] in words
    assert ["filter_magnitude", "18", "50", "channels", "64.00%", "60.00%", "64.00%"] in words


SINGLE = {"sparse_gpt"}  # takes n:m, and corrects single entries
TAKES_STRUCTURES = [n for n in STRATEGIES.names() if takes_structures(n) and n not in SINGLE]
NEEDS = {
    "lottery_ticket": {"schedule": {"name": "geometric", "rounds": 1, "fraction": 0.4}},
    "sr_ste": {"lambda_w": 0.0},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "magnitude" else pytest.mark.slow)
        for name in TAKES_STRUCTURES
    ],
)
def test_every_strategy_that_takes_structures_keeps_multiples(name, tmp_path):
    settings = {"name": name, "sparsity": 0.4, "structure": {"name": "channel", "round_to": 8}}
    settings |= {"scope": {"include": ["fc1.weight", "fc2.weight"]}} | NEEDS.get(name, {})
    out = run(
        *(tmp_path,),
        model={"name": "mlp", "hidden": [32, 20]},
        strategies=[settings],
        phases=[{"name": "train", "length": "2ep"}],
        evaluate={"every": "2ep"},
        checkpoint={"every": "100%"},
    )
    report, masks = open_run(out).report(), open_run(out).masks()
    counts = [int(masks[f"{layer}.weight"].any(1).sum()) for layer in ("fc1", "fc2")]
    assert all(count % 8 == 0 for count in counts)
    (units,) = report["units"].values()  # 31 of 52 are asked for: 32 is next
    assert (units["kept"], units["asked"]) == (sum(counts), 0.4) == (32, 0.4)
    assert units["target"] == units["sparsity"] == pytest.approx(20 / 52)


def test_a_resumed_run_keeps_what_was_asked_and_promised(tmp_path):
    changes = {
        "model": {"name": "mlp", "hidden": [32]},
        "strategies": [
            {
                "name": "magnitude",
                "sparsity": 0.4,
                "structure": {"name": "channel", "round_to": 8},
                "scope": {"include": ["fc1.weight"]},
                "cadence": {"every": "3st"},
            }
        ],
    }
    whole = run(tmp_path / "whole", **changes)
    stopped = rewound(whole, 15, tmp_path / "again")
    assert resume_run(stopped) == stopped
    units = open_run(whole).report()["units"]
    assert open_run(stopped).report()["units"] == units
    assert units["magnitude"]["asked"] == 0.4
    assert units["magnitude"]["target"] == 0.5  # 19 of 32 are asked for: 16 is next
    assert same(result(whole), result(stopped))
