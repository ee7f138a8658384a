"""The group of commands, each imported when it is named, and the entry point."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any, NoReturn

import click

from prunekit.cli.common import Options, examples_section, quiet_stdout, say, traceback_option
from prunekit.cli.failures import report_failure, report_interrupt, speaks_for_all
from prunekit.foundation.signals import ended_in_a_line
from prunekit.foundation.suggestions import did_you_mean
from prunekit.registry.faults import plugin_fault

COMMANDS = {
    "run": "Train, prune, compress and evaluate what a recipe says.",
    "resume": "Go on with a run that stopped, from its newest checkpoint.",
    "sweep": "Run a recipe over values, arms and seeds; each run once.",
    "report": "Compare runs: tables, pictures, one page.",
    "compact": "Write a finished run without its empty heads and channels.",
    "picture": "Draw merged tokens, masks, densities or sensitivity of a run.",
    "export": "Write a finished run as ONNX, PT2 or packed weights, checked.",
    "evaluate": "Accuracy, loss and calibration of a run or an exported file.",
    "predict": "Give the classes of image files, by a run or an exported file.",
    "sensitivity": "Accuracy against sparsity, one layer of a run at a time.",
    "check-nm": "Tell which tensors hold n of each m inputs, as in 2:4.",
    "validate": "Find every mistake in a recipe or sweep itself, without data or model.",
    "list": "List strategies, compressors, models, data, probes, losses and loggers.",
    "show": "Show what a recipe can set for one component or value.",
    "init": "Copy a recipe or sweep to edit, or begin a plugin; without a name, list them.",
    "schema": "Print the JSON Schema of recipes, for editors.",
    "data": "Pack images for training, check them, say what a folder or pack holds.",
    "cache": "See and delete what is kept on the disk for the next run.",
    "doctor": "What this machine has, and whether pruning works on it.",
    "bench": "Measure what prunekit costs here, and what a pruned model buys.",
}
"""Each command with its line in the list of them: to show that list imports none."""

EXAMPLES = """
prunekit run quickstart                    prune a ViT on the spot, in a minute
prunekit init vit_cifar_tome_cpu           copy a recipe to edit
prunekit validate my.yaml                  find every mistake in it
prunekit run my.yaml strategies.0.sparsity=0.9
prunekit list strategies                   what there is
prunekit COMMAND --help                    more examples
"""

BROKEN_PIPE = 141  # what the shell reports for a program that SIGPIPE ended


class LazyGroup(click.Group):
    """A group whose commands are modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a working day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(
            f"prunekit.cli.{cmd_name.replace('-', '_')}"
        ).command
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of them, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name for a wrong one."""
        word = args[0]
        if word not in COMMANDS and not word.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command {word!r}.{did_you_mean(word, COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a reader that went away ends it without a word."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            quiet_stdout()
            return BROKEN_PIPE
        return result

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples and exit codes."""
        examples_section(formatter, EXAMPLES)
        formatter.write_paragraph()
        formatter.write_text(
            "Exit codes: 0 done, 1 bug, 2 usage, 3 recipe, 4 data, 5 checkpoint, 6 diverged, "
            "7 plugin, 8 disk or memory, 9 export, 10 goal missed, 75 stopped on request, "
            "130 interrupted."
        )


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the versions that a bug report needs, without importing torch."""
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    from prunekit.registry.installed import own_version

    own = own_version() or "0+unknown"  # run from a checkout that is not installed
    python = ".".join(str(part) for part in sys.version_info[:3])
    say(f"prunekit {own} (torch {version('torch')}, Python {python})")
    ctx.exit()


@click.group(cls=LazyGroup)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the versions and exit.",
)
def cli() -> None:
    """Prune neural networks while they train: one YAML recipe, one honest answer."""


cli.params.append(traceback_option())


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code that tells what happened.

    Each command computes on one CPU thread, unless OMP_NUM_THREADS or the recipe says otherwise:
    by itself torch takes all cores, also where others are at work on them.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which reads it once
    options = Options(alone=True)
    try:
        with ended_in_a_line(says_so=speaks_for_all()):
            result = cli.main(args, prog_name="prunekit", standalone_mode=False, obj=options)
    except click.ClickException as error:
        shown = io.StringIO()  # it may name a file
        error.show(file=shown)
        say(shown.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        sys.exit(report_interrupt(error))
    except Exception as error:
        sys.exit(report_failure(error, traceback=options.traceback))
    except SystemExit as error:  # which is not a plugin's to call
        if (fault := plugin_fault(error)) is None:
            raise
        sys.exit(report_failure(fault, traceback=options.traceback))
    sys.exit(result if isinstance(result, int) else 0)
