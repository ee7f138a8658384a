"""`prunekit evaluate`: a finished run or an exported file on test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prunekit.cli.common import (
    ExampleCommand,
    check_overrides,
    code_option,
    device_option,
    json_option,
    numbers_between_commas,
    print_json,
    say,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from prunekit.export import ModelEvaluation
    from prunekit.foundation.proportion import Proportion

MOST_ROWS = 20
"""Classes on the terminal; of more the worst."""

EXAMPLES = """
prunekit evaluate runs/quickstart/latest
prunekit evaluate runs/quickstart/latest --eval-ratios 0,0.5 --out evaluated
prunekit evaluate runs/mine/latest data.root=other_photos
prunekit evaluate model.onnx data.root=photos --json
"""


@click.command(
    "evaluate",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("source", metavar="RUN_DIR|FILE", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--eval-ratios",
    metavar="R,R,...",
    help="Also with these ratios of its compressors: accuracy against tokens, without training.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for evaluation.json and pictures (confusion, calibration, ratios).",
)
@device_option("that of the run, where it is here")
@code_option(again=True)
@json_option
def command(
    source: Path,
    overrides: tuple[str, ...],
    eval_ratios: str | None,
    out: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Evaluate a finished run, an exported .onnx file or a .safetensors file on test images.

    The data is that of the run; data.KEY=VALUE gives other data, as in a recipe. Images are
    normalised as those of the training were. ONNX files run in onnxruntime.
    """
    check_overrides(overrides)
    ratios = numbers_between_commas("--eval-ratios", eval_ratios or "")
    from prunekit.export import evaluate_run

    found = evaluate_run(source, overrides, eval_ratios=ratios, device=device)
    document = found.document()
    files: list[Path] = []
    if out is not None:
        from prunekit.report.evaluation import write_evaluation

        files = write_evaluation(document, out)
    if as_json:
        print_json({**document, "files": [str(file) for file in files]})
        return
    from prunekit.foundation.console import console

    screen = console()
    for part in _shown(found):
        screen.print(part)
    for file in files:
        say(f"Wrote {file}")


def _shown(found: ModelEvaluation) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [_totals(found)]
    if found.ratios:
        parts += [Text(), _by_ratio(found)]
    parts += [Text(), _by_class(found)]
    return [*parts, *(Text(note, style="yellow") for note in found.notes)]


def _totals(found: ModelEvaluation) -> Table:
    from prunekit.foundation.number_text import count, percent, tokens_text

    rows = [
        ("images", f"{count(found.images)}, test split of {found.data['name']}"),
        ("top-1", _with_interval(found.top1)),
    ]
    if found.top5:
        rows.append(("top-5", _with_interval(found.top5)))
    rows.append(("loss", f"{found.loss:.4f} nats{_between(found.loss_interval)}"))
    bins = len(found.calibration.bins)
    rows.append(
        ("calibration error", f"{percent(found.calibration.error)}  ({bins} bins of equal width)")
    )
    if found.tokens:
        rows.append(("tokens", tokens_text(*found.tokens)))
    return _table(found.source, (), rows)


def _with_interval(one: Proportion) -> str:
    from prunekit.foundation.number_text import percent

    if one.interval is None:
        return "?"
    low, high = one.interval
    return f"{percent(one.share)}  (95%: {percent(low)} to {percent(high)})"


def _between(ends: tuple[float, float] | None) -> str:
    return f"  (95%: {ends[0]:.4f} to {ends[1]:.4f})" if ends else ""


def _by_ratio(found: ModelEvaluation) -> Table:
    from prunekit.foundation.number_text import si

    rows = [
        (
            f"{one.eval_ratio:g}",
            str(one.tokens[1]) if one.tokens else "?",
            si(one.macs),
            _with_interval(one.top1),
            f"{one.loss:.4f}",
        )
        for one in found.ratios
    ]
    return _table("Other ratios", ("eval_ratio", "tokens", "multiply-adds", "top-1", "loss"), rows)


def _by_class(found: ModelEvaluation) -> Table:
    from prunekit.foundation.number_text import count

    taken: dict[int, str] = {}
    for mistake in found.mistakes:  # the most frequent first
        name = found.classes[mistake.given]
        taken.setdefault(mistake.label, f"{name} ({mistake.images})")
    shown, title = list(enumerate(found.by_class)), "Classes"
    if len(shown) > MOST_ROWS:
        seen = [(label, one) for label, one in shown if one.right.count]
        shown = sorted(seen, key=lambda pair: pair[1].right.hits / pair[1].right.count)[:MOST_ROWS]
        title = f"The {len(shown)} worst of {len(found.by_class)} classes (--json has all)"
    rows = [
        (one.name, count(one.right.count), _with_interval(one.right), taken.get(label, ""))
        for label, one in shown
    ]
    return _table(title, ("class", "images", "right", "most often taken for"), rows)


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        show_header=bool(headings),
        box=None,
        pad_edge=False,
    )
    for number in range(len(headings or rows[0])):
        table.add_column(headings[number] if headings else "", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
