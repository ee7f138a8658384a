"""The attention that stands in for torch's where heads were removed."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.testing import assert_close

from prunekit.models.attention import FewerHeadsAttention, can_lose_heads

WIDTH, HEAD = 12, 3


def original(**settings):
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, WIDTH // HEAD, **settings).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def without(attention, kept):
    """`attention` with the heads `kept`, by the layout that torch documents."""
    rows = torch.cat([torch.arange(HEAD) + HEAD * head for head in kept])
    made = FewerHeadsAttention(attention, len(kept))
    state = attention.state_dict()
    for name, tensor in state.items():
        parts = 3 if name.startswith("in_proj") else 1
        if name == "out_proj.weight":
            state[name] = tensor[:, rows]
        elif name != "out_proj.bias" and "in_proj_bias" not in name:
            state[name] = tensor.unflatten(0, (parts, WIDTH))[:, rows].flatten(0, 1)
        elif name == "in_proj_bias":
            state[name] = tensor.unflatten(0, (3, WIDTH))[:, rows].flatten()
    made.load_state_dict(state, strict=True)
    return made


def closed(attention, kept):
    """Torch's own, with zeros in the output projection for the heads that are not kept."""
    rows = [h * HEAD + i for h in range(WIDTH // HEAD) if h not in kept for i in range(HEAD)]
    with torch.no_grad():
        attention.out_proj.weight[:, rows] = 0
    return attention


@given(
    kept=st.sets(st.integers(0, 3), min_size=1),
    batch_first=st.booleans(),
    separate=st.booleans(),
    bias=st.booleans(),
    mask=st.sampled_from([None, "float", "bool", "per head"]),
    padding=st.booleans(),
    batched=st.booleans(),
)
def test_it_gives_what_torch_gives_with_the_other_heads_closed(
    kept, batch_first, separate, bias, mask, padding, batched
):
    kept = sorted(kept)
    settings = {"kdim": 5, "vdim": 7} if separate else {}
    attention = original(batch_first=batch_first, bias=bias, **settings)
    query, key, value = (
        torch.randn(2, n, w, dtype=torch.float64)
        for n, w in ((4, WIDTH), (6, attention.kdim), (6, attention.vdim))
    )
    given_masks = {}
    if mask is not None:
        shape = (2 * 4 if batched else 4, 4, 6) if mask == "per head" else (4, 6)
        drawn = torch.randn(shape, dtype=torch.float64)
        drawn[..., 0] = 0  # each query reads something
        given_masks["attn_mask"] = drawn > 1 if mask == "bool" else drawn
    if padding:
        hidden = torch.zeros(2, 6, dtype=torch.bool)
        hidden[1, 4:] = True
        if mask in ("float", "per head"):  # torch wants both of one kind
            hidden = torch.zeros(2, 6, dtype=torch.float64).masked_fill(hidden, float("-inf"))
        given_masks["key_padding_mask"] = hidden if batched else hidden[1]
    if not batched:
        query, key, value = query[0], key[0], value[0]
    elif not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    smaller = without(attention, kept)
    if mask == "per head":  # a row of masks for each head that is left
        heads = given_masks["attn_mask"].unflatten(0, (-1, 4))[:, kept].flatten(0, 1)
        masks_left = given_masks | {"attn_mask": heads}
    else:
        masks_left = given_masks
    expected, weights = closed(attention, kept)(
        query, key, value, average_attn_weights=False, **given_masks
    )
    found, own = smaller(query, key, value, average_attn_weights=False, **masks_left)
    fast, none = smaller(query, key, value, need_weights=False, **masks_left)
    assert_close(found, expected)
    assert_close(fast, expected)
    assert none is None
    assert_close(own, weights[..., kept, :, :])


def test_the_mean_of_the_weights_is_over_the_heads_that_are_left():
    attention = original(batch_first=True)
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64)
    apart = without(attention, [1, 2])(x, x, x, average_attn_weights=False)[1]
    mean = without(attention, [1, 2])(x, x, x)[1]
    assert_close(mean, apart.mean(1))


def test_it_loses_heads_again_and_keeps_what_learns_and_its_mode():
    attention = original(batch_first=True).train()
    attention.in_proj_weight.requires_grad_(False)
    twice = FewerHeadsAttention(FewerHeadsAttention(attention, 3), 2)
    assert twice.in_proj_weight.shape == (3 * 2 * HEAD, WIDTH)
    assert twice.out_proj.weight.shape == (WIDTH, 2 * HEAD)
    assert not twice.in_proj_weight.requires_grad
    assert twice.out_proj.weight.requires_grad
    assert twice.training
    assert list(twice.state_dict()) == list(attention.state_dict())


def test_an_encoder_layer_of_torch_takes_it_off_its_fused_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 8, batch_first=True).double().eval()
    smaller = without(layer.self_attn, [0, 3])
    closed(layer.self_attn, [0, 3])
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        layer.self_attn = smaller
        assert_close(layer(x), expected)


@pytest.mark.parametrize("settings", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_that_no_input_gives_are_refused(settings):
    attention = nn.MultiheadAttention(WIDTH, 4, **settings)
    assert not can_lose_heads(attention)
    with pytest.raises(ValueError, match="cannot be removed"):
        FewerHeadsAttention(attention, 2)


@pytest.mark.parametrize("heads", [0, 5])
def test_it_has_from_one_head_to_all_that_there_were(heads):
    with pytest.raises(ValueError, match="4"):
        FewerHeadsAttention(original(), heads)
