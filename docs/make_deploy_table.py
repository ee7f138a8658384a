"""Write the measured tables of `docs/deploy.md`.

    python docs/make_deploy_table.py          the tables, from docs/deploy_measured.json
    python docs/make_deploy_table.py --run    measure all of it again first (about ten minutes, idle)

`--run` is `prunekit bench deploy --json`, one thread; other work beside it makes the nulls wide.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "deploy.md"
MEASURED = Path(__file__).parent / "deploy_measured.json"
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
AGAIN = "baseline again"
HEADINGS = {
    "zeros, vit": "Zeros in place",
    "zeros, resnet18": "",
    "heads": "Heads and hidden units removed",
    "channels": "Channels removed",
    "tokens": "Tokens merged",
    "quantised": "8 bits after pruning",
    "sizes": "Weight files",
    "runtimes": "onnxruntime beside torch",
    "exporting": "Exporting",
}


def tables(document: dict[str, Any]) -> str:
    """All tables, under a line that says what they depend on."""
    parts = [conditions(document)]
    for part, sections in by_part(document["sections"]).items():
        if heading := HEADINGS.get(part, part):
            parts.append(f"### {heading}")
        if part == "runtimes":
            parts.append(runtime_table(sections))
        elif len(sections) == 1:
            parts.append(single_table(sections[0]))
        else:
            parts.append(joint_table(sections))
        if notes := dict.fromkeys(note for section in sections for note in section["notes"]):
            parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def conditions(document: dict[str, Any]) -> str:
    """Command, machine, versions, date."""
    found = document["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    text = (
        f"`prunekit bench deploy`, {document['date']}: {found['device_name']}, {document['cpus']} CPUs, "
        f"one thread, load {document['load']:.1f}; {found['os']}; Python {found['python']}, {versions}."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def by_part(sections: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """`heads: torch, batch 1` and `heads: onnxruntime, batch 1` belong to `heads`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for section in sections:
        part = section["name"].partition(":")[0]
        found.setdefault("runtimes" if part.startswith("runtimes") else part, []).append(section)
    return {part: found[part] for part in HEADINGS if part in found}


def joint_table(sections: list[dict[str, Any]]) -> str:
    """A row a variant, a column a runtime and batch: ratios to the baseline, in the same column."""
    titles = dict.fromkeys(s["title"] for s in sections)
    names = [s["name"].partition(": ")[2] for s in sections]
    counted = any(row["macs"] is not None for s in sections for row in s["rows"])
    head = ["", *(["multiply-adds"] if counted else []), *names]
    first = sections[0]["rows"]
    lines = [f"{title[0].upper()}{title[1:]}." for title in titles]
    base = [f"{s['rows'][0]['baseline']:.3g} ms" for s in sections]
    rows = [[sections[0]["baseline"].split(" in ")[0], *(["1"] if counted else []), *base]]
    for i, row in enumerate(first):
        macs = [] if not counted else ["" if row["macs"] is None else f"{row['macs']:.3f}"]
        what = "the same once more (the null)" if row["what"] == AGAIN else row["what"]
        rows.append([what, *macs, *(cell(s["rows"][i]) for s in sections)])
    return "\n\n".join([" ".join(lines), markdown(head, rows)])


def runtime_table(sections: list[dict[str, Any]]) -> str:
    """A row a model and batch."""
    rows = []
    for section in sections:
        null, row = section["rows"]
        what = section["name"].removeprefix("runtimes, ").replace(": batch", ", batch")
        rows.append([what, f"{row['baseline']:.3g} ms", cell(null), cell(row)])
    return markdown(["", "torch eager", "torch once more (the null)", "onnxruntime"], rows)


def single_table(section: dict[str, Any]) -> str:
    """A row each, with its goal."""
    unit = section["rows"][0]["unit"]
    rows = [
        [row["what"], f"{row['ours']:.3g} {unit}", cell(row), verdict(row)]
        for row in section["rows"]
    ]
    title = f"{section['title'][0].upper()}{section['title'][1:]}; over: {section['baseline']}."
    return f"{title}\n\n{markdown(['', 'measured', 'ratio', 'goal'], rows)}"


def cell(row: dict[str, Any]) -> str:
    """`0.52 ± 0.01, met (<= 0.65)`."""
    text = f"{row['ratio']:.3f}"
    if row["interval"]:
        text += f" ± {max(abs(end - row['ratio']) for end in row['interval']):.3f}"
    if row["goal"] and row["interval"]:
        text += f"; {verdict(row)}"
    return text


def verdict(row: dict[str, Any]) -> str:
    """The goal and whether it is met."""
    return f"{row['goal'].removesuffix(' x')}: {row['verdict']}" if row["goal"] else ""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(text: str, document: dict[str, Any]) -> str:
    """The page with the tables between its marks."""
    made = f"{BEGIN}\n\n{tables(document)}\n{END}"
    return re.sub(f"{BEGIN}.*?{END}", lambda _: made, text, flags=re.S)


def measure() -> dict[str, Any]:
    """Run the benchmark, which takes minutes."""
    command = [sys.executable, "-m", "prunekit", "bench", "deploy", "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure where asked, and write the page."""
    if "--run" in sys.argv[1:]:
        MEASURED.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    document = json.loads(MEASURED.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), document), encoding="utf-8")


if __name__ == "__main__":
    main()
