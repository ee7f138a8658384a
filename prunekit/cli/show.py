"""`prunekit show`: one component, with everything that a recipe can set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from prunekit.cli.common import (
    KEYS,
    KINDS,
    ExampleCommand,
    code_option,
    json_option,
    kind_named,
    print_json,
    registry_of,
)
from prunekit.cli.completion import complete_component
from prunekit.cli.list import component_entry, origin_text
from prunekit.cli.values import VALUES, kinds_of_value, value_entry, value_kind, value_names
from prunekit.errors import UsageError
from prunekit.foundation.plain import flow
from prunekit.foundation.suggestions import did_you_mean
from prunekit.recipe.find import named_recipes, shipped_sweeps
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError, import_object

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

EXAMPLES = """
prunekit show magnitude              fields, defaults, bounds, paper
prunekit show compressor tome        when two kinds share a name
prunekit show data cifar10 --json    for a program
prunekit show adamw                  also optimizers, schedules, augmentations
"""


@click.command(
    "show",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument(
    "words", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete_component
)
@code_option()
@json_option
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Show the fields of one component: type, default, bounds, meaning; and its paper.

    Schedules, distributions, structures, lr_schedules, optimizers and augmentations are shown too.
    """
    if len(words) > 2:
        raise click.UsageError("give a name, or a kind and a name", ctx)
    name = words[-1]
    kind = value_kind(words[0]) or kind_named(words[0]) if len(words) == 2 else kind_with(name)
    document = value_entry(kind, name) if kind in VALUES else detailed_entry(kind, name)
    if as_json:
        print_json(document)
        return
    from prunekit.foundation.console import console

    console(prose=True).print(show_view(document))


def kind_with(name: str) -> str:
    """The kind of the one component with this name, else of the one value.

    Raises:
        UsageError: none has it, or several kinds do.
    """
    kinds = [kind for kind in KINDS if is_known(kind, name)]
    if not {*kinds} - {*KEYS}:  # a schedule may share its name with an lr_schedule
        kinds += kinds_of_value(name)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise UsageError(f"{name!r} is in {' and '.join(kinds)}: put the kind before the name")
    if name in named_recipes():
        raise UsageError(f"{name!r} is a recipe: `prunekit init {name}` copies it")
    if name in shipped_sweeps():
        raise UsageError(f"{name!r} is a sweep: `prunekit sweep {name} --dry-run` shows its runs")
    known = [known for kind in KINDS for known in registry_of(kind).names()]
    near = did_you_mean(name, [*known, *(value for kind in VALUES for value in value_names(kind))])
    raise UsageError(
        f"no component is called {name!r}.{near} `prunekit list` shows them all; values of keys "
        "are in docs/values.md; one of your own needs --code FILE (docs/your-own.md)"
    )


def is_known(kind: str, name: str) -> bool:
    """Whether a kind has a component of this name; two of it count as well."""
    try:
        registry_of(kind).component(name)
    except UnknownNameError:
        return False
    except AmbiguousNameError:
        return True
    return True


def detailed_entry(kind: str, name: str) -> dict[str, Any]:
    """One component and its fields as plain values.

    Raises:
        UsageError: the kind has no such name, or two of it.
        PluginError: it cannot be imported.
    """
    from prunekit.cli.fields import describe_fields

    try:
        entry = component_entry(kind, name)
        config = registry_of(kind).config_class(name)
        fields = describe_fields(config)
        if kind == "strategies":
            modes = registry_of(kind).load(name).modes
            fields = [f | {"type": " | ".join(modes)} if f["name"] == "mode" else f for f in fields]
        if entry.get("own"):  # what the user wrote stands first
            shared = import_object(registry_of(kind).config).model_fields
            fields.sort(key=lambda field: (not field["required"], field["name"] in shared))
            if signature := getattr(config, "signature", None):
                entry["filled"] = list(signature.filled)
        return {**entry, "fields": fields}
    except (UnknownNameError, AmbiguousNameError) as error:
        raise UsageError(str(error)) from error


def show_view(document: dict[str, Any]) -> RenderableType:
    """Name, origin, summary and paper, then field by field."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [
        Text.assemble(
            (f"{singular(document['kind'])} {document['name']}", "bold"),
            f"  {origin_text(document)}",
        )
    ]
    lines += [Text(f"a value of `{document['key']}`")] if "key" in document else []
    lines += [Text(document[key]) for key in ("summary", "paper") if document[key]]
    if document.get("filled"):
        lines.append(Text(f"given by the data: {', '.join(document['filled'])}"))
    for field in document["fields"]:
        lines += ["", field_head(field), *indented(type_and_bounds(field), field["description"])]
    return Group(*lines)


def singular(kind: str) -> str:
    """`strategies` -> `strategy`."""
    return VALUES[kind].singular if kind in VALUES else KINDS[kind]


def field_head(field: dict[str, Any]) -> Text:
    """`sparsity: required`, `schedule: cubic`."""
    from rich.text import Text

    value = ("required", "bold") if field["required"] else (flow(field["default"]), "")
    return Text.assemble((field["name"], "cyan"), ": ", value)


def type_and_bounds(field: dict[str, Any]) -> Text:
    """`float, >= 0, < 1`."""
    from rich.text import Text

    return Text(", ".join(filter(None, (field["type"], field["bounds"]))), style="dim")


def indented(*lines: Text | str) -> list[RenderableType]:
    """What is not empty, four columns in."""
    from rich.padding import Padding
    from rich.text import Text

    texts = [Text(line) if isinstance(line, str) else line for line in lines]
    return [Padding(text, (0, 0, 0, 4), expand=False) for text in texts if text]
