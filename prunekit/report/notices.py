"""What a reader must know before believing a comparison. Torch-free."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from prunekit.recipe.identity import NOT_HASHED_DATA
from prunekit.report.comparison import is_dense, is_random, repeating
from prunekit.report.read import SEVERAL, common
from prunekit.report.study import Study
from prunekit.sweep.published import Published

OF_BATCHES = ("batch_size", "micro_batch", "eval_batch", "augment", "eval_resize", "mean", "std")
NO_CHOICE = {*NOT_HASHED_DATA, *OF_BATCHES}
"""Keys of `data` that do not say which samples there are."""


def notices(study: Study, missing: int | None = None) -> list[str]:
    """Sentences on what is missing, the gravest first.

    Args:
        study: the runs.
        missing: lines of the list at the end; None = those of the study.
    """
    n = len(study.missing) if missing is None else missing
    found = [*_baselines(study)]
    counts = {len(cell.runs) for cell in study.cells if cell.runs}
    if counts == {1}:
        found.append("One seed: a difference between single runs may be chance alone.")
    for key, what in (("data.name", "data sets"), ("model.name", "models")):
        if len({flat.get(key) for flat in study.recipes.values()}) > 1:
            found.append(
                f"The arms are of several {what}: what sets them apart is not pruning alone."
            )
    if _several_data(study):
        found.append(
            "Runs with the same data settings have read different data: what sets them apart is "
            "not pruning alone."
        )
    if n:
        things = "thing is" if n == 1 else "things are"
        found.append(f"{n} {things} missing or left out: see the list below.")
    if study.repeated:
        found.append(
            f"{study.repeated} more runs repeat the recipe and the seed of one that is here: the "
            "newest that finished is taken."
        )
    if arms := repeating(study, study.arms):
        found.append(
            f"The runs of {', '.join(arms)} repeat those of another arm but for probes or logging: "
            "they are not compared, and drawn only where they alone logged something."
        )
    if common(study.runs, "device_name") == SEVERAL:
        found.append("The runs are of several devices: times do not compare.")
    if len({run.number("latency", "threads") for run in study.runs} - {None}) > 1:
        found.append("The runs were timed with several numbers of threads: times do not compare.")
    return found


def published_notices(study: Study, published: Published | None) -> list[str]:
    """What to keep in mind where published values stand beside the measured ones."""
    if published is None or not any(published.at(c.arm, c.labels) for c in study.cells):
        return []
    sources = f" ({'; '.join(published.sources)})" if published.sources else ""
    return [
        f"Published values are those of {published.name}{sources}: data, settings or splits may "
        "differ from the runs here, so compare the order of arms before single numbers."
    ]


def _baselines(study: Study) -> list[str]:
    if not study.runs:
        return ["No run has finished: there is nothing to compare yet."]
    if all(is_dense(run) for run in study.runs):
        return []
    found = []
    if not any(is_dense(run) for run in study.runs):
        found.append(
            "No dense baseline: what pruning costs is not known. Add a run with `strategies: []`."
        )
    if not any(is_random(run) for run in study.runs):
        found.append(
            "No random baseline: whether the choice of weights matters is not known. Add a run "
            "with `random_subnetwork` at the same sparsity."
        )
    return found


def _several_data(study: Study) -> bool:
    seen: dict[str, set[str]] = {}
    for run in study.runs:
        data = run.recipe.get("data")
        if run.data and isinstance(data, Mapping):
            chosen = {key: str(data[key]) for key in sorted(data.keys() - NO_CHOICE)}
            seen.setdefault(str(chosen), set()).add(run.data)
    return any(len(digests) > 1 for digests in seen.values())


NUMBER = re.compile(r"\b\d+(?:[.,]\d+)*\b")


def warnings(study: Study) -> list[tuple[str, int]]:
    """Each warning of the runs, and how many of them gave it; the most frequent first.

    Sentences that differ in numbers alone are one, with the lowest and the highest in the place of
    each; of a number in the name of a layer, with N.
    """
    counts: Counter[str] = Counter()
    alike: dict[str, list[str]] = {}
    for run in study.runs:
        forms = {text: NUMBER.sub("\0", text) for text in run.warnings}
        counts.update(set(forms.values()))
        for text, form in forms.items():
            alike.setdefault(form, []).append(text)
    return [(_one_of(alike[form]), count) for form, count in counts.most_common()]


def _one_of(texts: list[str]) -> str:
    """The sentence for all of these, which differ in numbers alone."""
    places = zip(*(NUMBER.finditer(text) for text in texts), strict=True)
    found, end = "", 0
    for place in places:
        first = place[0]
        found += texts[0][end : first.start()] + _numbers([match[0] for match in place], first)
        end = first.end()
    return found + texts[0][end:]


def _numbers(told: list[str], first: re.Match[str]) -> str:
    if len(set(told)) == 1:
        return told[0]
    if first.string[: first.start()].endswith("."):  # blocks.2.mlp
        return "N"
    return f"{min(told, key=_size)} to {max(told, key=_size)}"


def _size(number: str) -> tuple[int, str]:
    whole, _, rest = number.replace(",", "").partition(".")
    return int(whole), rest
