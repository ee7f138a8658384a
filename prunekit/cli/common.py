"""What every command has: examples in its help, and `--traceback`."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prunekit.errors import UsageError
from prunekit.foundation.suggestions import did_you_mean
from prunekit.foundation.text import printable

if TYPE_CHECKING:
    from prunekit.registry import Registry

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass
class Options:
    """What the entry point needs to know of the command line."""

    traceback: bool = False
    alone: bool = False
    """Whether the process ends with the command, as that of a test does not."""


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


class _WithExamples(click.Command):
    def __init__(self, *args: Any, examples: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.params.append(traceback_option())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, last: they stay on the screen."""
        examples_section(formatter, self.examples)


class ExampleCommand(_WithExamples):
    """A command whose help teaches by example."""


class ExampleGroup(_WithExamples, click.Group):
    """A group of commands whose help teaches by example."""


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, the rest on stderr."
)


def out_option(default: str, what: str) -> Decorator:
    """`--out DIR`, where the directories of runs or of sweeps go."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path(default),
        show_default=True,
        metavar="DIR",
        help=f"Parent of the {what} directories.",
    )


def code_option(*, again: bool = False) -> Decorator:
    """`--code FILE`: while the command runs, the classes of a user's own file are names.

    Args:
        again: for commands that read what was made with such a file, with `--code-changed`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        """The command with the option; it is called as before."""

        @functools.wraps(command)
        def with_code(
            *args: Any, code: Path | None, code_changed: bool = False, **kwargs: Any
        ) -> Any:
            """Run the command while the file is in use.

            Raises:
                UsageError: `--code-changed` without a file.
            """
            if code is None:
                if code_changed:
                    raise UsageError("--code-changed belongs to --code FILE")
                return command(*args, **kwargs)
            from prunekit.registry.own_code import use_code

            with use_code(code, changed=code_changed):
                return command(*args, **kwargs)

        found = with_code
        if again:
            text = "Take FILE though it is not what the run was made with."
            found = click.option("--code-changed", is_flag=True, help=text)(found)
        text = "A file of your own, whose classes the recipe may name."
        kind = click.Path(path_type=Path)
        return click.option("--code", type=kind, metavar="FILE", help=text)(found)

    return decorate


def device_option(default: str) -> Decorator:
    """`--device NAME`: where it is computed.

    Args:
        default: where, when it is not given.
    """
    return click.option(
        "--device",
        metavar="NAME",
        help=f"Where it is computed: auto, cpu, cuda, cuda:1, mps, ...  [default: {default}]",
    )


def count_option(name: str, help_text: str, most: int | None = None) -> Decorator:
    """An option `N`, 1 unless it is given."""
    return click.option(
        name,
        type=click.IntRange(min=1, max=most),
        default=1,
        show_default=True,
        metavar="N",
        help=help_text,
    )


def numbers_between_commas(option: str, text: str) -> list[float]:
    """`0,0.25,0.5` as numbers; nothing as none.

    Raises:
        UsageError: something else; names the option.
    """
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(
            f"{option} {text}: write numbers between commas, such as 0,0.25,0.5"
        ) from None


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Recipes, and overrides: an argument with `=` that is not an existing file."""
    overrides = [arg for arg in arguments if "=" in arg and not Path(arg).is_file()]
    return [arg for arg in arguments if arg not in overrides], overrides


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what cannot be an override.

    Raises:
        UsageError: a word without `=`.
    """
    for word in overrides:
        if "=" not in word:
            raise UsageError(
                f"{word!r} is no override: write key=value, such as data.batch_size=64"
            )


KINDS = {
    "strategies": "strategy",
    "compressors": "compressor",
    "models": "model",
    "data": "dataset",
    "probes": "probe",
    "losses": "loss",
    "loggers": "logger",
    "structures": "structure",
    "distributions": "distribution",
    "schedules": "schedule",
}
"""The word of the command line -> the kind of the registry."""
KEYS = {
    kind: f"strategies.N.{KINDS[kind]}" for kind in ("structures", "distributions", "schedules")
}
"""Of those that stand inside a strategy: the key of a recipe."""


def kind_named(word: str) -> str:
    """The word of `KINDS` that is meant: `strategy` and `strategies`, `data` and `datasets`.

    Raises:
        UsageError: no such kind.
    """
    for plural, singular in KINDS.items():
        if word in (plural, singular, f"{singular}s"):
            return plural
    near = did_you_mean(word, [*KINDS, *KINDS.values()])
    raise UsageError(f"no kind {word!r}.{near} Kinds are: {', '.join(KINDS)}")


def registry_of(kind: str) -> Registry:
    """The registry of a word of `KINDS`."""
    from prunekit.registry import REGISTRIES

    return REGISTRIES[KINDS[kind]]


@contextmanager
def starting() -> Iterator[None]:
    """Import modules and read recipes without looking for garbage, of which they leave little.

    To look through the objects of torch again and again took a tenth of its import, and as much
    when the process ended: in a process of the command's own they are not looked at any more.
    """
    from prunekit.foundation.timing import no_collection

    with no_collection():
        try:
            yield
        finally:
            context = click.get_current_context(silent=True)
            if context is not None and context.ensure_object(Options).alone:
                gc.freeze()


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, on stdout or stderr, without what a terminal would obey. Every command does."""
    click.echo(printable(text), err=err, nl=nl)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, with the version of its layout."""
    import json  # which most commands do without

    say(json.dumps({"schema_version": 1, **document}, indent=2, allow_nan=False))


def quiet_stdout() -> None:
    """Send what is left to nowhere, so that closing stdout at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
