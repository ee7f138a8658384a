"""Nothing is registered without its page, recipe, paper, oracle, kit case, rehearsal and export.

The list of names is that of the registries, so a new one is missing here until it has them all.
"""

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from prunekit.recipe.find import shipped_recipes, shipped_sweeps
from prunekit.recipe.load import load_recipe
from prunekit.registry import (
    COMPRESSORS,
    DISTRIBUTIONS,
    REGISTRIES,
    SCHEDULES,
    STRATEGIES,
    STRUCTURES,
)
from tests.export import test_matrix
from tests.testing import test_checks, test_groups_of_values

DOCS = Path(__file__).parents[2] / "docs"
REGISTRY = {
    "strategy": STRATEGIES,
    "compressor": COMPRESSORS,
    "structure": STRUCTURES,
    "distribution": DISTRIBUTIONS,
    "schedule": SCHEDULES,
}
NAMES = [
    (kind, component.name)
    for kind, registry in REGISTRY.items()
    for component in registry.components()
    if component.builtin
]
every_name = pytest.mark.parametrize(("kind", "name"), NAMES)

OURS = {
    "structure": {"unstructured", "block", "channel", "head"},
    "distribution": {"uniform", "global", "match", "per_pattern"},
    "schedule": {"constant", "one_shot", "multi_step", "linear", "cosine"},
}
"""What has no paper of its own: everybody's."""

PRUNING, ONE_SHOT, START = (
    "pruning",
    "strategies.test_one_shot",
    "strategies.test_at_initialization",
)
LOOPS = {
    "strategy": {
        "magnitude": "strategies.test_magnitude:test_ste_has_the_mask_of_its_dense_weights_after_"
        "every_step",
        "random_subnetwork": f"{START}:test_the_count_is_exact_and_the_mask_is_drawn_once",
        "optimal_subnetwork": "docs.test_recipes:test_the_optimal_mlp_has_the_mask_and_the_start_"
        "of_the_iterative_one",
        "set": "strategies.test_drop_and_grow:test_set_moves_as_in_a_loop_over_single_weights",
        "rigl": "strategies.test_drop_and_grow:test_rigl_moves_as_in_a_loop_over_single_weights",
        "ac_dc": "strategies.test_ac_dc:test_all_weights_or_the_largest_of_all_tensors",
        "lottery_ticket": "strategies.test_lottery_ticket:test_each_round_prunes_the_smallest_of_"
        "what_remains",
        "snip": f"{START}:test_snip_keeps_what_a_gate_on_each_weight_moves_most",
        "grasp": f"{START}:test_grasp_agrees_with_finite_differences",
        "synflow": f"{START}:test_synflow_keeps_what_sums_over_paths_keep",
        "lamp": "strategies.test_lamp:test_scores_are_those_of_a_double_loop",
        "movement": "strategies.test_movement:test_hard_movement_is_autograd_through_a_top_v_mask",
        "movement_soft": "strategies.test_movement:test_soft_movement_is_autograd_through_a_"
        "threshold",
        "sr_ste": "strategies.test_sr_ste:test_training_is_the_update_of_the_paper",
        "filter_magnitude": "strategies.test_filter_magnitude:test_each_layer_loses_the_filters_of_"
        "the_smallest_norm",
        "fpgm": f"{ONE_SHOT}:test_filters_nearest_the_others_go",
        "taylor": f"{ONE_SHOT}:test_taylor_scores_are_those_of_finite_differences",
        "wanda": f"{ONE_SHOT}:test_wanda_is_the_plain_loop_over_outputs",
        "sparse_gpt": "strategies.test_sparse_gpt:test_one_row_in_one_block_ends_at_the_least_"
        "squares_optimum_of_its_mask",
        "granet": "strategies.test_granet:test_each_update_is_that_of_the_algorithm",
        "str_threshold": "strategies.test_str_threshold:test_it_is_the_plain_training_of_the_paper",
        "top_kast": "strategies.test_top_kast:test_it_is_the_plain_implementation",
        "srigl": "strategies.test_srigl:test_a_layer_moves_as_in_a_loop_over_its_weights",
    },
    "compressor": {
        "tome": "compressors.test_tome:test_rounds_equal_the_oracle",
        "tofu": "compressors.test_tofu:test_it_is_what_the_paper_does",
        "pitome": "compressors.test_pitome:test_it_is_what_the_paper_does",
        "random_drop": "compressors.test_compressors:test_every_subset_is_equally_likely_in_"
        "training",
        "average_pool": "compressors.test_compressors:test_pooling_equals_the_loops",
        "evit": "compressors.test_published:test_evit_in_chosen_blocks_is_what_its_paper_writes",
    },
    "structure": {
        "unstructured": "test_structures:test_unstructured_is_the_distributions_own_choice",
        "n_m": "test_structures:test_each_group_keeps_the_stable_best_n",
        "block": "test_structures:test_blocks_by_hand_with_smaller_ones_at_the_edges",
        "channel": "strategies.test_filter_magnitude:test_each_layer_loses_the_filters_of_the_"
        "smallest_norm",
        "head": "test_structures:test_a_pruned_head_of_a_fused_attention_adds_nothing",
        "constant_fan_in": "test_constant_fan_in:test_each_row_keeps_its_best_and_all_together_"
        "what_is_asked",
    },
    "distribution": {
        "uniform": "test_distributions:test_uniform_rounds_one_density",
        "global": "test_distributions:test_global_is_the_slow_selection",
        "erdos_renyi": "test_distributions:test_erdos_renyi_leaves_the_kernel_out",
        "erk": "test_distributions:test_erk_equals_its_saturation_loop_to_the_unit",
        "match": "test_distributions:test_match_has_the_counts_of_its_source",
        "per_pattern": "test_distributions:test_named_tensors_have_their_sparsity_and_the_others_"
        "share_the_rest",
        "isomorphic": "test_isomorphic:test_it_equals_lists_that_are_sorted_kind_by_kind",
    },
    "schedule": {
        "constant": "test_schedules:test_in_range_and_never_falling_at_every_step",
        "one_shot": "test_schedules:test_one_shot_jumps",
        "multi_step": "test_schedules:test_multi_step_follows_its_table",
        "linear": "test_schedules:test_hand_worked_values",
        "polynomial": "test_schedules:test_hand_worked_values",
        "cubic": "test_schedules:test_cubic_is_one_less_the_cube_of_what_is_left",
        "cosine": "test_schedules:test_hand_worked_values",
        "geometric": "test_schedules:test_geometric_prunes_a_fraction_of_what_remains_each_round",
    },
}
"""Kind -> name -> what holds it to a loop, a closed form or values worked out by hand."""
KIT = {
    "strategy": [
        test_checks.test_a_built_in_strategy_conforms_in_a_long_run,
        test_checks.test_a_built_in_strategy_conforms_with_its_long_defaults,
    ],
    "compressor": [test_checks.test_a_built_in_compressor_conforms],
    "structure": [test_groups_of_values.test_a_built_in_structure_conforms],
    "distribution": [test_groups_of_values.test_a_built_in_distribution_conforms],
    "schedule": [test_groups_of_values.test_a_built_in_schedule_conforms],
}
OF_A_RUN = {"optimal_subnetwork", "match"}
"""What needs a finished run: a test of its own holds it to the contract."""


