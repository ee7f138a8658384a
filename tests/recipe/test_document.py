"""YAML to plain values with places; nothing that runs, explodes or means two things."""

import math
import string

import pytest
from hypothesis import example, given, strategies as st

from prunekit.errors import RecipeError
from prunekit.foundation.plain import shown
from prunekit.recipe.document import SourcePosition, scalar
from prunekit.recipe.overrides import apply_change
from prunekit.recipe.yaml_text import MAX_DEPTH, MAX_NODES, read_document


def read(text):
    return read_document(
        text, lambda line, column: SourcePosition((line, column), f"{line}:{column}")
    )


def faults(text):
    return [str(fault) for fault in read(text).faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5.0e-3", 0.005),
        ("5e3", 5000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-7", -7),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("40ep", "40ep"),
        ("1:30", "1:30"),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)
    assert read(f"key: {text}\n").root == {"key": value}
    assert read(f"key: '{text}'\n").root == {"key": text}


def test_nan_is_a_number():
    assert math.isnan(scalar(".nan"))


def test_places_are_those_of_the_text():
    document = read("# c\na: 1\nb:\n  - {c: x, d: [5, 6]}\n  -\n    e: 7\n")
    assert document.root == {"a": 1, "b": [{"c": "x", "d": [5, 6]}, {"e": 7}]}
    for path, key, value in [
        (("a",), "2:1", "2:4"),
        (("b",), "3:1", "4:3"),
        (("b", 0), None, "4:5"),
        (("b", 0, "d"), "4:12", "4:15"),
        (("b", 0, "d", 1), None, "4:19"),
        (("b", 1, "e"), "6:5", "6:8"),
    ]:
        assert document.place(path).label == value
        if key:
            assert document.place(path, of_key=True).label == key
    assert document.place(("b", 0, "missing")).label == "4:5"
    assert document.place(("a", "missing")).label == "2:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1", ["1:4 a: anchor &x: leave it out"]),
        ("a: 1\nb: *a", ["2:4 b: alias *a: write the value out"]),
        (
            "a: !!python/object:os.system 1",
            ["1:4 a: tag tag:yaml.org,2002:python/object:os.system"],
        ),
        ("a: !!int 1", ["1:4 a: tag tag:yaml.org,2002:int"]),
        ("a: ! 1", ["1:4 a: tag !"]),
        ("a: 1\na: 2", ["2:1 a: given twice, first at 1:1"]),
        ("a: {b: 1, b: {c: 2}}", ["1:11 a.b: given twice, first at 1:5"]),
        ("1: a", ["1:1: a key must be text, not the number 1"]),
        ("a: {null: a}", ["1:5 a: a key must be text, not null"]),
        ("? [x, y]\n: 1", ["1:3: a key must be text, not a list"]),
        ("? {x: 1}\n: 1", ["1:3: a key must be text, not a mapping"]),
        ('a: "\\ud83d"', ["1:4 a: holds half a character"]),
        ("a: " + "1" * 301, ["1:4 a: a number of more than 300 digits"]),
        ("%YAML 1.1\n---\na: no", ["2:1: % directives are not allowed"]),
        ("%TAG ! tag:x,1:\n---\na: no", ["2:1: % directives are not allowed"]),
    ],
)
def test_what_a_recipe_may_not_use_is_told_with_its_place(text, expected):
    found = faults(text)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_the_first_of_two_equal_keys_counts_and_all_else_is_still_read():
    document = read("a: 1\na: {b: 3}\n5: x\n? [q]\n: y\nc: 2")
    assert document.root == {"a": 1, "c": 2}
    assert len(document.faults) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "1:6: no valid YAML"),
        ("a: b: c", "1:5: no valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "2:1: no valid YAML"),
        ("a: 1\nb: \x07", "2:4: no valid YAML: a character that is not allowed"),
        ("a: 1\n--- \nb: 2", "2:1: a second document"),
        ("a: \0", "holds a NUL byte"),
        ("a: !" + "x" * 2000, "1:4: a tag: leave it out"),
        ("x" * 1_000_001, "larger than 1,000,000 bytes"),
        ("é" * 500_001, "larger than 1,000,000 bytes"),
        ("[" * 20_000, "nested more than 32 deep"),
        ("- " * 20_000, "nested more than 32 deep"),
        ("? " * 20_000, "nested more than 32 deep"),
        ("[" + "a," * 20_000 + "]", "more than 10,000 values"),
    ],
)
def test_what_cannot_be_read_ends_the_reading(text, problem):
    with pytest.raises(RecipeError, match=problem) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_limits_are_exact():
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH).root
    assert len(read("[" + "1," * (MAX_NODES - 1) + "]").root) == MAX_NODES - 1
    with pytest.raises(RecipeError):
        read("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(RecipeError):
        read("[" + "1," * MAX_NODES + "]")


def test_a_yaml_bomb_stays_small():
    lines = ["a0: &a0 [x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)
    ]
    document = read("\n".join(lines))
    assert document.root["a9"] == [None] * 9
    assert len(document.faults) == 10 + 9 * 9


YAML_LIKE = st.text(
    string.ascii_letters + string.digits + " \n-:{}[],#&*!|>'\"%@`?~.<\\\t", max_size=60
)


@given(st.one_of(YAML_LIKE, st.text(max_size=40)))
@example("*\U00018d09")  # an alias whose name is no character of this Python's Unicode
@example("a: &\u200e 1")
@example("!\u202e x")
def test_any_text_is_read_or_refused(text):
    try:
        lines = [str(fault) for fault in read(text).faults]
    except RecipeError as error:
        lines = [str(error)]
    assert all(line.isprintable() for line in lines)


@given(st.text(max_size=200))
def test_what_is_shown_of_a_value_is_short_and_has_no_control_character(text):
    assert len(shown(text)) <= 60
    assert shown(text).isprintable()
    assert shown(text, bare=True).isprintable()


@pytest.mark.parametrize("path", ["a.b.0.c", "a.b.1", "new.key", "a.gone", "a.b.9", ""])
def test_a_copy_is_changed_alone(path):
    text = "a: {b: [{c: 1}, 2], gone: !tag x}\n"
    first, untouched = read(text), read(text)
    second = first.copy()
    assert second == first
    apply_change(second, path, read("{d: [3]}"), SourcePosition((1, 1), "here"))
    assert second != first
    assert first == untouched
