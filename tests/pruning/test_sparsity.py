"""Counted sparsity by hand, and what is told of empty rows and layers."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from prunekit.pruning.sparsity import measure_sparsity, warn_empty, warn_empty_tensors
from tests.support.scored import kept
from tests.support.training import with_steps


def tied_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("name", ["0.weight", "1.weight"])
def test_tied_parameter_counts_once(name):
    sparsity = measure_sparsity(tied_model(), {name: kept((4, 4), 12)})
    assert sparsity.parameters == 16 + 4 + 4 + 8 + 2
    assert (sparsity.nonzero, sparsity.scope) == (34 - 12, 12 / 16)
    assert sparsity.model == 12 / 34
    (row,) = sparsity.layers()
    assert row == {
        **{"name": name, "entries": 16, "kept": 4, "density": 0.25},
        **{"pruned": 12, "removed": 0},
    }


def test_masks_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="fits no parameter"):
        measure_sparsity(tied_model(), {"0.weight": kept((3, 4), 0)})
    with pytest.raises(ValueError, match="fits no parameter"):
        measure_sparsity(tied_model(), {"9.weight": kept((4, 4), 0)})
    with pytest.raises(ValueError, match="two names"):
        measure_sparsity(tied_model(), {n: kept((4, 4), 1) for n in ("0.weight", "1.weight")})


def test_no_masks_is_no_sparsity():
    sparsity = measure_sparsity(tied_model(), {})
    assert (sparsity.scope, sparsity.model, sparsity.nonzero) == (0.0, 0.0, 34)
    assert warn_empty(sparsity) == []


def test_a_bias_without_entries_stops_no_signal():
    layer = nn.Linear(3, 4)
    masks = {"weight": torch.ones(4, 3, dtype=torch.bool), "bias": torch.zeros(4, dtype=torch.bool)}
    assert warn_empty(measure_sparsity(layer, masks)) == []


@with_steps
@given(bits=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4))
def test_empty_rows_and_layers_are_told(bits):
    mask = torch.tensor(bits)
    empty = sum(not any(row) for row in bits)
    sparsity = measure_sparsity(nn.Linear(3, 4), {"weight": mask})
    warnings = warn_empty(sparsity)
    assert warn_empty_tensors(sparsity) == (warnings if empty == 4 else [])
    if empty == 0:
        assert warnings == []
    elif empty == 4:
        assert warnings[0].startswith("weight is empty: all 12 entries")
    else:
        assert warnings[0].startswith(f"weight: {empty} of 4 rows are empty")


def test_empty_filters_of_a_convolution_and_pruned_biases():
    model = nn.Conv2d(2, 3, 3)
    masks = {"weight": kept((3, 2, 3, 3), 18), "bias": kept((3,), 1)}
    assert [w.split(":")[0] for w in warn_empty(measure_sparsity(model, masks))] == ["weight"]


def test_empty_rows_of_many_tensors_are_one_sentence():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    masks = {f"{i}.weight": kept((4, 4), 4 * i) for i in range(3)}
    (told,) = warn_empty(measure_sparsity(model, masks))
    assert told.startswith(
        "2.weight: 2 of 4 rows are empty, the largest share of 2 tensors with 3 "
    )


def test_the_rows_of_what_lies_the_other_way_are_its_outputs():
    """A transposed convolution [in, out / groups, ..]: 2 groups of 4 inputs and 3 outputs."""
    model = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, groups=2))
    mask = torch.ones(8, 3, 2, 2, dtype=torch.bool)
    mask[0] = False  # an input
    (tensor,) = measure_sparsity(model, {"0.weight": mask}).tensors
    assert (tensor.rows, tensor.empty_rows) == (6, 0)
    mask[4:, 1] = False  # the fifth output
    (tensor,) = measure_sparsity(model, {"0.weight": mask}).tensors
    assert (tensor.rows, tensor.empty_rows) == (6, 1)
