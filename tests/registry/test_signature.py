"""A signature is settings: each type that YAML can say is read, written and passed as it was."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from prunekit.cli.fields import describe_fields
from prunekit.errors import PluginError
from prunekit.foundation.values import ComponentConfig, as_values
from prunekit.recipe.yaml_text import yaml_text
from prunekit.registry.configs import ModelConfig
from prunekit.registry.parameter_types import as_argument, as_setting, readable
from prunekit.registry.signature import SignatureConfig, settings_from

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=8)
SCALAR = {
    bool: st.booleans(),
    int: st.integers(-(2**60), 2**60),
    float: FINITE,
    str: WORDS,
    Path: WORDS.map(lambda word: Path(f"a/{word}")),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
}


def typed(depth: int) -> st.SearchStrategy[tuple[Any, Any]]:
    """(annotation, a value of it)."""
    base = st.sampled_from(list(SCALAR)).flatmap(lambda kind: pairs(kind, SCALAR[kind]))
    if not depth:
        return base
    inner = typed(depth - 1)
    return st.one_of(
        base,
        inner.map(lambda pair: (list[pair[0]], [pair[1]])),
        inner.map(lambda pair: (tuple[pair[0], ...], (pair[1], pair[1]))),
        st.tuples(inner, inner).map(
            lambda two: (tuple[two[0][0], two[1][0]], (two[0][1], two[1][1]))
        ),
        inner.map(lambda pair: (dict[str, pair[0]], {"key": pair[1]})),
        inner.map(lambda pair: (pair[0] | None, pair[1])),
        inner.map(lambda pair: (pair[0] | None, None)),
    )


def pairs(kind: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return values.map(lambda value: (kind, value))


def config_of(annotation: Any, **default: Any) -> type[SignatureConfig]:
    def made(value: Any) -> Any:
        return value

    made.__annotations__ = {"value": annotation}
    made.__defaults__ = tuple(default.values()) or None
    return settings_from(made, SignatureConfig, "made")


def as_read(text: str) -> Any:
    return as_values(YAML(typ="safe", pure=True).load(text))


@given(typed(2))
def test_what_is_passed_is_what_was_written_through_yaml_and_json(pair):
    annotation, value = pair
    config = config_of(annotation)
    asked = config.model_validate({"name": "made", "value": as_setting(value)})
    tree = asked.model_dump(mode="json")
    for again in (as_values(json.loads(json.dumps(tree))), as_read(yaml_text(tree))):
        read = config.model_validate(again)
        assert read == asked
        assert read.model_dump(mode="json") == tree
        found = config.signature.call(read, {})
        assert found == value
        assert type(found) is type(value)


@given(typed(1))
def test_a_default_is_the_same_written_out(pair):
    annotation, value = pair
    config = config_of(annotation, default=value)
    bare = config(name="made")
    assert config.model_validate(as_values(bare.model_dump(mode="json"))) == bare
    assert config.signature.call(bare, {}) == value


@pytest.mark.parametrize(
    ("default", "good", "bad"),
    [
        (3, 4, 0.5),
        (0.1, 1, "x"),
        (True, False, 1),
        ("gelu", "relu", 3),
        ([1, 2], (3,), ("x",)),
        ((0.1, 0.2), (1, 0.5), "x"),
        (None, {"a": (1, "b")}, float("nan")),
        ({}, {"a": 1}, 3),
    ],
)
def test_without_a_type_a_parameter_has_that_of_its_default(default, good, bad):
    def made(value=default):
        return value

    config = settings_from(made, SignatureConfig, "made")
    config.model_validate({"name": "made", "value": good})
    with pytest.raises(ValidationError):
        config.model_validate({"name": "made", "value": bad})


def test_bounds_of_an_annotation_hold():
    def made(width: Annotated[int, Field(ge=1)] = 4):
        return width

    config = settings_from(made, SignatureConfig, "made")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        config.model_validate({"name": "made", "width": 0})


def test_what_yaml_cannot_say_keeps_its_default_and_is_no_setting():
    def made(width: int = 3, act: type = dict, *, norm=len, either: int | type = 2, _own: int = 4):
        return width, act, norm, either, _own

    config = settings_from(made, SignatureConfig, "made")
    assert set(config.model_fields) == {"name", "width", "either"}
    assert config.signature.call(config(name="made", either=5), {}) == (3, dict, len, 5, 4)


def test_a_key_that_a_parameter_shares_is_not_kept_from_it():
    class Base(SignatureConfig):
        root: str | None = None

    def reads(root: Path = Path("here")):
        return root

    def would_ignore(root: type = dict):
        return root

    config = settings_from(reads, Base, "made", shared=("root",))
    assert config.signature.call(config(name="made", root="there"), {}) == Path("there")
    with pytest.raises(PluginError, match="'root' is a type, which no recipe can write"):
        settings_from(would_ignore, Base, "made", shared=("root",))


def test_positional_parameters_and_those_that_are_given():
    def made(width: int, /, size: int, depth: int = 2):
        return width, size, depth

    config = settings_from(made, SignatureConfig, "made", given=("size",))
    assert set(config.model_fields) == {"name", "width", "depth"}
    assert config.signature.call(config(name="made", width=7), {"size": 5, "other": 1}) == (7, 5, 2)


def test_what_a_docstring_says_of_a_parameter_is_its_meaning():
    class Made:
        """A thing.

        Args:
            width: units of the first layer,
                and of no other.
            depth (int): layers.

        Returns:
            other: nothing.
        """

        def __init__(self, width: int, depth: int = 2, other: int = 1):
            self.made = width, depth, other

    fields = describe_fields(settings_from(Made, SignatureConfig, "made"))
    assert {field["name"]: field["description"] for field in fields} == {
        "width": "units of the first layer,",
        "depth": "layers.",
        "other": "",
    }


def no_type(width):
    """Neither a type nor a default."""


def star(*widths: int):
    """Any number."""


def stars(**settings: int):
    """Any name."""


def module_needed(act: type):
    """A class."""


def taken(init: int = 1):
    """A key of all models."""


def method_taken(build: int = 1):
    """A method of all settings."""


def wrong_default(width: int = "8"):  # type: ignore[assignment]
    """Text for a number."""


def hidden(_width: int):
    """A private one."""


def lost(width: "NoSuchType" = 1):  # noqa: F821 - is what is tested
    """A type that is not there."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_type, "'width' has neither a type nor a default: write width: int"),
        (star, "*widths names no settings"),
        (stars, "**settings names no settings"),
        (module_needed, "'act' is a type, which no recipe can write"),
        (taken, "a parameter cannot be called 'init'"),
        (method_taken, "a parameter cannot be called 'build'"),
        (wrong_default, "'width' has the default '8', which is not of its type"),
        (hidden, "'_width' begins with _"),
        (lost, "its signature cannot be read: NameError: name 'NoSuchType' is not defined"),
    ],
)
def test_a_signature_that_cannot_be_settings_is_one_line_with_its_place(function, message):
    class Base(SignatureConfig, ModelConfig):
        def build(self, spec):
            raise NotImplementedError

    with pytest.raises(PluginError) as caught:
        settings_from(function, Base, "made")
    place = f"test_signature.py:{function.__code__.co_firstlineno}: {function.__qualname__}: "
    assert str(caught.value).startswith(place + message)
    assert "\n" not in str(caught.value)


def test_a_mapping_of_numbers_is_no_setting():
    with pytest.raises(Exception, match="keys are no texts"):
        readable(dict[int, str], "table")


def test_the_member_of_a_union_decides_what_is_passed():
    assert as_argument(list[int] | int, (1, 2)) == [1, 2]
    assert as_argument(tuple[int, ...] | str, (1, 2)) == (1, 2)
    assert as_argument(str | Path, "a") == "a"
    assert as_argument(Path | None, "a") == Path("a")
    assert as_argument(Any, ({"a": (1,)},)) == [{"a": [1]}]


def test_a_config_reads_as_its_annotations_say():
    adapter = TypeAdapter(readable(list[tuple[int, float]], "x"))
    assert adapter.validate_python(((1, 2.0),), strict=True) == ((1, 2.0),)
    assert issubclass(config_of(int), ComponentConfig)
