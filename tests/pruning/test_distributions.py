"""Distributions: exact in the total, nested in the sparsity, equal to slow oracles."""

import copy
import json
import logging
import pickle
from fractions import Fraction
from math import prod
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

import prunekit.runs.directory
from prunekit.errors import RecipeError
from prunekit.pruning.apportion import apportion
from prunekit.pruning.distributions import (
    ERK,
    AnyDistribution,
    Demand,
    ErdosRenyi,
    Global,
    Match,
    PerPattern,
    Uniform,
)
from tests.support.scored import (
    FINITE,
    kept_by_decimals,
    same,
    scores,
    slow_masks,
    sparsities,
    total,
)

DISTRIBUTION = TypeAdapter(AnyDistribution)
FLOAT32 = st.just(torch.float32)
SCORES = scores(entries=FINITE, dtypes=FLOAT32)


def brute_force(keep, weights, caps, floors=None):
    """Sort all seats by price, then name; floors first."""
    floors = floors or {}
    seats = []
    for name, weight in weights.items():
        for k in range(caps[name]):
            price = Fraction(2 * k + 1, 2) / Fraction(weight) if weight else float("inf")
            seats.append((k >= floors.get(name, 0), price, name, k))
    counts = dict.fromkeys(weights, 0)
    for _, _, name, _ in sorted(seats)[:keep]:
        counts[name] += 1
    return counts


@st.composite
def claims(draw):
    names = draw(
        st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=7, unique=True)
    )
    weight = st.integers(0, 12) | st.fractions(0, 5, max_denominator=7)
    caps = {name: draw(st.integers(0, 12)) for name in names}
    floors = {name: draw(st.integers(0, cap)) for name, cap in caps.items()}
    return {name: draw(weight) for name in names}, caps, floors


@given(st.data(), claims())
def test_apportionment_equals_brute_force(data, claim):
    weights, caps, floors = claim
    keep = data.draw(st.integers(sum(floors.values()), sum(caps.values())))
    assert apportion(keep, weights, caps, floors) == brute_force(keep, weights, caps, floors)


@given(st.data(), claims())
def test_a_larger_house_takes_no_seat_away(data, claim):
    weights, caps, floors = claim
    least, most = sum(floors.values()), sum(caps.values())
    small, large = sorted(data.draw(st.integers(least, most)) for _ in range(2))
    fewer, more = (apportion(keep, weights, caps, floors) for keep in (small, large))
    assert all(fewer[name] <= more[name] for name in weights)


def test_no_alabama_paradox():
    sizes = {"a": 1, "b": 3, "c": 3}  # the largest remainder goes from 1, 1, 1 to 0, 2, 2
    assert apportion(3, sizes, sizes) == {"a": 1, "b": 1, "c": 1}
    assert apportion(4, sizes, sizes) == {"a": 1, "b": 2, "c": 1}


def test_whole_quotas_are_met():
    weights = {"a": 300, "b": 100, "c": 600}
    caps = dict.fromkeys(weights, 10**9)
    assert apportion(500_000, weights, caps) == {"a": 150_000, "b": 50_000, "c": 300_000}


def test_many_large_tensors():
    sizes = {f"layer{i:03}": 1_000_000 + 7919 * i for i in range(100)}
    keep = sum(sizes.values()) // 7
    counts = apportion(keep, sizes, sizes)
    assert sum(counts.values()) == keep
    dearest_given = max(Fraction(2 * counts[n] - 1, 2 * sizes[n]) for n in sizes)
    cheapest_left = min(Fraction(2 * counts[n] + 1, 2 * sizes[n]) for n in sizes)
    assert dearest_given <= cheapest_left


@pytest.fixture
def source(monkeypatch):
    """Make `Match` read these masks."""

    def put(masks):
        run = SimpleNamespace(masks=lambda: masks)
        monkeypatch.setattr(prunekit.runs.directory, "open_run", lambda path: run)

    return put


def matching(values, data):
    """A `Match` whose source has drawn masks of the shapes of `values`."""
    masks = {name: v > data.draw(st.sampled_from([-9, 0, 0.5, 9])) for name, v in values.items()}
    match = Match(source="runs/other/latest")
    match.__dict__["source_counts"] = {n: (int(m.sum()), m.numel()) for n, m in masks.items()}
    return match


@st.composite
def drawn(draw, values):
    """Any distribution that fits these tensors."""
    kind = draw(
        st.sampled_from(["uniform", "global", "normalized", "er", "erk", "match", "pattern"])
    )
    if kind == "match":
        return matching(values, SimpleNamespace(draw=draw))
    if kind == "pattern":
        names = draw(st.lists(st.sampled_from(sorted(values)), min_size=1, unique=True))
        return PerPattern(sparsities={name: draw(st.floats(0, 1)) for name in names})
    return {
        "uniform": Uniform(),
        "global": Global(),
        "normalized": Global(normalize=True),
        "er": ErdosRenyi(),
        "erk": ERK(),
    }[kind]


