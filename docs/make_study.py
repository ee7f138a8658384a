"""Fill the tables of `docs/study.md` and draw its pictures from the directories of its sweeps.

    prunekit sweep burden_mnist --jobs 2        # and the others that the page names
    python docs/make_study.py SWEEPS

SWEEPS holds the sweep directories. Between `<!-- table: NAME -->` and `<!-- end -->` the page is
written by this script, the rest by hand; the tables are made in the `study_*.py` beside it. A
table whose sweep is not there stays as it is.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from study_burden import (
    burden_accuracy,
    burden_dense,
    burden_differences,
    burden_levels,
    burden_norms,
    burden_order,
    burden_pictures,
    burden_ramp,
    burden_seeds,
)
from study_compression import compression, interaction, merging, merging_pairs, speed
from study_iso import iso_accuracy, iso_burden, iso_kinds, iso_less

from prunekit.report.read import RunRecord, common
from prunekit.report.study import Study, sweep_study

PAGE = Path(__file__).parent / "study.md"
NO_COMMIT = "no commit"
"""A run that was started outside of a checkout records none."""
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

TABLES: dict[str, tuple[str, Callable[[Study], str]]] = {
    "burden_order": ("burden_mnist", burden_order),
    "burden_dense": ("burden_mnist", burden_dense),
    "burden_levels": ("burden_mnist", burden_levels),
    "burden_seeds": ("burden_mnist", burden_seeds),
    "burden_norms": ("burden_mnist", burden_norms),
    "burden_ramp": ("burden_mnist", burden_ramp),
    "burden_accuracy": ("burden_mnist", burden_accuracy),
    "burden_differences": ("burden_mnist", burden_differences),
    "compression": ("compression_cpu", compression),
    "interaction": ("compression_cpu", interaction),
    "speed": ("compression_cpu", speed),
    "merging": ("merging", merging),
    "merging_pairs": ("merging", merging_pairs),
    "iso_accuracy": ("iso_compute", iso_accuracy),
    "iso_less": ("iso_compute", iso_less),
    "iso_kinds": ("iso_compute", iso_kinds),
    "iso_burden": ("iso_compute", iso_burden),
}


def made_by(study: Study, command: str) -> str:
    """What stands below a table: the command, where and when the runs were made."""
    runs = study.runs
    commits = Counter(
        str(_manifest(run, "git", "commit") or NO_COMMIT)[: len(NO_COMMIT)] for run in runs
    )
    told = ", ".join(f"{commit} ({count})" for commit, count in sorted(commits.items()))
    days = sorted({run.path.name[:8] for run in runs})
    day = f"{days[-1][:4]}-{days[-1][4:6]}-{days[-1][6:]}"
    torch, device = common(runs, "versions", "torch"), common(runs, "device_name")
    missing = f"; {len(study.missing)} runs are missing" if study.missing else ""
    return (
        f"\n({len(runs)} runs of `{command}`; {device}, torch {torch}, prunekit at "
        f"{told}, {day}{missing}.)\n"
    )


def _manifest(run: RunRecord, *keys: str) -> object:
    from prunekit import open_run

    found: object = open_run(run.path).manifest()
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", type=Path, help="the folder that holds the sweep directories")
    folder = parser.parse_args().sweeps
    studies = {
        name: sweep_study(folder / name)
        for name in {sweep for sweep, _ in TABLES.values()}
        if (folder / name / "plan.json").is_file()
    }

    def filled(block: re.Match[str]) -> str:
        sweep, make = TABLES[block[2]]
        if sweep not in studies:
            print(f"{block[2]}: left as it is, no {folder / sweep}")
            return block[0]
        study = studies[sweep]
        return f"{block[1]}\n{make(study)}{made_by(study, f'prunekit sweep {sweep}')}\n{block[3]}"

    PAGE.write_text(BLOCK.sub(filled, PAGE.read_text("utf-8")), "utf-8")
    if "burden_mnist" in studies:
        burden_pictures(studies["burden_mnist"])
    print(f"{PAGE} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
