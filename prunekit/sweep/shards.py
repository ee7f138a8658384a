"""A sweep shared out among calls that know nothing of each other, as the tasks of a job array."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from prunekit.errors import UsageError
from prunekit.sweep.plan import Plan
from prunekit.sweep.prepare import unique_cells


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `of` parts of a sweep."""

    number: int
    """1 .. of."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def read_shard(text: str) -> Shard:
    """Read `2/8`.

    Raises:
        UsageError: something else, or a number that is not there.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    shard = Shard(*map(int, match.groups())) if match else None
    if shard is None or shard.of == 0:
        raise UsageError(f"--shard {text}: write NUMBER/COUNT, such as 1/4")
    if not 1 <= shard.number <= shard.of:
        raise UsageError(
            f"--shard {text}: the parts are 1/{shard.of} to {shard.of}/{shard.of}: number the "
            f"tasks of a job array from 1, as sbatch --array=1-{shard.of} does"
        )
    return shard


def part_of(plan: Plan, shard: Shard) -> Plan:
    """The cells of a shard: a function of the plan and the shard alone.

    A cell is in the shard of the runs that it needs. Of these families the largest go first, each
    to the shard that has the fewest runs, so the shards differ by no more than a family.
    """
    loads = [0] * shard.of
    mine: set[str] = set()
    for family in sorted(families(plan), key=len, reverse=True):
        number = loads.index(min(loads))
        loads[number] += len(family)
        if number == shard.number - 1:
            mine.update(family)
    return replace(plan, cells=tuple(cell for cell in plan.cells if cell.key in mine))


def families(plan: Plan) -> list[list[str]]:
    """The keys of cells that must be in one place, in the order of the plan."""
    of: dict[str, list[str]] = {}
    for key, cell in unique_cells(plan).items():  # what a cell needs stands before it
        family = [key]
        for source in dict.fromkeys(cell.sources.values()):
            if of[source] is not family:
                family = of[source] + family
        for member in family:
            of[member] = family
    return list({id(family): family for family in of.values()}.values())
