"""A sensitivity on the disk: numbers, picture, and the distribution that a recipe can take."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunekit.foundation.files import write_json
from prunekit.foundation.number_text import percent
from prunekit.foundation.whole_folder import all_or_nothing
from prunekit.report.figures.sensitivity import sensitivity_picture
from prunekit.report.figures.style import save

PATTERNS = "per_pattern.yaml"


def write_sensitivity(
    document: Mapping[str, Any], strategy: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Write `sensitivity.json`, its picture as PNG and SVG, and `per_pattern.yaml`: all or none.

    Args:
        document: what `Sensitivity.document` gives.
        strategy: what `Sensitivity.per_pattern` gives.
        folder: is made; files of the same names are replaced.

    Raises:
        UsageError: `folder` is a file.
        WriteError: it cannot be written.
    """
    with all_or_nothing(folder) as temporary:
        write_json(temporary / "sensitivity.json", {"schema_version": 1, **document})
        names = [
            path.name for path in save(sensitivity_picture(document), temporary, "sensitivity")
        ]
        (temporary / PATTERNS).write_text(patterns_text(document, strategy), encoding="utf-8")
    return [folder / name for name in ("sensitivity.json", *names, PATTERNS)]


def patterns_text(document: Mapping[str, Any], strategy: Mapping[str, Any]) -> str:
    """The lines of a recipe, with how they were found above them."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style, yaml.width = False, 4096
    yaml.dump({"strategies": [dict(strategy)]}, text)
    return (
        f"# Each layer of {document['source']} at the highest sparsity that was tried up to which\n"
        f"# pruning it alone, untrained, costs at most {percent(document['tolerance'])} of "
        f"{percent(document['top1'])}\n"
        f"# ({document['samples']} {document['split']} samples). Together they cost more.\n"
        + text.getvalue()
    )
