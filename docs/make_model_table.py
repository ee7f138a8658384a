"""Write the table of stock models in `docs/models.md`: which train with which structures.

    python docs/make_model_table.py          the table, from docs/models_tried.json
    python docs/make_model_table.py --run    try all models again first (hours); --run NAME ..: these

One model of each module of timm and of each family of torchvision's classifiers: the smallest, built
on the meta device. Each takes two steps on noise with `magnitude`, with `filter_magnitude` without
the classifier, and with `magnitude` over heads, in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "models.md"
TRIED = Path(__file__).parent / "models_tried.json"
BEGIN, END = "<!-- tried models -->", "<!-- end of tried models -->"
SIZES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)
ONCE = {"schedule": "constant", "cadence": {"every": "once"}}
LIMIT_S = 1500
LARGEST = 250_000_000
"""Parameters of the largest model that is trained."""


# ---- which models


def families() -> dict[str, list[str]]:
    """Family -> its models, of both libraries: `timm/resnet` -> `timm:resnet18`, .."""
    import timm
    from torchvision import models

    found = {
        f"timm/{m}": [f"timm:{n}" for n in timm.list_models(module=m)] for m in timm.list_modules()
    }
    for name in models.list_models(module=models):
        module = models.get_model_builder(name).__module__.rpartition(".")[2]
        found.setdefault(f"torchvision/{module}", []).append(f"torchvision:{name}")
    return found


def on_meta(name: str) -> Any:
    """A model without values; with them, if it computes with some while it is built."""
    import torch

    try:
        with torch.device("meta"):
            return plain(name)
    except NotImplementedError:
        return plain(name)


def plain(name: str) -> Any:
    """A model of ten classes, as its library makes it."""
    source, _, variant = name.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "timm":
            import timm

            return timm.create_model(variant, num_classes=10)
        from torchvision import models

        return models.get_model(variant, weights=None, num_classes=10)


def smallest(names: list[str]) -> tuple[str, int]:
    """The model of fewest parameters, and how many it has."""
    counts = {name: sum(p.numel() for p in on_meta(name).parameters()) for name in names}
    name = min(counts, key=lambda one: counts[one])
    return name, counts[name]


# ---- trying one


def build(name: str) -> tuple[Any, tuple[int, int, int]]:
    """A model with ten classes, for the smallest images that it takes, as a recipe builds it."""
    from prunekit.errors import RecipeError
    from prunekit.registry import MODELS
    from prunekit.registry.configs import DataSpec

    config, reason = MODELS.config_class(name)(name=name), ""
    for size in SIZES:
        try:
            spec = DataSpec(channels=3, height=size, width=size, classes=10)
            return config.build(spec), (3, size, size)
        except RecipeError as error:  # another size helps with all but the lack of a classifier
            reason = reason if "use another model" in reason else str(error)
    raise RecipeError(reason)


def trained(model: Any, shape: tuple[int, ...], chosen: Any) -> Any:
    """The model after two steps on noise.

    Raises:
        PrunekitError: it is refused.
    """
    import torch

    from prunekit import Pruner

    torch.manual_seed(0)
    pruner = Pruner(model, [chosen], total_steps=2, input_shape=shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pruner.attach(optimizer)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            model(torch.randn(2, *shape)), torch.tensor([0, 1])
        ).backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    return pruner.finish()


def magnitude(model: Any, shape: tuple[int, ...]) -> str:
    """Single weights."""
    from prunekit import strategy

    trained(model, shape, strategy("magnitude", sparsity=0.5, **ONCE))
    return "trains"


def filters(model: Any, shape: tuple[int, ...]) -> str:
    """Channels, without the classifier and without what is refused."""
    from prunekit import RecipeError, strategy
    from prunekit.foundation.parameters import Scope

    names = Scope().select(model)
    out = [n for n in names if len(model.get_parameter(n)) == 10] or list(names[-1:])
    refused: list[str] = []
    for _ in range(3):
        try:
            scope = {"exclude": [*out, *refused]}
            model = trained(model, shape, strategy("filter_magnitude", sparsity=0.5, scope=scope))
        except RecipeError as error:
            more = re.search(r"scope\.exclude: \[(.*)\]", str(error))
            if more is None:
                return f"refused: {one_line(error)}"
            reason = re.search(r"would not be 0: it (.*): leave out", str(error))
            refused += more[1].split(", ")
            why = reason[1] if reason else one_line(error)
        else:
            if wrong := not_zero(model, shape):
                return f"WRONG: {wrong}"
            if not refused:
                return "trains"
            return f"without {len(refused)} of {len(names)} layers, as `{refused[0]}` {why}"
    return f"refused: {why}"


def not_zero(model: Any, shape: tuple[int, ...]) -> str:
    """A norm that reads a layer's output as it is, and does not leave its pruned channels at 0."""
    import torch
    from torch import nn

    made: dict[int, tuple[str, Any]] = {}
    wrong: list[str] = []

    def layer(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, out: Any) -> None:
            made[id(out)] = (name, out)

        return hook

    def norm(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, out: Any) -> None:
            source = made.get(id(given[0]))
            if source is None or source[1] is not given[0] or out.shape != given[0].shape:
                return
            dead = (model.get_submodule(source[0]).weight == 0).flatten(1).all(1)
            axis = 1 if out.shape[1] == len(dead) else out.dim() - 1
            if dead.any() and out.movedim(axis, 0)[dead].abs().max() > 0:
                wrong.append(f"{source[0]} -> {name}")

        return hook

    for name, module in model.named_modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.register_forward_hook(layer(name))
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm | nn.GroupNorm):
            module.register_forward_hook(norm(name))
    with torch.no_grad():
        model.eval()(torch.randn(1, *shape))
    return ", ".join(wrong[:2])


