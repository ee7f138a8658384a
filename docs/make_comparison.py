"""Run every strategy on a task and write its part of `docs/comparison.md`.

    python docs/make_comparison.py ROOT [--out runs] [--epochs 5] [--seeds 3] [--jobs 2]
    python docs/make_comparison.py --task one_shot
    python docs/make_comparison.py --task cifar FOLDER [--only vit gradual]

ROOT holds torchvision's MNIST files, FOLDER images in a folder for each class; digits need none. A
run that is done is not run again, so a script that was stopped goes on where it was. `--table` only
writes the page from the runs that there are; what is not there stands in it as not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import re
from pathlib import Path
from typing import Any

import comparison_mnist
from comparison_tasks import TASKS, Task, TaskCell

Tree = dict[str, Any]


def run_cell(job: tuple[str, Tree, Path]) -> tuple[str, str]:
    """Run a cell that is not done; its name and what went wrong."""
    name, tree, out = job
    from prunekit.errors import PrunekitError
    from prunekit.recipe.load import recipe_from
    from prunekit.recipe.yaml_text import dump_yaml
    from prunekit.train.launch import run_recipe

    if done(name, out):
        return name, ""
    try:
        recipe = recipe_from(tree)
        with contextlib.redirect_stdout(io.StringIO()):
            run_recipe(recipe, source_text=dump_yaml(recipe), out=out)
    except PrunekitError as error:
        return name, str(error)
    return name, ""


def done(name: str, out: Path) -> bool:
    """Whether the newest run of a cell came to its end."""
    return (out / name / "latest" / "report.json").is_file()


def report_of(name: str, out: Path) -> Tree:
    """The numbers of a finished cell, and its `run`."""
    from prunekit import open_run

    run = (out / name / "latest").resolve()
    return {**open_run(run).report(), "run": run}


def mnist_part(out: Path, epochs: int, seeds: int) -> str:
    """The part of MNIST."""
    found = [cell.name for cell in comparison_mnist.cells(seeds) if done(cell.name, out)]

    def report(cell: comparison_mnist.Cell) -> Tree | None:
        return report_of(cell.name, out) if done(cell.name, out) else None

    command = f"ROOT --epochs {epochs} --seeds {seeds}"
    return f"{comparison_mnist.text(report, epochs, seeds)}\n\n{made_by(command, found, out)}\n"


def task_part(task: Task, out: Path, seeds: int) -> str:
    """The table of another task."""
    found = [cell.name for cell in task.cells(seeds) if done(cell.name, out)]

    def report(cell: TaskCell) -> Tree | None:
        return report_of(cell.name, out) if done(cell.name, out) else None

    root = "FOLDER " if task.name == "cifar" else ""
    command = f"--task {task.name} {root}--seeds {seeds}"
    of = sum(1 for _ in task.cells(seeds))
    made = f"{made_by(command, found, out)} {len(found)} of {of} runs."
    return f"{task.table(report, seeds)}\n\n{made}\n"


def made_by(command: str, found: list[str], out: Path) -> str:
    """The command, where and when the runs were made."""
    told = f"Command: `python docs/make_comparison.py {command}`."
    if not found:
        return f"{told} Not run yet."
    reports = [out / name / "latest" for name in found]
    last = max(path.resolve().name[:8] for path in reports)
    where = report_of(found[0], out)["environment"]
    return (
        f"{told} Device: {where['device_name']}, CPU,\n1 thread a process; torch "
        f"{where['versions']['torch']}, Python {where['python']}; {last[:4]}-{last[4:6]}-{last[6:]}."
    )


PAGE = Path(__file__).parent / "comparison.md"


def write_part(name: str, text: str, page: Path) -> None:
    """Write what stands between the marks of a task; the rest of the page is written by hand."""
    mark = re.compile(rf"(<!-- task: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    new, count = mark.subn(lambda m: f"{m[1]}\n{text}\n{m[2]}", page.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{page}: {count} parts of the task {name}, not one")
    page.write_text(new, encoding="utf-8")


def jobs_of(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """What is to be run: first what other runs read, then the rest."""
    out, seeds = options.out, options.seeds
    if options.task == "mnist":
        all_of = [
            (c, comparison_mnist.recipe_of(c, options.root, out, options.epochs))
            for c in comparison_mnist.cells(seeds)
        ]
        first: tuple[str, ...] = ("persistent",)
    else:
        task = TASKS[options.task]
        wanted = [
            c for c in task.cells(seeds) if {c.model, c.arm} & {*options.only} or not options.only
        ]
        all_of = [(c, task.recipe(c, options.root, out)) for c in wanted]
        first = task.first
    jobs = [(c.arm, (c.name, tree, out)) for c, tree in all_of]
    return [job for arm, job in jobs if arm in first], [
        job for arm, job in jobs if arm not in first
    ]


def main() -> None:
    """Run what is missing, then write the part of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", default="data")
    parser.add_argument("--task", choices=["mnist", *TASKS], default="mnist")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="runs there count as done: one folder a setting",
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="models or arms of --task")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    batches = ([], []) if options.table else jobs_of(options)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for batch in batches:
            for name, problem in pool.imap_unordered(run_cell, batch):
                print(name, problem or "done", flush=True)
    if options.task == "mnist":
        text = mnist_part(options.out, options.epochs, options.seeds)
    else:
        text = task_part(TASKS[options.task], options.out, options.seeds)
    write_part(options.task, text, options.page)


if __name__ == "__main__":
    main()
