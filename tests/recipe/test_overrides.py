"""`key.path=value` on the tree before it is checked."""

import copy
import string

import pytest
from hypothesis import given, strategies as st

from prunekit.recipe.document import SourceDocument, SourcePosition
from prunekit.recipe.overrides import apply_overrides
from prunekit.recipe.yaml_text import read_document

TREE = """
seed: 0
ema: null
data: {name: digits, root: here}
strategies:
  - {name: magnitude, schedule: cubic}
probes: []
"""


def place(line, column):
    return SourcePosition((line, column), f"{line}:{column}")


def overridden(*overrides, text=TREE):
    document = read_document(text, place)
    apply_overrides(document, overrides)
    return document


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("strategies.0.sparsity=0.8", ("strategies", 0, "sparsity"), 0.8),
        ("strategies.0.sparsity=8e-1", ("strategies", 0, "sparsity"), 0.8),
        ("data.name=image_folder", ("data", "name"), "image_folder"),
        ("data.root=/a=b/c.d", ("data", "root"), "/a=b/c.d"),
        ("data.root='1'", ("data", "root"), "1"),
        ("strategies=[]", ("strategies",), []),
        ("strategies.0={name: x, y: [1, 2]}", ("strategies", 0), {"name": "x", "y": [1, 2]}),
        ("ema.decay=0.9", ("ema",), {"decay": 0.9}),
        ("evaluate.every=2ep", ("evaluate",), {"every": "2ep"}),
        ("a.b.c=true", ("a",), {"b": {"c": True}}),
        ("data.root=", ("data", "root"), None),
        (" seed =3", ("seed",), 3),
    ],
)
def test_a_value_is_put_at_its_path(override, path, value):
    document = overridden(override)
    assert document.faults == []
    assert document.at(path) == value
    assert document.place(path).label == f"override {override!r}"


def test_what_is_not_overridden_stays_as_it_was_and_where_it_was():
    before, after = read_document(TREE, place), overridden("data.root=x", "ema.decay=0.5")
    expected = copy.deepcopy(before.root)
    expected["data"]["root"], expected["ema"] = "x", {"decay": 0.5}
    assert after.root == expected
    for path in before.values:
        if path[:2] != ("data", "root") and path[:1] != ("ema",):
            assert after.place(path) == before.place(path)


def test_later_overrides_work_on_earlier_ones():
    document = overridden(
        "strategies=[{name: a}, {name: b}]", "strategies.1.name=c", "seed=1", "seed=2"
    )
    assert document.root["strategies"] == [{"name": "a"}, {"name": "c"}]
    assert document.root["seed"] == 2
    assert document.place(("strategies", 0, "name")).label.startswith("override 'strategies=[")
    assert document.place(("strategies", 1, "name")).label == "override 'strategies.1.name=c'"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "write it as key.path=value"),
        ("=3", "write it as key.path=value"),
        ("data..root=3", "write it as key.path=value"),
        (".".join("a" * 40) + "=1", "write it as key.path=value"),
        ("seed.x=1", "seed is the number 0, not a mapping: leave off .x"),
        ("data.root.x.y=1", "data.root is the text 'here', not a mapping"),
        ("strategies.0.schedule.stop=5%", "write strategies.0.schedule={name: cubic, stop: ...}"),
        ("strategies.1.sparsity=1", "there is no strategies.1: strategies has only strategies.0"),
        ("strategies.-1.sparsity=1", "strategies is a list: write strategies.0"),
        ("strategies.first.sparsity=1", "strategies is a list: write strategies.0"),
        ("strategies.99999999999999999999.name=1", "strategies is a list"),
        ("probes.0.name=x", "there is no probes.0: probes has no item: write probes=[...]"),
        ("compressors.0.ratio=1", "compressors has no items: write compressors=[...]"),
        ("new.mapping.0.x=1", "new.mapping has no items: write new.mapping=[...]"),
        ("seed=[1", "seed: no valid YAML"),
        ("seed=a: b: c", "seed: no valid YAML"),
        ("seed=" + "[" * 40, "seed: nested more than 32 deep"),
        ("seed=" + "x" * 1_000_001, "seed: larger than 1,000,000 bytes"),
        ("seed=*x", "seed: alias *x"),
        ("seed={a: !t 1}", "seed.a: tag !t"),
    ],
)
def test_a_bad_override_changes_nothing_and_says_what_to_write(override, told):
    document = overridden(override)
    assert len(document.faults) == 1
    line = str(document.faults[0])
    assert line.startswith("override '")
    assert told in line
    assert len(line) < 400
    if "tag" not in told and "alias" not in told:
        assert document.root == read_document(TREE, place).root


KEYS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(st.lists(KEYS, min_size=1, max_size=5), SCALARS)
def test_any_path_into_nothing_is_made(keys, value):
    text = (
        {None: "null", True: "true", False: "false"}.get(value)
        if value in (None, True, False)
        else None
    )
    document = SourceDocument(root={})
    apply_overrides(document, [f"{'.'.join(keys)}={text or repr(value)}"])
    assert document.faults == []
    assert document.at(tuple(keys)) == value


@given(st.text(max_size=40))
def test_any_text_is_applied_or_is_a_fault_in_one_line(text):
    document = overridden(text)
    assert all("\n" not in str(fault) for fault in document.faults)
    assert document.faults or "=" in text
