"""Scopes: what a pattern takes, what the default leaves out, and what an empty result says."""

import subprocess
import sys

import pytest
from pydantic import ValidationError
from torch import nn

from prunekit.errors import RecipeError
from prunekit.foundation.parameters import Scope


class Encoder(nn.Module):
    """A little of everything that a vision transformer has."""

    def __init__(self):
        super().__init__()
        self.cls = nn.Parameter(nn.init.zeros_(nn.Linear(4, 1).weight.data[None]))
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)) for _ in range(2)
        )
        self.words = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)


class Wide(nn.Linear):
    """A Linear under another name."""


def tied():
    model = nn.Module()
    model.body = nn.Linear(4, 4)
    model.twin = nn.Linear(4, 4)
    model.twin.weight = model.body.weight
    model.tail = nn.Linear(4, 2)
    return model


WEIGHTS = (
    "conv.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "blocks.0.1.weight",
    "blocks.0.2.weight",
    "blocks.1.1.weight",
    "blocks.1.2.weight",
    "head.weight",
)


def test_the_default_is_weights_in_the_models_order():
    assert Scope().select(Encoder()) == WEIGHTS


def test_the_default_takes_separate_projections_and_bilinear_weights():
    model = nn.ModuleList(
        [nn.MultiheadAttention(4, 2, kdim=3, vdim=5), nn.Bilinear(2, 3, 4), Wide(2, 3)]
    )
    assert Scope().select(model) == (
        "0.q_proj_weight",
        "0.k_proj_weight",
        "0.v_proj_weight",
        "0.out_proj.weight",
        "1.weight",
        "2.weight",
    )


@pytest.mark.parametrize(
    ("include", "chosen"),
    [
        (("blocks.0.*",), ["blocks.0.0.weight", "blocks.0.0.bias", "blocks.0.1.weight",
                           "blocks.0.1.bias", "blocks.0.2.weight", "blocks.0.2.bias"]),
        (("blocks.?.2.weight",), ["blocks.0.2.weight", "blocks.1.2.weight"]),
        (("head.weight", "conv.weight"), ["conv.weight", "head.weight"]),
        (("re:.*[12]\\.2\\.weight",), ["blocks.1.2.weight"]),
        (("re:head\\.w",), None),
        (("type:Conv2d",), ["conv.weight"]),
        (("type:_ConvNd", "type:Embedding"), ["conv.weight", "words.weight"]),
        (("type:MultiheadAttention",), ["attention.in_proj_weight"]),
        (("type:BatchNorm2d",), None),
        (("cls",), ["cls"]),
    ],
)  # fmt: skip
def test_include(include, chosen):
    if chosen is None:
        with pytest.raises(RecipeError):
            Scope(include=include).select(Encoder())
    else:
        assert list(Scope(include=include).select(Encoder())) == chosen


def test_exclude_takes_from_the_default_and_from_include():
    excluded = Scope(exclude=("head.*", "type:Conv2d", "re:blocks\\.0.*"))
    assert excluded.select(Encoder()) == (WEIGHTS[1], WEIGHTS[2], WEIGHTS[5], WEIGHTS[6])
    both = Scope(include=("blocks.*.weight",), exclude=("blocks.*.0.weight", "*.2.*"))
    assert both.select(Encoder()) == ("blocks.0.1.weight", "blocks.1.1.weight")


def test_a_strategys_default_stands_for_an_empty_include():
    default = ("type:Conv2d", "head.weight")
    assert Scope().select(Encoder(), default) == ("conv.weight", "head.weight")
    assert Scope(exclude=("head.*",)).select(Encoder(), default) == ("conv.weight",)
    assert Scope(include=("words.weight",)).select(Encoder(), default) == ("words.weight",)


@pytest.mark.parametrize(
    "include", [(), ("body.weight",), ("twin.weight",), ("type:Linear",), ("*.weight",)]
)
def test_a_tied_parameter_counts_once_by_its_first_name(include):
    assert Scope(include=include).select(tied())[0] == "body.weight"
    assert "twin.weight" not in Scope(include=include).select(tied())


def test_excluding_any_of_its_names_takes_a_tied_parameter_out():
    assert Scope(exclude=("twin.*",)).select(tied()) == ("tail.weight",)


def test_an_embedding_tied_to_a_head_is_no_default():
    model = nn.ModuleDict(
        {"words": nn.Embedding(5, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 5)}
    )
    model["head"].weight = model["words"].weight
    assert Scope().select(model) == ("body.weight",)


def test_a_module_used_twice_counts_once():
    layer = nn.Linear(2, 2)
    assert Scope().select(nn.Sequential(layer, nn.ReLU(), layer)) == ("0.weight",)


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (
            Scope(include=("hed.weight",)),
            r"'hed.weight' matches no parameter. Nearest: head.weight",
        ),
        (Scope(exclude=("blcks.*",)), r"'blcks.\*' matches no parameter. Nearest: .*blocks"),
        (Scope(include=("re:heads?",)), r"'re:heads\?' matches no parameter. Nearest: .*head"),
        (Scope(include=("type:Conv3d",)), r"'type:Conv3d' is no module.*Nearest: Conv2d"),
        (Scope(include=("head.*",), exclude=("head.*",)), "exclude takes all of them out"),
    ],
)
def test_a_pattern_or_scope_without_a_parameter_is_an_error(scope, message):
    with pytest.raises(RecipeError, match=message):
        scope.select(Encoder())


def test_a_model_without_weights_is_an_error():
    with pytest.raises(RecipeError, match="name them in include"):
        Scope().select(nn.Sequential(nn.LayerNorm(3)))


def test_a_broken_expression_is_refused_where_it_is_written():
    with pytest.raises(ValidationError, match="'re:\\(' is no regular expression"):
        Scope(include=("re:(",))


@pytest.mark.parametrize(
    ("scope", "name", "reason"),
    [
        (Scope(), "conv.weight", "in: weight of Conv2d"),
        (Scope(), "conv.bias", "out: bias of Conv2d"),
        (Scope(), "norm.weight", "out: weight of BatchNorm2d"),
        (Scope(), "cls", "out: cls of Encoder"),
        (Scope(), "attention.in_proj_weight", "in: in_proj_weight of MultiheadAttention"),
        (Scope(exclude=("head.*",)), "head.weight", "out: exclude head.*"),
        (Scope(include=("*.1.*",)), "blocks.0.1.weight", "in: include *.1.*"),
        (Scope(include=("*.1.*",)), "head.weight", "out: no include pattern matches"),
    ],
)
def test_the_reason_for_each_parameter(scope, name, reason):
    assert scope.explain(Encoder(), name) == reason


def test_the_reason_agrees_with_the_choice():
    model, scope = Encoder(), Scope(exclude=("blocks.1.*", "type:Conv2d"))
    names = [name for name, _ in model.named_parameters()]
    chosen = [name for name in names if scope.explain(model, name).startswith("in: ")]
    assert tuple(chosen) == scope.select(model)


def test_the_values_import_no_torch():
    code = (
        "import sys, prunekit.foundation.parameters\n"
        "import prunekit.pruning.schedules, prunekit.pruning.cadence, prunekit.pruning.apportion\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
