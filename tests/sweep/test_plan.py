"""Which runs a sweep is."""

import itertools
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from prunekit.errors import RecipeError, UsageError
from prunekit.recipe.document import SourceDocument
from prunekit.recipe.find import find_recipe, shipped_sweeps
from prunekit.recipe.identity import cell_key
from prunekit.recipe.load import read_text_document, recipe_from, recipe_from_text
from prunekit.sweep.baselines import baseline_arms
from prunekit.sweep.command_line import read_command_line
from prunekit.sweep.design import read_design
from prunekit.sweep.directory import CellState
from prunekit.sweep.estimate import Estimate, wall_seconds
from prunekit.sweep.file import expanded, read_word
from prunekit.sweep.plan import make_plan
from prunekit.sweep.view import SweepProgress, plan_view

BASE = """
name: base
data: {name: digits, batch_size: 32}
model: {name: mlp, hidden: [8]}
strategies: [{name: magnitude, sparsity: 0.5}]
optimizer: {name: adamw, lr: 0.01}
phases: [{name: train, length: 1ep}]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "base.yaml"
    path.write_text(BASE)
    return path


def plan_of(base, **keys):
    tree = {"name": "sweep", "recipe": str(base), **keys}
    return make_plan(read_design(SourceDocument(root=tree), Path))


def problem_of(base, text, find=None):
    with pytest.raises(RecipeError) as error:
        make_plan(read_design(read_text_document(text, "s.yaml"), find or (lambda _: base)))
    return str(error.value)


# ---- against an oracle

KEYS = {"seed": 0, "data.batch_size": 32, "optimizer.lr": 0.01, "evaluate.every": "1ep"}
VALUES = {
    "seed": [0, 1, 2],
    "data.batch_size": [8, 16, 32],
    "optimizer.lr": [0.1, 0.01],
    "evaluate.every": ["1ep", "2ep"],
}


@st.composite
def sweeps(draw):
    """Axes over keys, and arms; each may need one of those before it."""
    keys = draw(st.lists(st.sampled_from(list(KEYS)), max_size=3, unique=True))
    axes = {key: draw(_some(VALUES[key])) for key in keys}
    arms, has = {}, {}
    for i in range(draw(st.integers(1, 4))):
        needed = draw(st.sampled_from([None, *arms]))
        roles = {key: draw(st.sampled_from(["vary", "without", "collapse"])) for key in keys}
        if needed:  # one run cannot serve what differs in the run that it needs
            roles = {k: "without" if r == "collapse" and k in has[needed] else r
                     for k, r in roles.items()}  # fmt: skip
        arm = {
            "without": [key for key in keys if roles[key] == "without"],
            "collapse": [key for key in keys if roles[key] == "collapse"],
            "set": {"strategies": []},
        }
        if needed:
            arm["set"] = {"strategies": [{"name": "optimal_subnetwork", "source": "x"}]}
            arm["needs"] = {"strategies.0.source": needed}
        arms[f"arm{i}"] = arm
        theirs = has[needed] if needed else set()
        has[f"arm{i}"] = {k for k in keys if roles[k] == "vary" or k in theirs}
    order = draw(st.permutations(list(arms)))
    return axes, {name: arms[name] for name in order}


def serves(cell, labels):
    return any(served.items() <= labels.items() for served in (cell.axes, *cell.also))


def _some(values):
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


def identity(arms, name, values):
    """What a run of an arm at one value of every axis depends on, needed runs written out."""
    arm = arms[name]
    own = {key: value for key, value in values.items()
           if key not in arm["without"] and key not in arm["collapse"]}  # fmt: skip
    needed = [identity(arms, other, values) for other in arm.get("needs", {}).values()]
    return (tuple((KEYS | own).items()), tuple(needed))


@given(sweeps())
@settings(max_examples=60)
def test_a_plan_has_one_run_for_what_differs_and_says_which_values_it_serves(base, sweep):
    axes, arms = sweep
    plan = plan_of(base, axes=axes, arms=arms)
    keys = {}  # what it is -> its key
    for name, labels in itertools.product(arms, itertools.product(*axes.values())):
        values = dict(zip(axes, labels, strict=True))
        text = {axis: str(value) for axis, value in values.items()}
        serving = [cell for cell in plan.cells if cell.arm == name and serves(cell, text)]
        assert len(serving) == 1
        (cell,) = serving
        assert keys.setdefault(identity(arms, name, values), cell.key) == cell.key
        for key, other in arms[name].get("needs", {}).items():
            (needed,) = (c for c in plan.cells if c.id == cell.needs[key])
            assert needed.arm == other
            assert serves(needed, text)
    assert len(set(keys.values())) == len(keys)  # equal keys, equal runs
    assert {cell.key for cell in plan.cells} == set(keys.values())
    assert len({cell.id for cell in plan.cells}) == len(plan.cells)
    assert len({(cell.arm, cell.key) for cell in plan.cells}) == len(plan.cells)


@given(sweeps())
@settings(max_examples=30)
def test_what_a_cell_needs_stands_before_it(base, sweep):
    axes, arms = sweep
    seen = set()
    for cell in plan_of(base, axes=axes, arms=arms).cells:
        assert set(cell.needs.values()) <= seen
        seen.add(cell.id)


@given(sweeps(), st.data())
@settings(max_examples=30)
def test_a_sweep_that_grows_keeps_the_keys_of_what_it_had(base, sweep, data):
    axes, arms = sweep
    if not axes:
        return
    axis = data.draw(st.sampled_from(list(axes)))
    grown = axes | {axis: list(dict.fromkeys([*axes[axis], *VALUES[axis]]))}
    before = {cell.key for cell in plan_of(base, axes=axes, arms=arms).cells}
    assert before <= {cell.key for cell in plan_of(base, axes=grown, arms=arms).cells}


def test_the_key_leaves_out_names_and_places_only():
    recipe = recipe_from_text(BASE)
    tree = recipe.model_dump(mode="json")
    same = [{"name": "other"}, {"data": {**tree["data"], "root": "elsewhere"}},
            {"checkpoint": {"every": "1ep"}}]  # fmt: skip
    other = [{"seed": 1}, {"threads": 2}, {"probes": [{"name": "gradient_norm"}]},
             {"logging": {"every": "1st"}}]  # fmt: skip
    for change in same:
        assert cell_key(recipe_from(tree | change)) == cell_key(recipe), change
    keys = [cell_key(recipe_from(tree | change)) for change in other]
    assert len({cell_key(recipe), *keys}) == 1 + len(other)


def test_blocks_change_several_keys_and_equal_runs_are_one(base):
    axes = {
        "reading": {"a": {"data.batch_size": 8}, "b": {"data.batch_size": 16}},
        "data": {"digits": {"data": {"name": "digits", "batch_size": 4}}, "base": {}},
    }
    plan = plan_of(base, axes=axes)
    assert [(cell.id, cell.also) for cell in plan.cells] == [
        ("base/reading=a,data=digits", ({"reading": "b", "data": "digits"},)),
        ("base/reading=a,data=base", ()),
        ("base/reading=b,data=base", ()),
    ]
    assert [cell.recipe.data.batch_size for cell in plan.cells] == [4, 8, 16]


# ---- what a file may say


def test_a_range_has_both_ends_and_a_path_may_have_another_name(base):
    sparsity = {"path": "strategies.0.sparsity", "values": [0.5, 0.75]}
    plan = plan_of(base, axes={"seed": "0..2", "s": sparsity})
    assert plan.axes == {"seed": ("0", "1", "2"), "s": ("0.5", "0.75")}
    assert {(c.recipe.seed, c.recipe.strategies[0].sparsity) for c in plan.cells} == {
        (seed, sparsity) for seed in range(3) for sparsity in (0.5, 0.75)
    }
    assert all(cell.recipe.name == "base" for cell in plan.cells)


HEAD = "name: s\nrecipe: base\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("axs: {}", "s.yaml:3:1 axs: unknown key. Did you mean 'axes'?"),
        ("axes: {strategies.0.sparsity: [0.5, 1.5]}",
         "s.yaml:3:37 strategies.0.sparsity: must be less than 1, not 1.5"),
        ("axes: {strategies.0.sparsty: [0.5, 0.6]}",
         "s.yaml:3:31 strategies.0.sparsty: unknown key of 'magnitude'. Did you mean 'sparsity'?"),
        ("axes: {strategies.1.sparsity: [0.5]}",
         "s.yaml:3:32: there is no strategies.1: strategies has only strategies.0 to strategies.0"),
        ("axes: {seed: 4..0}", "s.yaml:3:14 axes.seed: 4..0 runs backwards: write 0..4"),
        ("axes: {seed: 0..1000000000000}", "s.yaml:3:14 axes.seed: more than 10,000 values"),
        ("axes: {seed: []}", "s.yaml:3:14 axes.seed: no values: give at least one"),
        ("axes: {seed: [0, 0]}", "s.yaml:3:14 axes.seed: 0 is given twice"),
        ("axes: {seed: 3}",
         "s.yaml:3:14 axes.seed: must be a list or a range such as 0..4, not the number 3"),
        ("axes: {a: {path: seed, values: some}}",
         "s.yaml:3:32 axes.a.values: must be a list or a range such as 0..4, not the text 'some'"),
        ("axes: {a: {path: seed}}", "s.yaml:3:8 axes.a.values: missing: it has no default"),
        ("arms: {a: {without: [sed]}}\naxes: {seed: 0..1}",
         "s.yaml:3:21 arms.a.without: no axis is called 'sed'. Did you mean 'seed'?"),
        ("arms: {a: {withot: [seed]}}\naxes: {seed: 0..1}",
         "s.yaml:3:12 arms.a.withot: unknown key. Did you mean 'without'?"),
        ("arms: {a: {without: [seed], collapse: [seed]}}\naxes: {seed: 0..1}",
         "s.yaml:3:39 arms.a.collapse: 'seed' cannot be in both without and collapse"),
        ("arms: {a: {needs: {model.init: c}}, b: {}}",
         "s.yaml:3:32 arms.a.needs.'model.init': no arm 'c'. Did you mean 'a' or 'b'?"),
        ("arms: {a: {needs: {model.init: b}}, b: {needs: {model.init: a}}}",
         "s.yaml:3:11 arms.a.needs: a needs b needs a"),
        ("arms: {a: {}, b: {collapse: [seed], needs: {model.init: a}}}\naxes: {seed: 0..1}",
         "s.yaml:3:18 arms.b.collapse: b needs a run for each value of 'seed'"),
        ("arms: {b: {set: {sed: 1}}}", "s.yaml:3:23 sed: unknown key. Did you mean 'seed'?"),
        ("axes: {data.root: [here, there], seed: 0..2}\narms: {a: {}}",
         "s.yaml:4:11 data.root: a/data.root=here,seed=0 and a/data.root=there,seed=0 differ in "
         "the place of the data alone, which makes no other run"),
        ("arms: {a: {set: {data.root: here}}, b: {set: {data.root: there}}}",
         "s.yaml:3:40 data.root: a and b differ in the place of the data alone"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(base, text, told):
    problem = problem_of(base, HEAD + text)
    assert problem.startswith(told), problem
    assert len(problem.splitlines()) == 1, problem


def test_a_mistake_in_many_cells_is_told_once(base):
    problem = problem_of(base, HEAD + "set: {optimizer.lr: -1}\naxes: {seed: 0..9}")
    assert problem == "s.yaml:3:21 optimizer.lr: must be more than 0, not -1"


AXES = "axes: {seed: 0..9999, optimizer.lr: 1..9999, data.batch_size: 1..9999, threads: 1..1024}\n"


@pytest.mark.parametrize("arms", ["", "arms: {a: {collapse: [seed, threads]}}\n"])
def test_more_runs_than_anybody_has_time_for_are_counted_and_not_planned(base, arms):
    runs = 10_000 * 9_999 * 9_999 * 1_024
    assert problem_of(base, HEAD + AXES + arms).partition("axes: ")[2] == (
        f"{runs:,} runs, and a sweep has at most 100,000: give fewer values, or make several sweeps"
    )


def test_a_recipe_that_is_not_there_is_told(base):
    problem = problem_of(base, "name: s\nrecipe: quickstat\n", find_recipe)
    assert problem.startswith("s.yaml:2:9 recipe: quickstat: does not exist. Did you mean")


def test_an_arm_may_be_a_recipe_of_its_own(base, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(BASE.replace("hidden: [8]", "hidden: [4]"))
    arms = {"a": None, "b": str(other), "c": {"recipe": str(other), "set": {"seed": 3}}}
    plan = plan_of(base, arms=arms)
    assert [cell.recipe.model.hidden for cell in plan.cells] == [(8,), (4,), (4,)]
    assert [cell.recipe.seed for cell in plan.cells] == [0, 0, 3]


# ---- the command line


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=0..4", (0, 1, 2, 3, 4)),
        ("seed=-1..1,7", (-1, 0, 1, 7)),
        ("optimizer.lr=1e-3,2e-3", (1e-3, 2e-3)),
        ("data.augment=[],[flip, crop]", ([], ["flip", "crop"])),
        ('data.root="a,b",c', ("a,b", "c")),
        ("model={name: mlp, hidden: [1]}", ({"name": "mlp", "hidden": [1]},)),
        ("ema=null", (None,)),
    ],
)
def test_a_word_is_values_parted_by_commas(text, values):
    assert read_word(text).values == values


@pytest.mark.parametrize(
    "text", ["seed", "=3", "seed=", "seed=4..0", "seed=[", "seed=*a", "seed=0..99999"]
)
def test_a_word_that_means_nothing_is_refused(text):
    with pytest.raises(UsageError, match=r"(?s)^.*seed|^'=3'"):
        read_word(text)


@given(st.integers(-50, 50), st.integers(0, 50))
def test_a_range_is_every_whole_number(first, length):
    assert expanded([f"{first}..{first + length}"]) == [*range(first, first + length + 1)]


def test_words_make_axes_of_a_recipe_and_settle_the_rest(base):
    words = ["strategies.0.sparsity=0.5,0.6", "seed=0..1", "optimizer.lr=0.5"]
    asked = read_command_line(str(base), words)
    plan = make_plan(asked.design)
    assert plan.axes == {"sparsity": ("0.5", "0.6"), "seed": ("0", "1")}
    assert {cell.recipe.optimizer.lr for cell in plan.cells} == {0.5}
    again = make_plan(read_design(read_text_document(asked.text, "s.yaml"), Path))
    assert again == plan  # the file that is kept is the sweep


@pytest.mark.parametrize("words", [("seed=0..1", "seed=2"), ("seed=2", "seed=0..1"), ("name=a,b",)])
def test_words_that_contradict_are_refused(base, words):
    with pytest.raises(UsageError, match=r"given twice|give one"):
        read_command_line(str(base), words)


def test_words_narrow_the_axes_of_a_sweep_and_win_over_its_arms(tmp_path, base):
    path = tmp_path / "sweep.yaml"
    axes = "{seed: 0..4, o: {a: {optimizer.lr: 0.1}, b: {}}}"
    arms = "{x: {set: {data.batch_size: 8}}}"
    path.write_text(f"name: s\nrecipe: {base}\naxes: {axes}\narms: {arms}\n")
    words = ["seed=7", "o=a", "data.batch_size=4", "strategies.0.sparsity=0.1,0.2", "name=small"]
    plan = make_plan(read_command_line(str(path), words).design)
    assert plan.name == "small"
    assert plan.axes == {"seed": ("7",), "o": ("a",), "sparsity": ("0.1", "0.2")}
    for recipe in (cell.recipe for cell in plan.cells):
        assert (recipe.seed, recipe.data.batch_size, recipe.optimizer.lr) == (7, 4, 0.1)
    with pytest.raises(UsageError, match="axis o has no 'c': it has a, b"):
        read_command_line(str(path), ["o=c"])
    with pytest.raises(UsageError, match="is a sweep"):
        read_command_line(str(path), with_baselines=True)


def test_baselines_share_sparsity_seed_and_steps(base):
    words = ["strategies.0.sparsity=0.5,0.75", "seed=0..1", "strategies.0.mode=ste,hard"]
    asked = read_command_line(str(base), words, with_baselines=True)
    plan = make_plan(asked.design)
    runs = {arm: [c for c in plan.cells if c.arm == arm] for arm in plan.arms}
    assert {arm: len(cells) for arm, cells in runs.items()} == {
        "base": 8, "dense": 2, "random": 4, "one_shot": 4, "match": 8,
    }  # fmt: skip
    assert all(cell.recipe.phases == runs["base"][0].recipe.phases for cell in plan.cells)
    for cell in runs["match"]:
        (needed,) = (
            c for c in plan.cells if c.id == cell.needs["strategies.0.distribution.source"]
        )
        assert (needed.arm, needed.axes) == ("base", cell.axes)
    for arm in ("random", "one_shot", "match"):
        assert all(str(c.recipe.strategies[0].sparsity) == c.axes["sparsity"] for c in runs[arm])
    assert all(not cell.recipe.strategies for cell in runs["dense"])
    assert runs["one_shot"][0].recipe.strategies[0].schedule.name == "one_shot"


def test_single_weights_are_no_baseline_of_units_of_its_own():
    own = SimpleNamespace(model_dump=lambda mode: {"name": "own", "sparsity": 0.5})
    arms, notes = baseline_arms(SimpleNamespace(name="r", strategies=[own], phases=[]), {})
    assert list(arms) == ["r", "dense"]
    assert "own prunes units of its own" in notes[0]


def test_baselines_that_cannot_be_planned_are_told(base, tmp_path):
    emerges = tmp_path / "emerges.yaml"
    optimal = "{name: optimal_subnetwork, source: x}"
    emerges.write_text(BASE.replace("{name: magnitude, sparsity: 0.5}", optimal))
    asked = read_command_line(str(emerges), with_baselines=True)
    assert [arm.name for arm in asked.design.arms] == ["base", "dense"]
    assert "emerges" in asked.notes[0]
    with pytest.raises(UsageError, match="prunes nothing"):
        read_command_line(str(base), ["strategies=[]"], with_baselines=True)
    words = ["strategies.0={name: magnitude, sparsity: 0.1},{name: lamp, sparsity: 0.1}"]
    with pytest.raises(UsageError, match="write the arms in a sweep file"):
        read_command_line(str(base), words, with_baselines=True)


# ---- the sweeps that ship

RUNS = {
    "burden_mnist": 250,
    "choices_digits": 39,
    "compact_resnet_digits": 9,
    "compact_vit_cifar_cpu": 9,
    "compact_vit_digits": 9,
    "compression_cpu": 27,
    "iso_compute": 200,
    "merging": 15,
    "paper_table1": 720,
    "paper_table2": 720,
    "resnet56_compact": 15,
    "wrn22_cifar_rigl": 24,
    "wrn22_cifar_rigl_cpu": 27,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if runs > 100 else [])
        for name, runs in sorted(RUNS.items())
    ],
)
def test_a_shipped_sweep_is_as_many_runs_as_it_says(name):
    plan = make_plan(read_command_line(name).design)
    assert len({cell.key for cell in plan.cells}) == RUNS[name]


def test_every_shipped_sweep_is_known_here():
    assert shipped_sweeps().keys() == RUNS.keys()


# ---- time


@given(st.lists(st.floats(0.1, 100), max_size=12), st.integers(1, 4))
def test_the_time_of_a_plan_is_between_its_bounds(seconds, jobs):
    wall = wall_seconds(seconds, jobs)
    least = max(sum(seconds) / jobs, max(seconds, default=0))
    assert least - 1e-6 <= wall <= sum(seconds) / jobs + max(seconds, default=0) + 1e-6


def test_a_time_says_of_how_many_runs_it_is(base):
    plan = plan_of(base, axes={"seed": [0, 1, 2]})
    first, *others = plan.cells
    screen = Console(width=100, file=StringIO(), force_terminal=True, color_system=None)
    for timed, said in ((plan.cells, "about 30.0 s with one job"),
                        (others, "about 20.0 s for 2 of 3 runs with one job")):  # fmt: skip
        times = Estimate({cell.key: 10.0 for cell in timed}, {} if len(timed) == 3 else {"a": "?"})
        screen.print(plan_view(plan, {}, times, 1))
        assert said in screen.file.getvalue()
    progress = SweepProgress(
        screen, Path(), 3, Estimate({c.key: 10.0 for c in plan.cells[:2]}, {}), 1
    )
    progress.tell(first, CellState("done", "gone", seconds=20.0))
    assert screen.file.getvalue().rstrip().endswith("20.0 s left for 1 of 2 runs")