def test_each_kind_that_prunes_or_compresses_is_looked_at():
    others = {"model", "dataset", "probe", "loss", "logger"}
    assert REGISTRIES.keys() == REGISTRY.keys() | others


@every_name
def test_it_has_a_summary_and_a_paper(kind, name):
    """Which `prunekit list` prints."""
    found = REGISTRY[kind].describe(name)
    assert found.summary
    assert bool(re.search(r"arXiv:\d{4}\.\d{5}", found.paper)) != (name in OURS.get(kind, ()))


@every_name
def test_it_has_a_page(kind, name):
    if kind == "strategy":
        assert (DOCS / "strategies" / f"{name}.md").read_text().startswith(f"# {name}\n")
        return
    page, row = {
        "compressor": ("compressors.md", rf"^\| \[?`{name}`"),
    }.get(kind, ("values.md", rf"^\*\*`([a-z_]+ \| )*{name}[` ]"))
    assert re.search(row, (DOCS / page).read_text(), re.MULTILINE)


@cache
def used() -> set[tuple[str, str]]:
    """Kind and name of what stands in a recipe that ships, or in an arm of a sweep that does."""
    found = set()
    for path in shipped_recipes().values():
        found |= {*_in_tree(load_recipe(path).model_dump(mode="json"))}
    for path in shipped_sweeps().values():
        found |= {*_in_tree(YAML(typ="safe").load(path))}
    return found


def _in_tree(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    kind = {"strategies": "strategy", "compressors": "compressor"}.get(key, key)
    if kind in REGISTRY and isinstance(tree, str):
        yield kind, tree
    elif isinstance(tree, dict):
        if kind in REGISTRY and "name" in tree:
            yield kind, tree["name"]
        for own, value in tree.items():
            yield from _in_tree(value, str(own).rpartition(".")[2])
    elif isinstance(tree, list):
        for value in tree:
            yield from _in_tree(value, key)


@every_name
def test_a_recipe_or_a_sweep_shows_it(kind, name):
    assert (kind, name) in used()


@every_name
def test_an_oracle_holds_it(kind, name):
    file, _, test = LOOPS[kind][name].partition(":")
    own = () if file.startswith(("docs.", "compressors.")) else (PRUNING,)
    module = importlib.import_module(".".join(("tests", *own, file)))
    assert callable(getattr(module, test))


def test_no_oracle_is_of_a_name_that_is_gone():
    assert {(kind, name) for kind, names in LOOPS.items() for name in names} == {*NAMES}


@every_name
def test_the_kit_tries_it(kind, name):
    tried = {
        getattr(values, "values", (values,))[0]
        for test in KIT[kind]
        for mark in test.pytestmark
        if mark.name == "parametrize"
        for values in mark.args[1]
    }
    assert (name in tried) != (name in OF_A_RUN)


def test_the_export_matrix_has_all_strategies_and_compressors():
    """Those of the rehearsal are looked at in tests/rehearsal/test_recipes.py."""
    own = {("strategy", name) for name in test_matrix.builtin_strategies}
    own |= {("compressor", name) for name in test_matrix.builtin_compressors}
    assert own == {one for one in NAMES if one[0] in ("strategy", "compressor")}
