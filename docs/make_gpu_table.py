"""Write what a GPU gave into `docs/results.md`.

python docs/make_gpu_table.py gpu        from the files of `gpu_check.py --out gpu`, which are kept as gpu_measured.json
python docs/make_gpu_table.py            from docs/gpu_measured.json; without it, the empty table with its command
python docs/make_gpu_table.py DIR --show only print it, also of a rehearsal
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE, MEASURED = DOCS / "results.md", DOCS / "gpu_measured.json"
BEGIN, END = "<!-- gpu -->\n", "<!-- end of gpu -->\n"
COMMANDS = """\
```bash
python docs/gpu_check.py --out gpu --data CIFAR    # CIFAR: a folder of images, train/ and test/; without it, made ones
python docs/make_gpu_table.py gpu
```
"""
NOT_RUN = f"""\
**CUDA was rehearsed, and not run**: no GPU was at hand. The [rehearsal](devices.md) proves that nothing stops there and that
the host does not wait; it proves nothing about speed. This fills the table, on one GPU within 12 minutes, and goes on where
it was stopped:

{COMMANDS}"""
Found = Mapping[str, Any]


def section(found: Found | None) -> str:
    """The text between the markers."""
    head = NOT_RUN if found is None else f"{_conditions(found)}\n\n{COMMANDS}"
    lines = ["| what | measured | goal |", "|---|---|---|"]
    lines += [f"| {what} | {_told(of, found)} | {goal} |" for what, of, goal in ROWS]
    table = "\n".join(lines) + "\n"
    return f"{head}\n{table}{_ends(found) if found else ''}"


def _told(of: Callable[[Found], str], found: Found | None) -> str:
    if found is None:
        return ""
    try:
        return of(found)
    except (KeyError, IndexError, TypeError):
        return "not measured"


def _conditions(found: Found) -> str:
    machine = found["doctor"]["machine"]
    (gpu, *_) = machine["accelerators"] or [{"name": machine["cpu"]["name"]}]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    data = (
        "images of noise as large as CIFAR-10's"
        if found.get("train", {}).get("data") == "made"
        else "CIFAR-10"
    )
    text = f"One {gpu['name']}, {versions}, {found['doctor']['date']}; {data}; prunekit's own runs, one a seed:"
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _ends(found: Found) -> str:
    """A line for each stage that did not come to its end."""
    lines = [
        f"- `{name}`: {one['ended']}" for name, one in found.items() if one.get("ended") != "done"
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _waits(found: Found) -> str:
    one = found["waits"]
    steps = sum(len(case["plain"]) for case in one["found"].values())
    bad = sum(len(case["over"]) for case in one["found"].values())
    return f"{bad} of {steps}, in {one['ran']} of {one['cases']} recipes, of which {len(one['bad'])} failed or waited"


def _train(key: str, form: str) -> Callable[[Found], str]:
    return lambda found: form.format(found["train"][key])


def _peak(found: Found) -> str:
    one = found["train"]
    return (
        f"{one['own_tflops']:.1f}: {one['own_share_of_peak']:.1%} of {one['peak_tflops']:.0f}; the loop by hand "
        f"{one['hand_share_of_peak']:.1%}, without making batches {one['fixed_tflops'] / one['peak_tflops']:.1%}"
    )


def _run(found: Found) -> str:
    one, run = found["train"], found["train"]["run"]
    return f"{one['epochs']} of 40 epochs, {run['train']['images_per_second']:,.0f} images/s, {run['test_top1']:.2%}"


def _update(found: Found) -> str:
    one = found["update"]
    return (
        f"{one['median_ms']:.1f} ms for {one['weights']:,} weights, {one['waits'][-1]} waits; "
        f"its logging {one['logging_ms']:.1f} ms"
    )


def _benches(found: Found) -> str:
    one = found["benches"]
    judged = [name for name in one["subjects"] if f"{name}_judged" in one]
    told = [f"{name}: {one[f'{name}_met']} of {one[f'{name}_judged']}" for name in judged]
    return f"{'; '.join(told)}; on {one['on']}"


def _resumed(found: Found) -> str:
    one = {name: it for name, it in found["resume"].items() if name.startswith("resumed")}
    return "; ".join(
        f"{name.removeprefix('resumed ')} {it['mask_entries_apart']:,} of {it['mask_entries']:,}"
        for name, it in one.items()
    )


def _cells(ratio: float) -> Callable[[Found], str]:
    def told(found: Found) -> str:
        one = found["paper"]
        tops = [f"{cell['test_top1']:.2%}" for cell in one["cells"] if cell["ratio"] == ratio]
        if not tops:
            raise KeyError(ratio)
        return f"{', '.join(tops)} after {one['epochs']} of {one['of']} epochs"

    return told


ROWS: tuple[tuple[str, Callable[[Found], str], str], ...] = (
    ("steps without an update that made the host wait", _waits, "0 (fp16, or a probe: 1 each)"),
    (
        "images/s of `vit_cifar_tome`, compiled, a step alone",
        _train("own_images_per_second", "{:,.0f}"),
        "",
    ),
    (
        "its step over that of a loop written by hand",
        _train("own_over_hand", "{:.3f} x"),
        "<= 1.02 x",
    ),
    ("TFLOP/s, as a share of a plain bf16 product here", _peak, ""),
    ("the recipe, for as many epochs as three minutes give", _run, ""),
    ("`prunekit bench` with `--device`, goals met", _benches, "goals are for the CPU"),
    ("update of the masks of ViT-B", _update, "<= 10 ms"),
    ("resumed at half: mask entries that differ", _resumed, ""),
    ("`paper_table1`, 384/3, lr 5e-3, sparsity 0.85: ratio 0", _cells(0.0), ""),
    ("the same: ratio 0.4", _cells(0.4), ""),
)


def main() -> int:
    """Write the page, or show its part."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    found = read(given.folder)
    if given.show:
        print(section(found), end="")
        return 0
    if found is not None and any(one.get("rehearsed") for one in found.values()):
        print("these are numbers of a rehearsal at tiny sizes: --show prints them", file=sys.stderr)
        return 1
    if given.folder is not None:
        MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text("utf-8"), section(found)), encoding="utf-8")
    return 0


def read(folder: Path | None) -> Found | None:
    """The stages of a folder, else those that were kept; None = nothing was measured."""
    path = MEASURED if folder is None else folder / "all.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def written(page: str, text: str) -> str:
    """The page with its part."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    made, count = re.subn(pattern, lambda _: BEGIN + text + END, page, flags=re.DOTALL)
    assert count == 1, "the markers are gone"
    return made


if __name__ == "__main__":
    sys.exit(main())
