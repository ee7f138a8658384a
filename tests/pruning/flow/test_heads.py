"""Which rows and columns are a head: attentions laid out in every way, against their layout."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from prunekit import RecipeError
from prunekit.pruning.flow import heads, note_input
from prunekit.pruning.structures import Head
from tests.support.training import with_steps

INPUTS = ("qkv", "hqkv", "hdqkv", "apart", "conv")
OUTPUTS = ("heads", "interleaved")


class Laid(nn.Module):
    """An attention over [N, T, C] whose rows and columns lie in one of several ways."""

    def __init__(self, heads, width, rows="qkv", columns="heads", **extras):
        super().__init__()
        self.heads, self.width, self.rows, self.columns = heads, width, rows, columns
        inner, self.extras = heads * width, extras
        kind = (lambda i, o: nn.Conv1d(i, o, 1)) if rows == "conv" else nn.Linear
        if rows == "apart":
            self.one, self.two, self.three = (nn.Linear(6, inner) for _ in range(3))
        else:
            self.inside = kind(6, 3 * inner)
        self.out = nn.Linear(inner, 5)
        self.norm = nn.LayerNorm(width) if extras.get("norm") else nn.Identity()
        self.talk = nn.Linear(heads, heads) if extras.get("talk") else None
        self.gate = nn.Linear(6, inner) if extras.get("gate") else None

    def places(self):
        """Head of each row of a stacked weight, by the layout alone."""
        h = torch.arange(self.heads)
        if self.rows in ("qkv", "conv"):
            return h.view(1, -1, 1).expand(3, -1, self.width).flatten().tolist()
        return h.repeat_interleave(3 * self.width).tolist()

    def split(self, x):
        if self.rows == "apart":
            three = (self.one(x), self.two(x), self.three(x))
            return [one.unflatten(-1, (self.heads, self.width)).transpose(1, 2) for one in three]
        x = self.inside(x.mT).mT if self.rows == "conv" else self.inside(x)
        h, d = self.heads, self.width
        if self.rows in ("qkv", "conv"):
            return x.unflatten(-1, (3, h, d)).permute(2, 0, 3, 1, 4)
        if self.rows == "hqkv":
            return x.unflatten(-1, (h, 3, d)).permute(3, 0, 2, 1, 4)
        return x.unflatten(-1, (h, d, 3)).permute(4, 0, 2, 1, 3)

    def forward(self, x):
        q, k, v = self.split(x)
        q, k = self.norm(q), self.norm(k)
        match = (q @ k.mT / self.width**0.5).softmax(-1)
        if self.talk is not None:
            match = self.talk(match.movedim(1, -1)).movedim(-1, 1)
        mixed = F.dropout(match, 0.1, self.training) @ v
        mixed = mixed.transpose(1, 2) if self.columns == "heads" else mixed.permute(0, 2, 3, 1)
        mixed = mixed.flatten(2)
        return self.out(mixed if self.gate is None else mixed * torch.sigmoid(self.gate(x)))


def columns_of(model):
    h = torch.arange(model.heads)
    if model.columns == "heads":
        return h.repeat_interleave(model.width).tolist()
    return h.repeat(model.width).tolist()


@with_steps
@given(
    count=st.integers(2, 4), width=st.integers(2, 4), rows=st.sampled_from(INPUTS),
    columns=st.sampled_from(OUTPUTS), norm=st.booleans(), noted=st.booleans(),
)  # fmt: skip
def test_heads_are_found_in_any_layout(count, width, rows, columns, norm, noted):
    model = Laid(count, width, rows, columns, norm=norm)
    if noted:
        note_input(model, (7, 6))
    (found,) = heads(model, []).attentions
    assert found.heads == count
    assert list(found.columns["out.weight"]) == columns_of(model)
    if rows == "apart":
        expected = [h for h in range(count) for _ in range(width)]
        assert all(list(found.rows[f"{n}.weight"]) == expected for n in ("one", "two", "three"))
        assert len(found.rows) == 6
    else:
        assert list(found.rows["inside.weight"]) == model.places()
        assert list(found.rows["inside.bias"]) == model.places()


@pytest.mark.parametrize("columns", OUTPUTS)
@pytest.mark.parametrize("rows", INPUTS)
def test_a_pruned_head_adds_nothing_and_a_kept_one_stays(rows, columns):
    torch.manual_seed(0)
    model, x = Laid(3, 4, rows, columns).double().eval(), torch.randn(2, 7, 6, dtype=torch.float64)
    (name,) = (n for n in ("one.weight", "inside.weight") if n in dict(model.named_parameters()))
    units, read = Head().units(model, [name]), []
    model.out.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model(x)
    kept = {group: torch.tensor([True, False, True]) for group in units.sizes}
    masks = units.expand(kept)
    with torch.no_grad():
        for parameter, mask in masks.items():
            model.get_parameter(parameter).mul_(mask)
        pruned = model(x)
        alive = masks["out.weight"].all(0)
        assert alive.tolist() == [head != 1 for head in columns_of(model)]
        torch.testing.assert_close(read[1][..., alive], read[0][..., alive], rtol=0, atol=1e-12)
        for parameter, mask in masks.items():  # anything in the rows of the pruned head
            if parameter != "out.weight":
                model.get_parameter(parameter).add_(torch.randn(mask.shape) * ~mask)
        torch.testing.assert_close(model(x), pruned, rtol=0, atol=1e-12)
    assert {group: mask.tolist() for group, mask in units.collapse(masks).items()} == {
        group: [True, False, True] for group in kept
    }


def test_a_gate_belongs_to_the_head_that_it_opens():
    (found,) = heads(Laid(2, 3, gate=True), []).attentions
    assert list(found.rows["gate.weight"]) == [0, 0, 0, 1, 1, 1]


def test_heads_that_are_mixed_are_refused_by_name():
    with pytest.raises(RecipeError, match=r"inside\.weight has no heads that stand apart"):
        Head().units(Laid(2, 3, talk=True), ["inside.weight"])


def test_keys_that_several_heads_share_make_one_unit_of_them():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv, self.o = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
            k, v = self.kv(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    (found,) = heads(Grouped(), []).attentions
    assert found.heads == 2
    assert list(found.rows["q.weight"]) == [0] * 8 + [1] * 8
    assert list(found.rows["kv.weight"]) == ([0] * 4 + [1] * 4) * 2


def test_what_reads_the_mean_of_all_heads_without_use_joins_none():
    class Watched(Laid):
        def forward(self, x):
            self.seen = self.split(x)[1].mean(1).softmax(-1)
            return super().forward(x)

    (found,) = heads(Watched(3, 2), []).attentions
    assert found.heads == 3


def test_a_convolution_of_each_channel_or_group_keeps_heads_apart():
    class Local(Laid):
        def __init__(self, groups):
            super().__init__(2, 3)
            self.local = nn.Conv1d(18, 18, 3, padding=1, groups=groups)

        def split(self, x):
            x = self.local(self.inside(x).mT).mT
            return x.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)

    for groups in (18, 6):
        (found,) = heads(Local(groups), []).attentions
        assert list(found.rows["inside.weight"]) == ([0] * 3 + [1] * 3) * 3
        assert set(found.rows) == {"inside.weight", "inside.bias"}
    mixed = heads(Local(2), [])
    assert [one.heads for one in mixed.attentions] in ([], [1])
