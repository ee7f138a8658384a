"""Write `docs/strategies/index.md`: all built-in strategies in one table.

    python docs/make_strategy_table.py [--check]

Names, modes and papers come from the classes; what a class cannot tell (what is scored, when masks
change, regrowth, count) from the table that heads each strategy's page. `--check` only says whether
the file is up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from prunekit.registry import STRATEGIES

FOLDER = Path(__file__).parent / "strategies"
ROWS = ("scores", "masks change", "regrowth", "count")
HEAD = """# Strategies

One line each; the page of a strategy has its formula, its settings and what differs from the paper. The first mode is
the default. Written by `python docs/make_strategy_table.py` from the classes and the pages.

"""


def facts(page: Path) -> dict[str, str]:
    """The rows of the first table of a page.

    Raises:
        ValueError: the page lacks one of them.
    """
    rows = re.findall(r"^\| ([a-z ]+) \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: value for name, value in reversed(rows)}  # of two rows the first counts
    if missing := [row for row in (*ROWS, "mode") if row not in found]:
        raise ValueError(f"{page}: its table has no row {missing[0]!r}")
    return found


def modes(name: str) -> str:
    """The modes of a strategy, its default first."""
    default = STRATEGIES.config_class(name).model_fields["mode"].default
    others = [mode for mode in STRATEGIES.load(name).modes if mode != default]
    return ", ".join(f"`{mode}`" for mode in (default, *others))


def papers(name: str) -> str:
    """The numbers of the papers, linked."""
    numbers = dict.fromkeys(re.findall(r"\d{4}\.\d{5}", STRATEGIES.describe(name).paper))
    return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers)


def table() -> str:
    """The whole page."""
    columns = ("strategy", *ROWS[:3], "mode", ROWS[3], "arXiv")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for component in STRATEGIES.components():
        if component.builtin:
            name = component.name
            scores, change, regrowth, count = (facts(FOLDER / f"{name}.md")[row] for row in ROWS)
            cells = (f"[{name}]({name}.md)", scores, change, regrowth, modes(name), count)
            lines.append(f"| {' | '.join((*cells, papers(name)))} |")
    return HEAD + "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Write the file, or compare it; 1 where it is not up to date."""
    path, made = FOLDER / "index.md", table()
    if check:
        return int(not path.exists() or path.read_text(encoding="utf-8") != made)
    path.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