@given(st.data(), SCORES, st.integers(0, 4))
def test_exact_in_the_total_and_within_bounds(data, values, min_keep):
    distribution = data.draw(drawn(values))
    sparsity = data.draw(sparsities(total(values)))
    counts = distribution.keep_counts(Demand(values, sparsity, min_keep))
    floors = {name: min(min_keep, v.numel()) for name, v in values.items()}
    assert list(counts) == list(values)
    assert all(floors[name] <= counts[name] <= v.numel() for name, v in values.items())
    by_rule = max(kept_by_decimals(total(values), sparsity), sum(floors.values()))
    assert sum(counts.values()) == by_rule


@given(st.data(), SCORES, st.integers(0, 3))
def test_nested_in_the_sparsity(data, values, min_keep):
    distribution = data.draw(drawn(values))
    lower, higher = sorted(data.draw(sparsities(total(values))) for _ in range(2))
    dense, sparse = (distribution.select(Demand(values, s, min_keep)) for s in (lower, higher))
    assert not any((sparse[name] & ~dense[name]).any() for name in values)


@given(st.data(), SCORES, st.integers(0, 3))
def test_masks_keep_what_the_counts_say(data, values, min_keep):
    distribution = data.draw(drawn(values))
    sparsity = data.draw(sparsities(total(values)))
    masks = distribution.select(Demand(values, sparsity, min_keep))
    counts = distribution.keep_counts(Demand(values, sparsity, min_keep))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == counts


@given(st.data(), SCORES)
def test_renaming_and_reordering_move_counts_along(data, values):
    distribution = data.draw(st.sampled_from([Uniform(), ErdosRenyi(), ERK(), Global()]))
    sparsity = data.draw(sparsities(total(values)))
    shuffled = {name: values[name] for name in data.draw(st.permutations(list(values)))}
    assert distribution.keep_counts(Demand(shuffled, sparsity)) == distribution.keep_counts(
        Demand(values, sparsity)
    )


@given(st.data(), SCORES, st.integers(0, 3))
def test_global_is_the_slow_selection(data, values, min_keep):
    sparsity = data.draw(sparsities(total(values)))
    floors = {name: min(min_keep, v.numel()) for name, v in values.items()}
    keep = max(kept_by_decimals(total(values), sparsity), sum(floors.values()))
    assert same(
        Global().select(Demand(values, sparsity, min_keep)), slow_masks(values, keep, floors)
    )


@given(st.data(), SCORES)
def test_uniform_rounds_one_density(data, values):
    counts = Uniform().keep_counts(Demand(values, data.draw(sparsities(total(values)))))
    sizes = {name: v.numel() for name, v in values.items()}
    dearest = max((Fraction(2 * c - 1, 2 * sizes[n]) for n, c in counts.items() if c), default=0)
    left = [Fraction(2 * c + 1, 2 * sizes[n]) for n, c in counts.items() if c < sizes[n]]
    assert dearest <= min(left, default=dearest)


@given(st.floats(0, 1), st.integers(1, 50), st.integers(1, 6))
def test_uniform_gives_equal_tensors_the_rounded_share(sparsity, size, tensors):
    values = {str(i): torch.zeros(size) for i in range(tensors)}
    counts = Uniform().keep_counts(Demand(values, sparsity)).values()
    assert max(counts) - min(counts) <= 1
    assert all(abs(count / size - (1 - sparsity)) < 1 / size for count in counts)


def erk_densities(shapes, sparsity, dims):
    """The loop of RigL: a layer that would be more than dense is dense, then solve again."""
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    raw = {n: sum(shape[:dims]) / prod(shape[:dims]) for n, shape in shapes.items()}
    dense = set()
    while True:
        budget = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        rest = sum(raw[n] * sizes[n] for n in shapes if n not in dense)
        epsilon = budget / rest if rest else 0.0
        over = {n for n in shapes if n not in dense and epsilon * raw[n] > 1 + 1e-12}
        if not over:
            return {n: 1.0 if n in dense else epsilon * raw[n] for n in shapes}
        dense |= over


SIDES = st.lists(st.sampled_from([1, 2, 3, 8, 16, 64]), min_size=2, max_size=4).map(tuple)


