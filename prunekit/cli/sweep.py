"""`prunekit sweep`: many runs, each made once."""

from __future__ import annotations

from pathlib import Path

import click

from prunekit.cli.common import ExampleCommand, code_option, count_option, device_option, out_option
from prunekit.cli.completion import complete_sweep

EXAMPLES = """
prunekit sweep burden_mnist --dry-run          what it would run, and the time
prunekit sweep my.yaml --jobs 2                the same command goes on later
prunekit sweep quickstart strategies.0.sparsity=0.7,0.8,0.9 seed=0..4
prunekit sweep quickstart seed=0..2 --baselines
prunekit sweep burden_mnist seed=0 data.root=mnist   fewer values
prunekit sweep my.yaml --jobs 8                one run on each of eight GPUs
prunekit sweep my.yaml --shard 2/4             the second of four parts
prunekit sweep my.yaml --slurm --pack 8 --slurm-set gpus=1
"""


@click.command(
    "sweep",
    cls=ExampleCommand,
    examples=EXAMPLES,
)
@click.argument("target", metavar="SWEEP|RECIPE", shell_complete=complete_sweep)
@click.argument("words", nargs=-1, metavar="[KEY=VALUE,...]...")
@out_option("sweeps", "sweep")
@count_option(
    "--jobs", "Runs at a time on this machine, each with the threads of its recipe.", most=256
)
@device_option("as the recipes say")
@click.option(
    "--shard", metavar="I/N", help="Run the Ith of N parts, as the Ith task of a job array."
)
@click.option("--dry-run", "--plan", is_flag=True, help="Show the runs and their time; run none.")
@click.option("--baselines", is_flag=True, help="Add dense, random, match and one-shot runs.")
@click.option("--retry-failed", is_flag=True, help="Try runs again that failed before.")
@click.option("--slurm", is_flag=True, help="Submit the runs to Slurm (needs prunekit[slurm]).")
@count_option("--pack", "Runs a Slurm job, one after the other.")
@click.option(
    "--slurm-set",
    "slurm_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of sbatch: partition, time (minutes), gpus, ...",
)
@code_option(again=True)
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    words: tuple[str, ...],
    out: Path,
    jobs: int,
    device: str | None,
    shard: str | None,
    dry_run: bool,
    baselines: bool,
    retry_failed: bool,
    slurm: bool,
    pack: int,
    slurm_settings: tuple[str, ...],
) -> None:
    """Run what a sweep file says, or RECIPE over the values of KEY=VALUE,...

    A sweep is axes times arms. The directory DIR/<sweep> holds its plan and its runs; the same
    command goes on where it was stopped or killed, and a run that is done is never made again, also
    when the sweep has grown. A run that fails does not stop the others; the exit code is then that
    of the first that failed.
    """
    from prunekit.foundation.ranks import leave_world
    from prunekit.report import picture
    from prunekit.sweep.command_line import read_command_line
    from prunekit.sweep.directory import begun_with
    from prunekit.sweep.session import Session
    from prunekit.sweep.shards import read_shard
    from prunekit.sweep.wanted_code import naming_its_code

    if device is not None:
        words += (f"device={device}",)
    part = read_shard(shard) if shard else None
    here = leave_world()  # each run is one process, also where srun started this one several times
    request = read_command_line(
        target,
        words,
        with_baselines=baselines,
        format_of=lambda name: begun_with(out / name),
        reading=lambda name: naming_its_code(out / name),
    )
    session = Session(request, out, retry_failed=retry_failed, draw=picture, shard=part)
    if slurm:
        ctx.exit(session.on_slurm(pack, slurm_settings, dry_run=dry_run))
    ctx.exit(session.on_this_machine(jobs, dry_run=dry_run, local=here.local))
