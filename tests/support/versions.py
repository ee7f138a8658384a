"""Print constraints for pip: `oldest` is what pyproject.toml allows at least, a version is torch's.

python tests/support/versions.py oldest > versions.txt
pip install -e '.[test]' -c versions.txt
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
FLOOR = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9][0-9.]*)")


def floors() -> dict[str, str]:
    """Each dependency of the core with its oldest version."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    found = [FLOOR.match(line) for line in project["dependencies"]]
    assert all(found), "each dependency of the core has a floor"
    return {match[1]: match[2] for match in found if match}


def constraints(wanted: str) -> list[str]:
    """Lines of a file of constraints; none for `newest`."""
    if wanted == "newest":
        return []
    if wanted == "oldest":
        return [f"{name}=={version}.*" for name, version in floors().items()]
    return [f"torch=={wanted}.*"]


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(sys.argv[1])) + "\n")