@given(
    st.lists(SIDES, min_size=1, max_size=6),
    st.floats(0, 1),
    st.sampled_from([(ERK(), 4), (ErdosRenyi(), 2)]),
)
def test_erk_equals_its_saturation_loop_to_the_unit(sides, sparsity, kind):
    distribution, dims = kind
    shapes = {f"{i}": shape for i, shape in enumerate(sides)}
    values = {name: torch.empty(shape) for name, shape in shapes.items()}
    counts = distribution.keep_counts(Demand(values, sparsity))
    densities = erk_densities(shapes, sparsity, dims)
    exact = {name: densities[name] * prod(shape) for name, shape in shapes.items()}
    assert sum(exact.values()) == pytest.approx((1 - sparsity) * total(values), rel=1e-9, abs=1e-9)
    slack = 0.5 + len(shapes) / 2  # the common price moves until the total is whole
    assert all(abs(counts[name] - exact[name]) <= slack for name in shapes)


def test_erk_by_hand():
    shapes = {"conv": (8, 4, 3, 3), "wide": (30, 50), "narrow": (2, 4)}
    values = {name: torch.empty(shape) for name, shape in shapes.items()}
    counts = ERK().keep_counts(Demand(values, 0.9))  # keep 180 of 1796; claims 18, 80, 6
    assert counts == {"conv": 32, "wide": 140, "narrow": 8}  # 172 = 18e + 80e, e = 1.755


def test_erdos_renyi_leaves_the_kernel_out():
    values = {"conv": torch.empty(8, 4, 3, 3), "wide": torch.empty(30, 50)}
    # claims 288 * 12 / 32 = 108 and 80: the convolution takes 108 of each 188
    assert ErdosRenyi().keep_counts(Demand(values, 0.9)) == {"conv": 103, "wide": 76}


def test_claims_come_from_the_weights_and_counts_from_the_units():
    pooled = {"a": torch.rand(10), "b": torch.rand(10)}
    shapes = {"a": (10, 1000), "b": (10, 10)}
    counts = ERK().keep_counts(Demand(pooled, 0.5, shapes=shapes))
    assert counts == {"a": 3, "b": 7}  # 10 * 1010 / 10000 against 10 * 20 / 100: 1.01 to 2


def test_a_single_tensor_has_the_sparsity_whatever_the_split():
    values = {"only": torch.rand(10, 10)}
    for distribution in (Uniform(), Global(), ErdosRenyi(), ERK()):
        assert distribution.keep_counts(Demand(values, 0.37)) == {"only": 63}


def test_normalized_scores_do_not_depend_on_the_scale_of_a_tensor():
    generator = torch.Generator().manual_seed(0)
    values = {n: torch.rand(100, generator=generator) for n in ("a", "b")}
    scaled = {"a": values["a"] * 1024, "b": values["b"]}
    assert Global().keep_counts(Demand(scaled, 0.5)) == {"a": 100, "b": 0}
    even = Global(normalize=True).keep_counts(Demand(values, 0.5))
    assert 30 < even["a"] < 70
    assert Global(normalize=True).keep_counts(Demand(scaled, 0.5)) == even


def test_normalizing_leaves_units_that_may_not_come_back_last():
    gone = torch.tensor([float("-inf"), 3.0, 4.0])
    masks = Global(normalize=True).select(Demand({"a": gone, "b": torch.tensor([1.0, 1.0])}, 0.2))
    assert masks["a"].tolist() == [False, True, True]
    with pytest.raises(ValueError, match="NaN"):
        Global(normalize=True).select(Demand({"a": torch.tensor([float("nan"), 1.0])}, 0.5))


def test_match_has_the_counts_of_its_source(source):
    masks = {
        "a": torch.arange(12).reshape(3, 4) < 5,
        "b": torch.arange(8) < 7,
        "bias": torch.ones(3) > 0,
    }
    source(masks)
    match, values = Match(source="runs/x/latest"), {"b": torch.rand(8), "a": torch.rand(3, 4)}
    match.check({"a": 12, "b": 8}, 0.4)
    assert match.keep_counts(Demand(values, 0.4)) == {"a": 5, "b": 7}
    assert match.keep_counts(Demand(values, 0.75)) == {"b": 3, "a": 2}  # 5 in the proportion 7 : 5
    assert match == Match(source="runs/x/latest")


def test_match_reads_its_source_once(monkeypatch):
    reads = []

    def open_run(path):
        reads.append(path)
        return SimpleNamespace(masks=lambda: {"a": torch.ones(4, dtype=torch.bool)})

    monkeypatch.setattr(prunekit.runs.directory, "open_run", open_run)
    match = Match(source="there")
    for _ in range(3):
        match.keep_counts(Demand({"a": torch.rand(4)}, 0.0))
    assert reads == ["there"]


