"""Keys and defaults that change from one format of recipes to the next: who keeps what."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field, create_model

from prunekit import (
    PruningStrategy,
    ScoredStrategy,
    StrategyConfig,
    Update,
    open_run,
    run_recipe,
)
from prunekit.errors import CheckpointError
from prunekit.foundation import values
from prunekit.foundation.values import RECIPE_FORMAT, Frozen, NewKey, OldDefault, earlier_defaults
from prunekit.recipe.identity import as_before, cell_key, recipe_hash
from prunekit.recipe.load import document_from_text, recipe_from, recipe_from_document
from prunekit.recipe.schema import Recipe
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry import REGISTRIES, STRATEGIES
from prunekit.report.read import find_runs, keys_as_before
from prunekit.report.settings import fingerprint, settings_of
from prunekit.report.study import study_of
from prunekit.sweep import directory, plan, session
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.directory import CellState, resolved_path, write_state
from prunekit.sweep.plan import make_plan
from prunekit.sweep.prepare import prepared
from prunekit.sweep.session import Session

EARLIER, NOW = 1001, None
"""Formats far above those that there are, so that keys of real recipes do not come in between."""


class Inner(Frozen):
    width: int = 3
    depth: Annotated[int, NewKey(1003, before=1)] = 1


class Plain(PruningStrategy):
    """As its first version had it."""

    class Config(StrategyConfig):
        share: float = 0.5

    def due(self, clock):
        return clock.active_step == 0

    def update(self, ctx):
        return Update({name: weight.abs() > 0 for name, weight in ctx.weights.items()})


class Grown(Plain):
    """A later version: another default, two new keys, one of them with keys of its own."""

    class Config(StrategyConfig):
        share: Annotated[float, OldDefault(1002, 0.5)] = 0.25
        soft: Annotated[bool, NewKey(1002, before=False)] = True
        inner: Annotated[Inner | None, NewKey(1002, before=None)] = None
        parts: tuple[Inner, ...] = ()


TREE: dict[str, Any] = {
    "name": "formats",
    "data": {"name": "digits", "batch_size": 128},
    "model": {"name": "mlp", "hidden": [8]},
    "strategies": [{"name": "mine"}],
    "optimizer": {"name": "sgd", "lr": 0.1},
    "phases": [{"name": "train", "length": "3st"}],
}


@pytest.fixture(autouse=True)
def _format_1002(monkeypatch):
    """This version writes recipes of format 1002."""
    for module in (values, directory, plan, session):
        monkeypatch.setattr(module, "RECIPE_FORMAT", 1002)


def recipe(cls, as_of, **settings):
    with STRATEGIES.temporarily("mine", cls):
        tree = {**TREE, "strategies": [{"name": "mine", **settings}]}
        return recipe_from_document(document_from_text(json.dumps(tree)), as_of)


def both(made):
    return recipe_hash(made), cell_key(made)


def own_keys(keys):
    return [key for key in keys if key.startswith("strategies.0.")]


def test_a_new_key_that_stands_as_before_changes_no_hash():
    old = recipe(Plain, NOW, share=0.25)
    assert both(recipe(Grown, NOW, soft=False, parts=[{"width": 3}])) != both(
        old
    )  # parts is written
    new = recipe(Grown, NOW, soft=False)
    assert "parts" in json.dumps(new.model_dump(mode="json"))
    plain = recipe(create_sibling(), NOW, share=0.25, soft=False)
    assert both(plain) == both(old)
    assert own_keys(as_before(plain)) == ["strategies.0.soft", "strategies.0.inner"]


def create_sibling():
    """`Grown` without the key that has no mark."""

    class Sibling(Plain):
        class Config(StrategyConfig):
            share: Annotated[float, OldDefault(1002, 0.5)] = 0.25
            soft: Annotated[bool, NewKey(1002, before=False)] = True
            inner: Annotated[Inner | None, NewKey(1002, before=None)] = None

    return Sibling


@pytest.mark.parametrize("settings", [{}, {"soft": True}, {"inner": {"width": 3}}])
def test_a_new_key_with_another_value_counts(settings):
    cls = create_sibling()
    assert both(recipe(cls, NOW, **settings)) != both(recipe(cls, NOW, soft=False))


def test_a_key_within_a_new_one_counts_only_where_it_is_not_as_before():
    deep, flat = ({"inner": {"width": 3, "depth": depth}} for depth in (2, 1))
    cls = create_sibling()
    assert both(recipe(cls, NOW, **deep)) != both(recipe(cls, NOW, **flat))
    assert own_keys(as_before(recipe(cls, NOW, **flat))) == ["strategies.0.inner.depth"]


def test_what_a_recipe_leaves_out_means_what_its_format_meant():
    cls = create_sibling()
    earlier, now = recipe(cls, EARLIER).strategies[0], recipe(cls, NOW).strategies[0]
    assert (earlier.share, earlier.soft, earlier.inner) == (0.5, False, None)
    assert (now.share, now.soft, now.inner) == (0.25, True, None)
    assert recipe(cls, EARLIER, share=0.1).strategies[0].share == 0.1
    assert both(recipe(cls, EARLIER)) == both(recipe(Plain, NOW))


class Paced(Frozen):
    name: str = "paced"
    every: Annotated[int, OldDefault(1002, 10)] = 5
    start: Annotated[int, NewKey(1002, before=0)] = 3
    stop: int = 100


class Holding(Frozen):
    """Values that are left out as a whole, one of them two deep."""

    plain: Paced = Paced()
    given: Paced = Paced(every=7, stop=9)
    untouched: Inner = Inner()


class Outer(Frozen):
    holding: Holding = Holding()


@pytest.mark.parametrize("tree", [{}, {"holding": {}}, {"holding": {"plain": {}}}])
def test_a_value_that_is_left_out_as_a_whole_has_the_defaults_of_the_format_within_it(tree):
    earlier = Outer.model_validate(tree, context={"as_of": EARLIER}).holding
    assert earlier.plain == Paced(every=10, start=0)
    assert earlier.given == Paced(every=7, start=0, stop=9)
    assert earlier.untouched == Inner()
    assert Outer.model_validate(tree, context={"as_of": 1002}) == Outer()


def test_a_recipe_that_was_written_out_reads_back_in_every_format():
    cls = create_sibling()
    for as_of in (EARLIER, NOW):
        made = recipe(cls, as_of)
        with STRATEGIES.temporarily("mine", cls):
            again = document_from_text(dump_yaml(made))
            assert [recipe_from_document(again, i) for i in (1, EARLIER, NOW)] == [made] * 3


@given(st.lists(st.tuples(st.integers(2, 6), st.integers()), unique_by=lambda m: m[0], max_size=4))
def test_the_default_of_a_format_is_that_of_the_first_change_after_it(changes):
    marks = tuple(OldDefault(*change) for change in changes)
    annotation = Annotated[(int, *marks)] if marks else int
    config = create_model("Config", __base__=Frozen, key=(annotation, Field(default=-1)))
    for as_of in range(1, 8):
        later = sorted(change for change in changes if change[0] > as_of)
        expected = {"key": later[0][1]} if later else {}
        assert earlier_defaults(config, as_of) == expected
        made = config.model_validate({}, context={"as_of": as_of})
        assert made.key == expected.get("key", -1)
    assert config.model_validate({}).key == -1


def test_a_run_says_which_keys_stand_as_before_and_reports_compare_it_with_earlier_ones(tmp_path):
    cls = create_sibling()
    with STRATEGIES.temporarily("mine", Plain):
        old = run_recipe(recipe_from({**TREE, "strategies": ["mine"]}), out=tmp_path / "old")
    made = recipe(cls, EARLIER)
    with STRATEGIES.temporarily("mine", cls):
        new = run_recipe(made, out=tmp_path / "new")
        assert open_run(old).recipe() == open_run(new).recipe() == made
    assert own_keys(open_run(new).manifest()["as_before"]) == [
        "strategies.0.soft",
        "strategies.0.inner",
    ]
    both_runs = find_runs([tmp_path]).runs
    assert {run.recipe["strategies"][0].get("soft") for run in both_runs} == {None, False}
    assert len({fingerprint(settings_of(run)) for run in both_runs}) == 1
    (table,) = study_of(find_runs([tmp_path]), "both").cells  # the newer of two equal runs
    assert table.labels == {}


def test_a_new_key_that_is_swept_keeps_all_its_values_in_a_report(tmp_path):
    """Also the one that stands for what runs did before, as long as all runs have the key."""

    class Numbered(Plain):
        class Config(StrategyConfig):
            share: float = 0.5
            level: Annotated[int, NewKey(1002, before=0)] = 0

    with STRATEGIES.temporarily("mine", Numbered):
        for level in (0, 1, 2):
            run_recipe(
                recipe_from({**TREE, "strategies": [{"name": "mine", "level": level}]}),
                out=tmp_path,
            )
    study = study_of(find_runs([tmp_path]), "levels")
    assert study.axes == {"level": ("0", "1", "2")}


HOSTILE = ["strategies." + "9" * 5000, "", ".", "..", "strategies..0", 3, None, "a" * 10_000]


def test_a_manifest_may_hold_anything(tmp_path):
    run = run_recipe(recipe_from({**TREE, "strategies": []}), out=tmp_path)
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    for keys in (HOSTILE, "text", {"a": 1}, None):
        path.write_text(json.dumps(manifest | {"as_before": keys}))
        keys_as_before.cache_clear()
        assert len(study_of(find_runs([tmp_path]), "one").cells) == 1


def begun(folder, name, cls, *words):
    """Plan a sweep as a call of `prunekit sweep` does, and write it down; what is left to run."""
    file = folder / f"{name}.yaml"
    file.write_text(f"name: {name}\nrecipe: recipe.yaml\naxes: {{seed: [0, 1]}}\n")
    with STRATEGIES.temporarily("mine", cls):
        call = Session(read_command_line(str(file), words), folder / "out")
        with prepared(call.plan, call.folder, call.request, retry_failed=False):
            return call


def test_a_sweep_keeps_the_defaults_that_it_was_begun_with(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(json.dumps({**TREE, "strategies": [{"name": "mine"}]}))
    with monkeypatch.context() as earlier:
        for module in (values, directory, plan, session):
            earlier.setattr(module, "RECIPE_FORMAT", EARLIER)
        first = begun(tmp_path, "s", Plain)
    for cell in first.left:  # as if both had run
        (first.folder / "runs" / cell.key).mkdir()
        write_state(first.folder, cell.key, CellState("done", f"runs/{cell.key}"))
    planned, resolved = first.folder / "plan.json", resolved_path(first.folder, first.left[0].key)
    written = planned.read_bytes()
    grown = create_sibling()
    assert begun(tmp_path, "s", grown).left == []
    assert planned.read_bytes() == written
    assert "share: 0.5" in resolved.read_text()
    more = begun(tmp_path, "s", grown, "seed=0..2").left
    assert [cell.recipe.strategies[0].share for cell in more] == [0.5]
    explicit = begun(tmp_path, "s", grown, "strategies.0.share=0.25").left
    assert [cell.recipe.strategies[0].share for cell in explicit] == [0.25, 0.25]
    new = begun(tmp_path, "new", grown)
    assert [cell.recipe.strategies[0].share for cell in new.left] == [0.25, 0.25]
    assert json.loads((new.folder / "plan.json").read_text())["recipe_format"] == 1002


class Scored(ScoredStrategy):
    def score(self, weight, ctx):
        return weight.abs()


class Careful(Scored):
    """A later version, which keeps a weight of each tensor."""

    class Config(ScoredStrategy.Config):
        min_keep: Annotated[int, OldDefault(1002, 0)] = 1


def test_baselines_of_a_sweep_keep_the_defaults_that_it_was_begun_with(tmp_path):
    def keys(cls, as_of):
        with STRATEGIES.temporarily("mine", cls):
            asked = read_command_line(
                str(file), ["seed=0,1"], with_baselines=True, format_of={"formats": as_of}.get
            )
            return {cell.id: cell.key for cell in make_plan(asked.design, as_of).cells}

    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**TREE, "strategies": [{"name": "mine", "sparsity": 0.5}]}))
    began = keys(Scored, EARLIER)
    assert keys(Careful, EARLIER) == began
    now = keys(Careful, NOW)
    assert {cell.partition("/")[0] for cell in began if now[cell] == began[cell]} == {"dense"}


@pytest.mark.parametrize(
    "plan",
    [
        {"recipe_format": "two"},
        {"recipe_format": 99_999},
        {"recipe_format": True},
        {"format": 2},
        [],
    ],
)
def test_a_corrupt_or_newer_plan_is_not_planned_over(tmp_path, plan):
    document = {"format": 1, **plan} if isinstance(plan, dict) else plan
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"plan\.json: corrupt, or of a"):
        directory.begun_with(tmp_path)


def test_no_field_is_marked_with_a_format_that_is_not_written_yet():
    """Else a sweep that is begun now would be read with the defaults of before."""
    assert max(marks(Recipe), default=1) <= RECIPE_FORMAT
    for registry in REGISTRIES.values():
        for component in registry.components():
            if component.builtin:
                assert max(marks(registry.config_class(component.name)), default=1) <= RECIPE_FORMAT
    assert max(marks(Grown.Config)) == 1003


def marks(annotation: Any) -> Iterator[int]:
    """The formats of all marks in a type and in the values that it holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from (m.format for m in field.metadata if isinstance(m, NewKey | OldDefault))
            yield from marks(field.annotation)
    for part in get_args(annotation):
        yield from marks(part)
