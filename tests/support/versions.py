"""Print constraints for pip: `oldest` is what pyproject.toml allows at least, a version is torch's.

python tests/support/versions.py oldest > versions.txt
pip install -e '.[test]' -c versions.txt

Extras count as the core does: what they promise is tried on their floors too. Of a floor with two
numbers, `2.11`, the newest patch is taken, as pip would.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
FLOOR = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9][0-9.]*)")


def requirements() -> Iterator[str]:
    """Of the core and of each extra; an extra that holds others names them, and they come too."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    yield from project["dependencies"]
    for lines in project["optional-dependencies"].values():
        yield from (line for line in lines if not line.startswith(f"{project['name']}["))


def floors() -> dict[str, str]:
    """Each direct dependency with its oldest version.

    Raises:
        ValueError: one has no floor, or two.
    """
    found: dict[str, str] = {}
    for line in requirements():
        match = FLOOR.match(line)
        if match is None or found.setdefault(match[1], match[2]) != match[2]:
            raise ValueError(f"{line}: write one floor, the same wherever it stands")
    return found


def constraints(wanted: str) -> list[str]:
    """Lines of a file of constraints; none for `newest`."""
    if wanted == "newest":
        return []
    if wanted == "oldest":
        return [f"{name}=={version}.*" for name, version in floors().items()]
    return [f"torch=={wanted}.*"]


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(sys.argv[1])) + "\n")
