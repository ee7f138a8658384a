"""Score tensors full of ties, and the slow selection that the fast one must equal."""

from fractions import Fraction
from math import prod

import torch
from hypothesis import strategies as st

from prunekit.registry import STRATEGIES

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 65504.0, 2.0**-24, float("inf"), -float("inf")])
ANY = st.floats(allow_nan=False, width=16) | st.floats(-(2.0**100), 2.0**100, width=32) | TIED
FINITE = st.sampled_from([0.0, -0.0, 1.0, 0.5, 3.0, -2.0]) | st.floats(-100, 100, width=16)
NAMES = st.lists(st.text("abz.0", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@st.composite
def tensors(draw, entries=TIED | ANY, dtypes=DTYPES):
    """One tensor of 1 to 4 dimensions, often with many equal entries."""
    shape = draw(SHAPES)
    pool = torch.tensor(draw(st.lists(entries, min_size=1, max_size=12)), dtype=torch.float64)
    picks = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    values = pool[torch.randint(len(pool), (prod(shape),), generator=picks)]
    return values.to(draw(dtypes)).reshape(shape)


@st.composite
def scores(draw, entries=TIED | ANY, dtypes=DTYPES):
    """1 to 6 tensors of unequal shapes, in any order of names."""
    return {name: draw(tensors(entries, dtypes)) for name in draw(NAMES)}


def sparsities(n):
    """Sparsities for n units: the ends, exact parts k / n, and a hair beside them."""
    parts = st.integers(0, n).flatmap(
        lambda k: st.sampled_from([k / n, k / n - 1e-12, k / n + 1e-12, (k + 0.5) / n])
    )
    return (parts | st.floats(0, 1)).map(lambda s: min(1.0, max(0.0, s)))


def total(values):
    return sum(value.numel() for value in values.values())


def kept_by_decimals(n, sparsity):
    """The count rule by whole numbers: what is pruned is the part of n, half up."""
    exact = Fraction(repr(sparsity))
    double = 2 * exact.numerator * n + exact.denominator
    return n - double // (2 * exact.denominator)


def stable_order(values):
    """All (name, index), best first: by score, then name, then index."""
    places = [
        (-float(score), name, index)
        for name in sorted(values)
        for index, score in enumerate(values[name].double().flatten().tolist())
    ]
    return [(name, index) for _, name, index in sorted(places)]


def slow_masks(values, keep, floor=None):
    """The best `keep`, after each tensor has had its floor."""
    order, floor = stable_order(values), floor or {}
    reserved = [
        place
        for name in values
        for place in [place for place in order if place[0] == name][: floor.get(name, 0)]
    ]
    chosen = set(reserved)
    for place in order:
        if len(chosen) < keep:
            chosen.add(place)
    return masks_of(values, chosen)


def masks_of(values, chosen):
    masks = {name: torch.zeros(v.numel(), dtype=torch.bool) for name, v in values.items()}
    for name, index in chosen:
        masks[name][index] = True
    return {name: mask.reshape(values[name].shape) for name, mask in masks.items()}


def kept(shape, pruned):
    """A mask without its first `pruned` entries."""
    mask = torch.ones(shape, dtype=torch.bool)
    mask.view(-1)[:pruned] = False
    return mask


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def takes_structures(name):
    """Whether a strategy takes any structure, and not single weights alone."""
    forms = (STRATEGIES.config_class(one).model_fields for one in (name, "magnitude"))
    own, any_structure = (fields.get("structure") for fields in forms)
    return own is not None and own.annotation == any_structure.annotation