def heads(model: Any, shape: tuple[int, ...]) -> str:
    """Attention heads, where there are any."""
    from prunekit import strategy
    from prunekit.pruning.flow import heads as heads_of, note_input

    note_input(model, shape)
    known = heads_of(model, [])
    if not known.attentions:
        if known.refused:
            name, reason = next(iter(known.refused.items()))
            return f"refused: `{name}`: {reason}"
        return f"refused: {known.untraced}" if known.untraced else "no attention"
    names = [next(iter(one.rows)) for one in known.attentions]
    scope = {"include": names}
    chosen = strategy("magnitude", sparsity=0.5, structure="head", scope=scope, **ONCE)
    trained(model, shape, chosen)
    several = sum(one.heads for one in known.attentions)
    refused = f", {len(known.refused)} weights refused" if known.refused else ""
    return f"trains: {several} in {len(names)} attentions{refused}"


def one_line(error: BaseException) -> str:
    """A reason without line breaks."""
    return " ".join(str(error).split())


def tried(name: str) -> dict[str, str]:
    """What comes of a model: `trains ..`, `refused: ..` or `FAILS: ..`, of each structure."""
    import torch

    from prunekit.errors import PrunekitError

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    for key, attempt in (("magnitude", magnitude), ("filters", filters), ("heads", heads)):
        try:
            torch.manual_seed(0)
            model, shape = build(name)
            found["input"] = "x".join(map(str, shape))
            found[key] = attempt(model, shape)
        except PrunekitError as error:
            found[key] = f"refused: {one_line(error)}"
        except Exception as error:  # whatever comes of a stock model is what is to be told
            found[key] = f"FAILS: {type(error).__name__}: {one_line(error)[:200]}"
    return found


def _send(name: str, pipe: Any) -> None:
    pipe.send(tried(name))


def tried_apart(name: str, limit_s: float = LIMIT_S) -> dict[str, str]:
    """`tried` in a process of its own, ended after a time."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_send, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit_s) else {"magnitude": f"not within {limit_s:.0f} s"}
    except EOFError:
        return {"magnitude": "FAILS: the process ended"}
    finally:
        process.terminate()
        process.join()


# ---- the table


def run(only: list[str]) -> None:
    """Try the models, the smallest first, and keep what comes of each at once."""
    import timm
    import torch
    import torchvision

    known = json.loads(TRIED.read_text("utf-8")) if TRIED.exists() else {"models": {}}
    rows = known["models"]
    for family, names in families().items():
        if family not in rows:
            name, parameters = smallest(names)
            rows[family] = {"model": name, "parameters": parameters}
    versions = {m.__name__: m.__version__.partition("+")[0] for m in (torch, torchvision, timm)}
    known |= {"versions": versions, "date": time.strftime("%Y-%m-%d")}
    for family, row in sorted(rows.items(), key=lambda item: item[1]["parameters"]):
        if (only and row["model"] not in only) or row["parameters"] > LARGEST:
            continue
        rows[family] = row | tried_apart(row["model"])
        print(family, rows[family], flush=True)
        TRIED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


def table() -> Iterator[str]:
    """The lines of the table."""
    known = json.loads(TRIED.read_text("utf-8"))
    versions = ", ".join(f"{name} {number}" for name, number in sorted(known["versions"].items()))
    yield f"Tried on {known['date']} with {versions}, on a CPU, by `python docs/make_model_table.py --run`:\n"
    yield "| family | smallest model | input | `magnitude` | `filter_magnitude` | heads |"
    yield "|---|---|---|---|---|---|"
    for family, row in sorted(known["models"].items()):
        cells = [row.get(key, "built only") for key in ("input", "magnitude", "filters", "heads")]
        yield f"| {family} | `{row['model']}` | {' | '.join(cells)} |"


def page() -> str:
    """The page, with the table anew."""
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n" + "\n".join(table()) + f"\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:])
    PAGE.write_text(page(), "utf-8")
