"""What a person reads when a recipe is wrong: all of it, each with its place, in clear words."""

import os
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from prunekit.errors import RecipeError, UsageError
from prunekit.foundation.suggestions import edit_distance
from prunekit.recipe.document import SourcePosition
from prunekit.recipe.load import load_recipe, recipe_from, recipe_from_text
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml, read_document
from prunekit.registry.sentences import config_at
from tests.recipe.test_recipe import SMALLEST, WHOLE

BROKEN = """\
nmae: x
seed: "3"
precision: fp23
compile: yes
threads: 1.5
ema: {}
data: {name: digits, batch_size: 0, colour: red, augment: [flp]}
model: {name: vti}
compressors: tome
strategies:
  - name: magnitude
    spasity: 0.85
    sparsity: 1.2
    schedule: {name: cubc}
    cadence: {evry: 5}
    distribution: {name: global, normalise: true}
  - {sparsity: 0.5}
  - 5
optimizer: {name: adem, lr: 5.0e-3}
phases:
  - {name: train, lenght: 40ep, lr_schedule: {name: cosine, warm: 5%}}
evaluate: 3
"""
TOLD = """\
r.yaml:1:1 name: missing: it has no default
r.yaml:1:1 nmae: unknown key. Did you mean 'name'?
r.yaml:2:7 seed: must be a whole number, not the text '3'
r.yaml:3:12 precision: must be 'fp32', 'bf16' or 'fp16', not 'fp23'. Did you mean 'fp32'?
r.yaml:4:10 compile: must be true or false, not the text 'yes'
r.yaml:5:10 threads: must be a whole number, not the number 1.5
r.yaml:6:1 ema.decay: missing: it has no default
r.yaml:7:34 data.batch_size: must be at least 1, not 0
r.yaml:7:37 data.colour: unknown key of 'digits'. Known:
r.yaml:7:60 data.augment.0: must be 'flip', 'crop', 'random_resized_crop',
r.yaml:8:15 model.name: no model is called 'vti'. Did you mean 'vit'? Known: vit, mlp,
r.yaml:9:14 compressors: must be a list, not the text 'tome'
r.yaml:12:5 strategies.0.spasity: unknown key of 'magnitude'. Did you mean 'sparsity'?
r.yaml:13:15 strategies.0.sparsity: must be less than 1, not 1.2
r.yaml:14:22 strategies.0.schedule.name: no schedule is called 'cubc'. Did you mean 'cubic'?
r.yaml:15:15 strategies.0.cadence.evry: unknown key. Did you mean 'every'?
r.yaml:16:34 strategies.0.distribution.normalise: unknown key of 'global'. Did you mean 'normalize'?
r.yaml:17:5 strategies.1.name: missing: it has no default
r.yaml:18:5 strategies.2: must be a mapping with the `name` of a strategy
r.yaml:19:19 optimizer.name: no optimizer is called 'adem'. Did you mean 'adam'? Known: adamw,
r.yaml:21:5 phases.0.length: missing: it has no default, such as length: 10ep
r.yaml:21:19 phases.0.lenght: unknown key. Did you mean 'length'?
r.yaml:21:61 phases.0.lr_schedule.warm: unknown key of 'cosine'. Did you mean 'warmup'?
r.yaml:22:11 evaluate: must be a mapping, not the number 3
"""


def told(text, *overrides):
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, overrides, source="r.yaml")
    return str(caught.value).splitlines()


def test_every_error_comes_out_at_once_in_the_order_of_the_file():
    lines, expected = told(BROKEN), TOLD.splitlines()
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_a_fault_of_the_document_is_told_beside_errors_of_values():
    lines = told("seed: 1\nseed: 2\nsede: &x 3\n" + SMALLEST, "data=*x", "seed=x")
    assert lines == [
        "r.yaml:2:1 seed: given twice, first at r.yaml:1:1",
        "r.yaml:3:1 sede: unknown key. Did you mean 'seed'?",
        "r.yaml:3:7 sede: anchor &x: leave it out",
        "override 'data=*x' data: alias *x: write the value out",
        "override 'seed=x' seed: must be a whole number, not the text 'x'",
    ]


def test_an_unknown_key_with_nothing_near_lists_what_is_known():
    (line,) = told(WHOLE, "ema.zzzzz=1")
    assert line == "override 'ema.zzzzz=1' ema.zzzzz: unknown key. Known: decay, warmup, buffers"


def test_a_mistake_in_an_override_is_placed_at_the_override():
    lines = told(WHOLE, "strategies.0.sparsity=1.2", "phases.0.lenght=2ep", "optimizer={name: sgd}")
    assert lines == [
        "override 'strategies.0.sparsity=1.2' strategies.0.sparsity: must be less than 1, not 1.2",
        "override 'phases.0.lenght=2ep' phases.0.lenght: unknown key. Did you mean 'length'?",
        "override 'optimizer={name: sgd}' optimizer.lr: missing: it has no default",
    ]


def test_of_very_many_errors_the_first_hundred_are_shown():
    lines = told(SMALLEST + "".join(f"unknown{i}: 1\n" for i in range(200)))
    assert len(lines) == 101
    assert lines[-1] == "... and 100 more"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "[1, 2]", "text", "5"])
def test_a_file_that_is_no_mapping(text):
    (line,) = told(text)
    assert re.match(r"r\.yaml:\d+:\d+: a recipe is a mapping of keys to values, this is", line)


