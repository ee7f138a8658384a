"""Isomorphic: each kind of layer loses the same share, within a kind the worst of all layers."""

import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.models.vit import ViTConfig
from prunekit.pruning.distributions import Demand, Isomorphic
from prunekit.pruning.pruner import Pruner
from prunekit.pruning.selection import keep_count
from prunekit.pruning.strategies import strategy
from prunekit.registry.configs import DataSpec
from prunekit.testing.cases import global_noise

KINDS = ("blocks.{}.fc1.weight", "blocks.{}.fc2.weight", "head.weight")


def by_hand(scores, kinds, keep):
    """Seats to kinds by price, then the best of each kind in one sorted list."""
    sizes = {kind: sum(scores[n].numel() for n in names) for kind, names in kinds.items()}
    seats = [((2 * k + 1) / (2 * size), kind) for kind, size in sizes.items() for k in range(size)]
    counts = dict.fromkeys(kinds, 0)
    for _, kind in sorted(seats)[:keep]:
        counts[kind] += 1
    kept = set()
    for kind, names in kinds.items():
        entries = [
            (-float(value), name, i)
            for name in names
            for i, value in enumerate(scores[name].flatten())
        ]
        kept |= {(name, i) for _, name, i in sorted(entries)[: counts[kind]]}
    return kept


@given(st.data(), st.integers(0, 100))
def test_it_equals_lists_that_are_sorted_kind_by_kind(data, percent):
    shapes = [data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(5)]
    names = [KINDS[0].format(0), KINDS[0].format(11), KINDS[1].format(0), KINDS[1].format(11)]
    names.append(KINDS[2])
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    scores = {
        name: torch.randint(5, shape, generator=generator).float()
        for name, shape in zip(names, shapes, strict=True)
    }
    kinds = {"a": names[:2], "b": names[2:4], "c": names[4:]}
    spelled = {" ".join(k): k for k in kinds.values()}
    masks = Isomorphic().select(Demand(scores, percent / 100))
    found = Isomorphic().kinds({n: tuple(s.shape) for n, s in scores.items()}, scores)
    assert [*found.values()] == [*spelled.values()]
    keep = keep_count(sum(s.numel() for s in scores.values()), percent / 100)
    ordered = {kind: found[kind] for kind in sorted(found)}
    assert {
        (n, i) for n, m in masks.items() for i in m.flatten().nonzero().flatten().tolist()
    } == by_hand(scores, ordered, keep)


def test_a_kind_is_a_name_without_numbers_and_the_kernel_or_a_shape():
    shapes = {
        "layer1.0.conv1.weight": (8, 8, 3, 3),
        "layer2.10.conv1.weight": (16, 8, 3, 3),
        "layer2.0.down.weight": (16, 8, 1, 1),
        "0.weight": (8, 3, 3, 3),
        "4.weight": (10, 8),
        "7.weight": (10, 8),
    }
    assert [*Isomorphic().kinds(shapes, shapes).values()] == [
        ["layer1.0.conv1.weight"],
        ["layer2.10.conv1.weight"],
        ["layer2.0.down.weight"],
        ["0.weight"],
        ["4.weight", "7.weight"],
    ]
    assert [*Isomorphic(by="shape").kinds(shapes, shapes).values()][-1] == ["4.weight", "7.weight"]


ALL = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]


@pytest.mark.parametrize(
    ("structure", "kinds"),
    [
        ("unstructured", ALL),
        ("channel", ALL[2:3]),
        ({"name": "channel", "round_to": 4}, ALL[2:3]),
        ("head", ALL[:1]),
    ],
)
def test_on_a_vit_each_kind_keeps_its_half(structure, kinds):
    config = ViTConfig(name="vit", patch_size=4, depth=2, embed_dim=16, heads=4)
    with global_noise(0):
        model = config.build(DataSpec(1, 8, 8, 10))
    model.blocks[0].mlp.fc1.weight.data *= 1.1  # so that within its kind more of it stays
    half = strategy(
        "magnitude",
        sparsity=0.5,
        schedule="constant",
        distribution="isomorphic",
        structure=structure,
        scope={"include": [f"blocks.*.{kind}.weight" for kind in kinds]},
    )
    pruner = Pruner(model, [half], total_steps=1, input_shape=(1, 8, 8))
    pruner.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    masks = pruner.masks()
    for kind in kinds:
        of_kind = [mask for name, mask in masks.items() if f"{kind}.weight" in name]
        assert len(of_kind) == 2
        assert 2 * sum(int(m.sum()) for m in of_kind) == sum(m.numel() for m in of_kind), kind
        if isinstance(structure, dict):
            rows = [int(mask.any(1).sum()) for mask in of_kind]
            assert rows != [32, 32]  # it is no uniform split
            assert all(count % 4 == 0 for count in rows)
