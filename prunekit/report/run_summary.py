"""The table at the end of a run, from `report.json` and `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prunekit.foundation.number_text import (
    beside_dense,
    count,
    percent,
    seconds_text,
    si,
    size_text,
    tokens_text,
    units_text,
)
from prunekit.report.evaluations import dips_line
from prunekit.runs.directory import RunDir, events_dir, open_run

NamedValue = tuple[str, str]
REMOVABLE = ("channels", "heads")
"""Units that leave a model whole."""


def summarise(run_dir: Path) -> list[RenderableType]:
    """What a person wants to know of a run, to be printed one after the other.

    Args:
        run_dir: a run directory; of an unfinished run only its state is told.

    Raises:
        CheckpointError: no run directory, or a file of it is corrupt.
    """
    run = open_run(run_dir)
    if not (run.path / "report.json").is_file():
        return [_unfinished(run, run_dir)]
    report = run.report()
    parts: list[RenderableType] = [
        _table(str(report.get("recipe") or run.path.parent.name), _results(report)),
        _table("One image", _cost(report)),
        *_table_of_any("As measured", _measured(report, run.exported(), run_dir)),
        *_caution(report),
        _table("Training", _training(report)),
        *_dips(run),
        *(Text(f"warning: {sentence}", style="yellow") for sentence in report.get("warnings", ())),
        _table("Files", _files(run, run_dir)),
    ]
    return parts


def _table(title: str, rows: list[NamedValue]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _table_of_any(title: str, rows: list[NamedValue]) -> list[RenderableType]:
    return [_table(title, rows)] if rows else []


def _caution(report: Mapping[str, Any]) -> list[RenderableType]:
    """What arrived of the saving; of runs of before only that zeros are multiplied, if they are."""
    if report.get("saving"):
        return [Text(str(report["saving"]), style="dim")]
    macs = report.get("macs", {})
    if macs.get("theoretical") == macs.get("executed"):
        return []
    return [
        Text(
            "Masks alone save no time: stock kernels multiply the zeros. Only the executed count "
            "and the measured time are what runs here.",
            style="dim",
        )
    ]


def _dips(run: RunDir) -> list[RenderableType]:
    sentence = dips_line(run.logged()) if (run.path / "metrics.jsonl").is_file() else ""
    return [Text(sentence, style="dim")] if sentence else []


def _unfinished(run: RunDir, run_dir: Path) -> Table:
    status = run.status()
    rows = [
        ("status", f"{status.get('status')} at step {status.get('step')}"),
        ("message", str(status.get("message") or "none")),
        ("go on with", f"prunekit resume {run_dir}"),
    ]
    return _table("Not finished", rows)


def _results(report: Mapping[str, Any]) -> list[NamedValue]:
    accuracy, sparsity = report.get("accuracy", {}), report.get("sparsity", {})
    rows = [
        (f"{split} accuracy", percent(accuracy[f"{split}_top1"]))
        for split in ("test", "validation", "train")
        if accuracy.get(f"{split}_top1") is not None
    ]
    if report.get("layers"):
        rows += _sparsity(report, sparsity)
    return [*rows, *_parameters(report.get("parameters", {})), *_compact(report.get("compact"))]


def _compact(document: Mapping[str, Any] | None) -> list[NamedValue]:
    """What left the layers that lost something, and what is empty and stayed."""
    if not document:
        return []
    sizes: dict[str, tuple[int, int]] = {}
    for one in document["removed"]:
        before, after = sizes.get(one["unit"], (0, 0))
        sizes[one["unit"]] = (before + one["before"], after + one["after"])
    rows = [
        (f"{unit} left", f"{count(after)} of {count(before)}")
        for unit, (before, after) in sizes.items()
    ]
    if stayed := sum(one["count"] for one in document["stayed"]):
        reason = f"{document['stayed'][0]['layer']}: {document['stayed'][0]['reason']}"
        rows.append(("empty units that stay", f"{count(stayed)}, as of {reason}"))
    return rows


def _sparsity(report: Mapping[str, Any], sparsity: Mapping[str, Any]) -> list[NamedValue]:
    """Target and reached in the units of each strategy, then what that is in entries."""
    units = report.get("units") or {}
    rows = []
    share = percent(sparsity.get("scope"))
    if all(one["unit"] == "entries" for one in units.values()) and len(units) < 2:
        target = sparsity.get("target")
        share += " (emerges)" if target is None else f" (target {percent(target)})"
    else:
        rows += [
            (
                f"pruned by {label}",
                units_text(one["unit"], one["kept"], one["total"], one["target"], one.get("asked")),
            )
            for label, one in units.items()
        ]
        entries = sum(layer["entries"] for layer in report["layers"])
        share += f" of {count(entries)} entries"
    rows.append(("sparsity in scope", share))
    effective = sparsity.get("effective")
    if effective is not None and effective != sparsity.get("scope"):
        rows.append(("effective sparsity", f"{percent(effective)} zeros in what is multiplied"))
    return [*rows, ("sparsity of the model", percent(sparsity.get("model")))]


def _parameters(parameters: Mapping[str, Any]) -> list[NamedValue]:
    if not parameters:
        return []
    kept, total = parameters.get("nonzero"), parameters.get("total")
    stored = parameters.get("stored", total)
    text = f"{count(kept)} of {count(total)}"
    if stored == total:
        return [("parameters kept", text)]
    # units were removed for good
    if "removed" in parameters:
        text += f"; {count(parameters['removed'])} removed, {count(parameters['pruned'])} zeros"
    return [("parameters kept", text), ("parameters of the finished model", count(stored))]


def _cost(report: Mapping[str, Any]) -> list[NamedValue]:
    tokens, macs = report.get("tokens", {}), report.get("macs", {})
    rows = []
    if tokens.get("before") is not None:
        rows.append(("tokens", tokens_text(tokens["before"], tokens.get("after"))))
    dense = macs.get("dense")
    for key, name in (
        ("dense", "multiply-adds, dense"),
        ("executed", "executed (tokens compressed, zeros multiplied)"),
        ("theoretical", "theoretical (zeros skipped)"),
    ):
        if macs.get(key) is not None:
            share = f"  {percent(macs[key] / dense)}" if dense else ""
            rows.append((name, si(macs[key]) + share))
    if latency := report.get("latency"):
        rows.append(
            (
                "measured forward pass",
                f"{latency['median_ms']:.2f} ms (quartiles {latency['iqr_ms']:.2f} ms apart; "
                f"batch {latency['batch']}, {latency['device']}, {latency['dtype']}, "
                f"threads {latency['threads']})",
            )
        )
    return rows


def _measured(
    report: Mapping[str, Any], exported: Mapping[str, Any], run_dir: Path
) -> list[NamedValue]:
    """Passes beside those of the dense model, and bytes; a run of before has none of them."""
    rows = []
    latencies = {"torch": report.get("latency") or {}, "onnxruntime": exported.get("latency") or {}}
    timed = {runtime: one.get(runtime) or {} for runtime, one in latencies.items()}
    for runtime, batches in timed.items():
        for batch, one in batches.items():
            beside = {**one, "ratio": None} if _is_dense(report) else one
            rows.append((f"{runtime}, batch {batch}", beside_dense(beside)))
    if timed["torch"] and not timed["onnxruntime"]:
        rows.append(("onnxruntime", f"not timed: prunekit export {run_dir} --onnx"))
    if files := report.get("files"):
        names = {
            "plain": "plain",
            "packed": "packed",
            "zipped": "zipped",
            "dense": "of the dense model",
        }
        sizes = [f"{name} {size_text(files[k])}" for k, name in names.items() if files.get(k)]
        rows.append(("model file", ", ".join(sizes)))
    notes = [str(note) for one in latencies.values() for note in one.get("notes") or ()]
    return [*rows, *(("note", note) for note in notes)]


def _is_dense(report: Mapping[str, Any]) -> bool:
    """Whether nothing is pruned, merged or dropped: the dense model is this one."""
    macs = report.get("macs", {})
    return not report.get("layers") and macs.get("executed") == macs.get("dense")


def _training(report: Mapping[str, Any]) -> list[NamedValue]:
    train, environment = report.get("train", {}), report.get("environment", {})
    seconds, flops = train.get("wall_seconds"), train.get("flops")
    rows = [("steps", f"{count(train.get('steps'))}, {count(train.get('images'))} images")]
    if train.get("images_per_second") is not None:
        rows.append(("images/s", f"{train['images_per_second']:,.0f}"))
    if seconds is not None:
        rows.append(("time", seconds_text(seconds)))
    if flops is not None:
        rate = f" ({si(flops / seconds)}FLOP/s)" if seconds else ""
        rows.append(("computed", f"{si(flops)}FLOP{rate}"))
    if environment:
        versions = environment.get("versions", {})
        rows.append(
            (
                "on",
                f"{environment.get('device_name')}, torch {versions.get('torch')}, "
                f"threads {environment.get('threads')}, "
                f"processes {environment.get('world_size')}",
            )
        )
    return rows


def _can_lose_units(report: Mapping[str, Any]) -> bool:
    """Whether whole units are pruned, and are still there as zeros."""
    units = (report.get("units") or {}).values()
    pruned = any(one["unit"] in REMOVABLE and one["kept"] < one["total"] for one in units)
    return pruned and not report.get("compact")


def _files(run: RunDir, run_dir: Path) -> list[NamedValue]:
    names = {
        "model.safetensors": "model",
        "masks.safetensors": "masks",
        "report.json": "numbers",
        "report.png": "picture",
    }
    rows = [(what, str(run_dir / n)) for n, what in names.items() if (run.path / n).is_file()]
    if _can_lose_units(run.report()):
        rows.append(("smaller", f"prunekit compact {run_dir}"))
    events = events_dir(run.path)
    if events.is_dir():
        shown = run_dir.parent / events.relative_to(run.path.parent)
        rows.append(("curves", f"tensorboard --logdir {shown}"))
    return rows