def test_a_tree_from_python_has_paths_but_no_places():
    with pytest.raises(RecipeError) as error:
        recipe_from({"name": "x"})
    assert str(error.value).splitlines() == [
        "data: missing: it has no default, such as data: {name: digits}",
        "model: missing: it has no default, such as model: {name: vit, patch_size: 2}",
        "optimizer: missing: it has no default, such as optimizer: {name: adamw, lr: 0.001}",
        "phases: missing: it has no default, such as phases: [{name: train, length: 10ep}]",
    ]


def test_the_examples_of_missing_keys_make_a_recipe():
    fields = Recipe.model_fields.items()
    examples = {name: field.examples[0] for name, field in fields if field.examples}
    assert recipe_from({"name": "x", **examples}).phases[0].name == "train"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: \xff\xfe", r":1:7: not UTF-8: save the file as UTF-8"),
        ("name: x".encode("utf-16"), r":1:1: not UTF-8"),
        (b"a: 1\nb: \x00", "holds a NUL byte"),
        (b"#" * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_text(tmp_path, content, told):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(str(path)) + ".*" + told):
        load_recipe(path)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file or directory: give the path"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="a folder, not a file"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="give the path"):
        load_recipe(Path("a\0b"))


def test_a_recipe_is_found_by_its_name():
    assert load_recipe("quickstart", ["seed=3"]).seed == 3
    with pytest.raises(UsageError, match=r"quickstrat: does not exist\. Did you mean 'quickstart'"):
        load_recipe("quickstrat")
    with pytest.raises(UsageError, match="give a recipe file"):
        load_recipe("a\0b")


# ---- typos


def mappings(node: Any, path=()):
    """Every mapping of a tree that a config class reads."""
    if isinstance(node, dict):
        yield path
        for key, value in node.items():
            yield from mappings(value, (*path, key))
    elif isinstance(node, list):
        for i, item in enumerate(node):
            yield from mappings(item, (*path, i))


RESOLVED = dump_yaml(recipe_from_text(WHOLE))
TREE = read_document(RESOLVED, lambda line, column: SourcePosition((line, column), "")).root
KEYS = [
    (path, key) for path in mappings(TREE) for key in config_at(Recipe, TREE, path).model_fields
]
LETTERS = string.ascii_lowercase + "_"


@st.composite
def typos(draw, word):
    """`word` with one letter inserted, deleted, replaced, or swapped with the next."""
    at = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(LETTERS))
    return draw(
        st.sampled_from(
            [
                word[:at] + letter + word[at:],
                word[:at] + word[at + 1 :],
                word[:at] + letter + word[at + 1 :],
                word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
            ]
        )
    )


def test_the_tree_of_the_typo_test_reaches_every_level():
    levels = {len(path) for path, _ in KEYS}
    assert levels == {0, 1, 2, 3}
    assert len(KEYS) > 80


@given(st.data())
def test_one_wrong_letter_in_any_key_suggests_that_key_first(data):
    path, key = data.draw(st.sampled_from(KEYS))
    typo = data.draw(typos(key))
    known = config_at(Recipe, TREE, path).model_fields
    others = [other for other in known if other != key]
    assume(typo and typo not in known)
    assume(all(edit_distance(typo, other) > 1 for other in others))
    where = ".".join(map(str, (*path, typo)))
    lines = told(RESOLVED, f"{where}=1")
    assert [
        line
        for line in lines
        if f" {where}: unknown key" in line and f"Did you mean '{key}'" in line
    ]


# ---- anything at all

LINE = re.compile(r"(.*r\.yaml:\d+:\d+|override '.*'|\.\.\. and \d+ more)( .+)?(: .+)?")


def lines_of(load):
    try:
        assert isinstance(load(), Recipe)
    except RecipeError as error:
        return str(error).split("\n")
    return []


def check(load):
    for line in lines_of(load):
        assert LINE.fullmatch(line)
        assert "Input should" not in line
        assert "pydantic" not in line


@given(st.binary(max_size=200))
def test_any_bytes_are_a_recipe_or_a_recipe_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / f"{os.getpid()}.r.yaml"
    path.write_bytes(content)
    check(lambda: load_recipe(path))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(
            ["cubic", "global", "magnitude", "tome", "vit", "digits", "2ep", "5%", "x"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([*sorted({key for _, key in KEYS}), "x", ""]), inner, max_size=4
        ),
    ),
    max_leaves=8,
)


@given(st.data())
def test_any_value_at_any_place_is_a_recipe_or_a_recipe_error(data):
    tree = read_document(RESOLVED, lambda line, column: SourcePosition((line, column), "")).root
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(mappings(tree))))
        node: Any = tree
        for key in path:
            node = node[key]
        node[data.draw(st.sampled_from([*node, "name", "x"]))] = data.draw(VALUES)
    assert all("Input should" not in line for line in lines_of(lambda: recipe_from(tree)))


@given(st.data())
def test_any_slip_in_the_text_is_a_recipe_or_a_recipe_error(data):
    text = data.draw(st.sampled_from([SMALLEST, WHOLE, RESOLVED]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = at + data.draw(st.integers(0, 3))
        put = data.draw(st.sampled_from([*" \n:-{}[],#&*!|>'\"%@`?~.0", "a: ", "- ", ""]))
        text = text[:at] + put + text[until:]
    check(lambda: recipe_from_text(text, source="r.yaml"))
