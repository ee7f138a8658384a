"""Write the table of goals in `docs/performance.md`.

    python docs/make_speed_table.py          the table, from docs/speed_measured.json
    python docs/make_speed_table.py --run    measure first: half an hour, on an idle machine
    python docs/make_speed_table.py --run tokens,startup    these anew, the others as they were

`--run` is `prunekit bench SUBJECT --json` of each subject; goals of deployment are in `docs/deploy.md`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "performance.md"
MEASURED = Path(__file__).parent / "speed_measured.json"
BEGIN, END = "<!-- goals -->", "<!-- end of goals -->"
AGAIN = "baseline again"
SUBJECTS = ("masks", "tokens", "data", "train", "startup", "probes")


def table(documents: dict[str, dict[str, Any]]) -> str:
    """All rows that have a goal, under lines that say what they depend on."""
    if not documents:
        return "Not measured yet: `python docs/make_speed_table.py --run` fills this in."
    head = ["`prunekit bench`", "what", "baseline", "null", "ratio", "goal", ""]
    lines = [head, ["---"] * len(head)]
    lines += [
        row for subject in SUBJECTS if subject in documents for row in rows(documents[subject])
    ]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([conditions(documents), text])


def rows(document: dict[str, Any]) -> list[list[str]]:
    """A row for each goal of a subject."""
    found = []
    for section in document["sections"]:
        null = "exact" if section["null"] is None else f"± {section['null']:.3f}"
        for row in section["rows"]:
            if row["goal"]:
                where = f"`{document['subject']}`, {section['name']}"
                goal = row["goal"].removesuffix(" x")
                cells = [where, row["what"], section["baseline"], null, ratio(row), goal]
                found.append([cell.replace("|", r"\|") for cell in (*cells, row["verdict"])])
    return found


def ratio(row: dict[str, Any]) -> str:
    """`0.52 ± 0.01`, or the bytes."""
    if row["interval"] is None:
        return f"{row['ours']:.2f} {row['unit']}"
    return f"{row['ratio']:.3f} ± {max(abs(end - row['ratio']) for end in row['interval']):.3f}"


def conditions(documents: dict[str, dict[str, Any]]) -> str:
    """Machine, versions and date, each once, with the subjects that they are of."""
    told: dict[str, list[str]] = {}
    for subject, document in documents.items():
        found = document["environment"]
        known = ("torch", "numpy", "torchvision", "onnxruntime")
        versions = ", ".join(f"{n} {v}" for n, v in document["versions"].items() if n in known)
        text = (
            f"{document['date']}: {found['device_name']}, {document['cpus']} CPUs, one thread, load "
            f"{document['load']:.0f}; {found['os']}; Python {found['python']}, {versions}."
        )
        told.setdefault(text, []).append(f"`{subject}`")
    texts = [f"{', '.join(subjects)}: {text}" for text, subjects in told.items()]
    wrapped = (textwrap.fill(t, 120, break_long_words=False, break_on_hyphens=False) for t in texts)
    return "\n\n".join(wrapped)


def page(text: str, documents: dict[str, dict[str, Any]]) -> str:
    """The page with the table between its marks."""
    made = f"{BEGIN}\n\n{table(documents)}\n\n{END}"
    return re.sub(f"{BEGIN}.*?{END}", lambda _: made, text, flags=re.S)


def measure(subject: str) -> dict[str, Any]:
    """Run the benchmark of a subject, which takes minutes."""
    command = [sys.executable, "-m", "prunekit", "bench", subject, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure where asked, and write the page."""
    documents = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    if "--run" in sys.argv[1:]:
        some = sys.argv[2].split(",") if len(sys.argv) > 2 else SUBJECTS
        for subject in some:
            documents[subject] = measure(subject)
            MEASURED.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), documents), encoding="utf-8")


if __name__ == "__main__":
    main()
