"""What every command has: examples in its help, and `--traceback`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click


@dataclass
class Options:
    """What the entry point needs to know of the command line."""

    traceback: bool = False


def traceback_option() -> click.Option:
    """`--traceback`, understood before and after the name of the command."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(Options).traceback = True

    return click.Option(
        ["--traceback"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=remember,
        help="Show the whole Python trace of an error.",
    )


def examples_section(formatter: click.HelpFormatter, examples: str) -> None:
    """Write examples as they are, without wrapping."""
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class ExampleCommand(click.Command):
    """A command whose help teaches by example."""

    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.append(traceback_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, last: they stay on the screen."""
        examples_section(formatter, self.examples)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr."
)