@pytest.mark.parametrize(
    ("names", "sparsity", "message"),
    [
        ({"a": 12, "c": 8}, 0.4, "runs/x has no mask of c: give both runs the same model"),
        ({"a": 3, "b": 8}, 0.4, "a has 3 units here and 12 in runs/x"),
        ({"a": 12, "b": 8}, 0.5, r"keeps 12 of 20, so sparsity is 0\.4, not 0\.5"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(source, names, sparsity, message):
    source({"a": torch.arange(12) < 5, "b": torch.arange(8) < 7})
    with pytest.raises(RecipeError, match=message):
        Match(source="runs/x").check(names, sparsity)


def pattern_values():
    return {
        "blocks.0.mlp.fc": torch.rand(100),
        "blocks.1.mlp.fc": torch.rand(50),
        "blocks.0.attn.qkv": torch.rand(60),
        "head": torch.rand(40),
    }


def test_named_tensors_have_their_sparsity_and_the_others_share_the_rest():
    values = pattern_values()
    per = PerPattern(sparsities={"head": 0.0, "blocks.*.mlp.*": 0.9})
    counts = per.keep_counts(
        Demand(values, 0.72)
    )  # keep 70 of 250: 10 + 5 + 40, and 15 of 60 remain
    assert list(counts.values()) == [10, 5, 15, 40]
    per.check({name: v.numel() for name, v in values.items()}, 0.72)


def test_the_first_pattern_counts():
    per = PerPattern(sparsities={"blocks.1.*": 0.0, "blocks.*.mlp.*": 0.9})
    counts = per.keep_counts(Demand(pattern_values(), 0.6))  # keep 100: 50 + 10, and 40 of 100 even
    assert counts == {
        "blocks.0.mlp.fc": 10,
        "blocks.1.mlp.fc": 50,
        "blocks.0.attn.qkv": 24,
        "head": 16,
    }


def test_named_tensors_go_first_while_a_schedule_rises():
    per = PerPattern(sparsities={"blocks.0.mlp.fc": 0.8, "blocks.1.mlp.fc": 0.4})
    counts = per.keep_counts(
        Demand(pattern_values(), 0.2)
    )  # prune 50 of the 80 and 20 that they will
    assert list(counts.values()) == [60, 40, 60, 40]


def test_named_tensors_give_more_when_the_others_are_empty():
    per = PerPattern(sparsities={"blocks.*": 0.5})
    counts = per.keep_counts(Demand(pattern_values(), 0.8))
    assert counts["head"] == 0
    assert sum(counts.values()) == 50


@pytest.mark.parametrize(
    ("sparsities", "sparsity", "message"),
    [
        (
            {"blocks.*.mpl.*": 0.9},
            0.5,
            r"'blocks.\*.mpl.\*' matches nothing in scope. Nearest: blocks",
        ),
        ({"blocks.*.mlp.*": 0.9}, 0.5, r"sparsity must be from 0\.54 to 0\.94, not 0\.5"),
        ({"blocks.*.mlp.*": 0.9}, 0.95, r"from 0\.54 to 0\.94, not 0\.95"),
    ],
)
def test_sparsities_that_do_not_fit_the_total_are_refused(sparsities, sparsity, message):
    sizes = {name: v.numel() for name, v in pattern_values().items()}
    with pytest.raises(RecipeError, match=message):
        PerPattern(sparsities=sparsities).check(sizes, sparsity)


def test_a_pattern_map_cannot_change():
    per = PerPattern(sparsities={"a": 0.5})
    with pytest.raises(TypeError, match="cannot change"):
        per.sparsities["a"] = 0.9
    with pytest.raises(TypeError, match="cannot change"):
        per.sparsities.update(b=0.1)
    assert copy.deepcopy(per) == pickle.loads(pickle.dumps(per)) == per  # noqa: S301 - our own bytes
    assert hash(per) == hash(PerPattern(sparsities={"a": 0.5}))


def test_min_keep_says_where_it_holds(caplog):
    values = {"tiny.held": torch.rand(2), "huge": torch.rand(1000)}
    with caplog.at_level(logging.WARNING, logger="prunekit"):
        assert Uniform().keep_counts(Demand(values, 0.9, 1)) == {"tiny.held": 1, "huge": 99}
    assert "tiny.held" in caplog.text
    assert "huge" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        "uniform",
        "global",
        {"name": "global", "normalize": True},
        "erdos_renyi",
        "erk",
        {"name": "match", "source": "runs/a/latest"},
        {"name": "per_pattern", "sparsities": {"a.*": 0.9, "b": 0.0}},
    ],
)
def test_json_round_trip(value):
    distribution = DISTRIBUTION.validate_python(value)
    tree = json.loads(DISTRIBUTION.dump_json(distribution))
    assert DISTRIBUTION.validate_python(tree) == distribution
    assert tree["name"] == (value if isinstance(value, str) else value["name"])


@pytest.mark.parametrize(
    "value",
    [
        "match",
        "per_pattern",
        "even",
        {"name": "per_pattern", "sparsities": {}},
        {"name": "per_pattern", "sparsities": {"a": 1.5}},
        {"name": "global", "normalise": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(value):
    with pytest.raises(ValidationError):
        DISTRIBUTION.validate_python(value)
