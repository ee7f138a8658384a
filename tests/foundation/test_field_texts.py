"""What a key is for stands below it in the source."""

from typing import Annotated

from pydantic import Field, create_model

from prunekit.foundation.field_texts import field_text, strings_below
from prunekit.foundation.values import Frozen


class Base(Frozen):
    """A value."""

    first: int = 1
    """What the first is.

    More of it, indented as in a docstring.
    """
    second: Annotated[int, Field(description="given")] = 2
    third: int = 3

    def method(self) -> int:
        third: int = 4
        """Of a local, which is no field."""
        return third


class Child(Base):
    first: int = 5
    second: int = 6
    """Another text."""

    class Inner(Frozen):
        deep: int = 0
        """Of the inner."""


def test_strings_stand_below_their_fields():
    assert strings_below(Base) == {
        "first": "What the first is.\n\nMore of it, indented as in a docstring.",
    }
    assert strings_below(Child.Inner) == {"deep": "Of the inner."}


def test_a_subclass_says_it_again_or_not():
    assert field_text(Child, "first") == field_text(Base, "first")
    assert field_text(Base, "second") == "given"
    assert field_text(Child, "second") == "Another text."
    assert field_text(Base, "unknown") == ""


def test_what_has_no_source_has_what_was_given():
    made = create_model("made", __base__=Base, own=(int, Field(default=0, description="mine")))
    assert field_text(made, "own") == "mine"
    assert field_text(made, "first") == field_text(Base, "first")


def test_the_json_schema_has_them_as_pydantic_would():
    class Told(Base, use_attribute_docstrings=True):
        first: int = 7
        """Read by pydantic."""
        tuples: tuple[Child.Inner, ...] = ()
        """Several."""

    schema = Told.model_json_schema()
    texts = {name: found.get("description") for name, found in schema["properties"].items()}
    assert texts["first"] == "Read by pydantic."
    assert texts["tuples"] == "Several."
    assert schema["$defs"]["Inner"]["properties"]["deep"]["description"] == "Of the inner."
    assert Child.model_json_schema()["properties"]["second"]["description"] == "Another text."
