"""Values that ask for more than there is: one line of a dry run, and the exit code of its kind.

Under a limit of the memory, so that what got past the counting would end in torch's own words.
"""

from __future__ import annotations

import pytest

from tests.reliability.undisturbed import Undisturbed, told_plainly
from tests.support.commands import Commands

MEMORY = 400_000_000
"""More than the small run takes, and less than one copy of what is refused."""
SIZES = {
    "data.image_size=4096": (8, "a pass of 64 images of 1x4096x4096 takes at least"),
    "data.image_size=240": (8, "out of memory"),  # fits into the machine, and not under the limit
    "data.batch_size=9223372036854775808": (3, "must be at most"),
    "model={name: mlp, hidden: [16777216, 16777216]}": (8, "parameters take"),
    "model={name: mlp, hidden: [20000000000000000000]}": (3, "must be at most"),
    "phases.0.repeat=1000000000": (3, "must be at most"),
    "phases.0.length=99999999999999999999st": (3, "phases.0.length: "),
    "threads=1000000": (3, "must be at most"),
    "strategies.0.sparsity=1.0": (3, "must be less than 1"),
}


@pytest.mark.parametrize("value", SIZES)
def test_what_cannot_fit_is_one_line(commands: Commands, whole: Undisturbed, value: str) -> None:
    code, told = SIZES[value]
    ended = commands("run", whole.recipe, "--dry-run", value, memory=MEMORY)
    told_plainly(ended)
    assert ended.code == code, ended.text
    assert told in ended.text.splitlines()[-1]


def test_the_limit_leaves_room_for_what_fits(commands: Commands, whole: Undisturbed) -> None:
    ended = commands("run", whole.recipe, "--dry-run", memory=MEMORY)
    assert ended.code == 0, ended.text
