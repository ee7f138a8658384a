"""The model card beside an export: `README.md`, with the metadata block that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunekit.export.parity import BATCHES
from prunekit.export.relatives import relatives
from prunekit.export.results import Export
from prunekit.export.snippets import (
    ONNX_FILE,
    PACKED_FILE,
    PLAIN_FILE,
    PT2_FILE,
    snippet,
    state_dict_snippet,
)
from prunekit.export.subject import Subject, resizing, unit_statistics
from prunekit.foundation.number_text import beside_dense, count, percent, si, size_text
from prunekit.foundation.plain import flow
from prunekit.foundation.text import escaped, printable
from prunekit.recipe.yaml_text import yaml_text

CARD_FILE = "README.md"
WHAT = {
    ONNX_FILE: "ONNX, for onnxruntime and others",
    PT2_FILE: "a program of `torch.export`, for torch alone",
    PACKED_FILE: "weights with their zeros left out, for prunekit",
    PLAIN_FILE: "plain weights with their zeros in place",
}
HEADINGS = {
    ONNX_FILE: "onnxruntime",
    PT2_FILE: "Plain torch",
    PACKED_FILE: "prunekit",
    PLAIN_FILE: "prunekit",
}
SHOWN_CLASSES = 20


def model_card(subject: Subject, found: Export, *, normalize: bool) -> str:
    """The text of the card.

    Args:
        subject: what was exported.
        found: what lies beside the card, how far each program is from the model, what it takes.
        normalize: whether programs normalise their input themselves.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prunekit.export", "."),
        autoescape=False,  # it is no HTML; what is not ours goes through `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": _plain,
        "count": count,
        "percent": percent,
        "si": si,
        "beside_dense": beside_dense,
        "size": size_text,
    }
    beside = relatives(subject.run.path)
    return environment.get_template("card.md.j2").render(
        metadata=yaml_text(hub_metadata(subject, found.files)),
        subject=subject,
        report=subject.report,
        components={
            kind: [_written(one) for one in getattr(subject.recipe, kind)]
            for kind in ("strategies", "compressors")
        },
        classes=_classes(subject.preprocessing.classes),
        resize=resizing(subject.preprocessing),
        statistics=unit_statistics(subject.preprocessing),
        rows=[_row("this model", subject.report), *(_row(one.arm, one.report) for one in beside)],
        files={name: (WHAT[name], f"{size / 1e6:.2f} MB") for name, size in found.files.items()},
        checks=found.checks,
        latency=found.latency,
        batches=", ".join(map(str, BATCHES)),
        zeros=found.zeros,
        normalize=normalize,
        snippets={HEADINGS[name]: snippet(name, subject) for name in found.files},
        state_dict=state_dict_snippet(subject) if PLAIN_FILE in found.files else None,
        own=":" not in subject.recipe.model.name,
        compact=subject.compact if subject.compact and subject.compact["removed"] else None,
    )


def hub_metadata(subject: Subject, files: Mapping[str, int]) -> dict[str, Any]:
    """The front matter: what hubs search, with the accuracy as a result of the model."""
    recipe, report = subject.recipe, subject.report
    tags = ["prunekit", "pruning", "sparsity"] if subject.masked else ["prunekit"]
    tags += ["token-compression"] if recipe.compressors else []
    tags += ["onnx"] if ONNX_FILE in files else []
    accuracy = report.get("accuracy", {}).get("test_top1")
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": recipe.data.name, "type": recipe.data.name, "split": "test"},
        "metrics": [{"type": "accuracy", "value": accuracy, "name": "test top-1"}],
    }
    index = [{"name": recipe.name, "results": [result]}] if accuracy is not None else []
    return {
        "library_name": "prunekit",
        "pipeline_tag": "image-classification",
        "tags": tags,
        **({"model-index": index} if index else {}),
    }


def _plain(value: object) -> str:
    return escaped(printable(" ".join(str(value).split())))


def _written(config: Any) -> str:
    """A component with the settings that are not its defaults, as a recipe has it."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return " ".join(printable(flow({"name": config.name, **values})).replace("`", "'").split())


def _classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(_plain(name) for name in classes[:SHOWN_CLASSES])
    more = len(classes) - SHOWN_CLASSES
    return f"{shown} and {more} more" if more > 0 else shown


def _row(name: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    macs = report.get("macs", {}).get("executed")
    return (
        _plain(name),
        percent(report.get("accuracy", {}).get("test_top1")),
        percent(report.get("sparsity", {}).get("model")),
        "?" if macs is None else si(macs),
    )
