"""What others have written down of prunekit: names, groups and codes that must stay as they are."""

import importlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import prunekit
from prunekit import errors
from prunekit.foundation.warn import LOG
from prunekit.registry.installed import KINDS

PUBLIC = {
    "prunekit": [
        "BatchContext",
        "Cadence",
        "CheckpointError",
        "Clock",
        "CompressorConfig",
        "Context",
        "DataCompressor",
        "DataError",
        "DataSpec",
        "DatasetConfig",
        "Demand",
        "Distribution",
        "Duration",
        "GradientContext",
        "Group",
        "Grouped",
        "LoggedRun",
        "Logger",
        "LoggerConfig",
        "Loss",
        "LossBatch",
        "LossConfig",
        "LossSetting",
        "Masks",
        "ModelConfig",
        "ParamRule",
        "Part",
        "PluginError",
        "Probe",
        "ProbeConfig",
        "Proportional",
        "PrunekitError",
        "Pruner",
        "PruningStrategy",
        "Ramp",
        "RatioCompressor",
        "RatioConfig",
        "Recipe",
        "RecipeError",
        "Samples",
        "Schedule",
        "ScoredStrategy",
        "Slotted",
        "StateChange",
        "StrategyConfig",
        "Structure",
        "Timeline",
        "TokenBatch",
        "TokenWatch",
        "Units",
        "Update",
        "UsageError",
        "__version__",
        "apportion",
        "attach",
        "auxiliary_losses",
        "check_nm",
        "compact",
        "compact_run",
        "compressor",
        "draw_picture",
        "evaluate_run",
        "export_run",
        "keep_count",
        "load_model",
        "load_recipe",
        "open_run",
        "predict",
        "preprocessing",
        "probe",
        "run_recipe",
        "sensitivity",
        "strategy",
        "top_mask",
        "top_masks_global",
        "unmerge",
        "use_code",
        "without_closed",
    ],
    "prunekit.testing": [
        "ConformanceError",
        "DistributionTrial",
        "LossTrial",
        "ScheduleTrial",
        "SmallModel",
        "StructureTrial",
        "TokenTrial",
        "Trial",
        "check_compressor",
        "check_distribution",
        "check_logger",
        "check_loss",
        "check_probe",
        "check_schedule",
        "check_strategy",
        "check_structure",
    ],
    "prunekit.sweep": ["open_sweep"],
    "prunekit.report": ["picture", "summarise"],
    "prunekit.report.statistics": ["paired_difference"],
    "prunekit.registry": [
        "COMPRESSORS",
        "DATASETS",
        "DISTRIBUTIONS",
        "LOGGERS",
        "LOSSES",
        "MODELS",
        "PROBES",
        "REGISTRIES",
        "SCHEDULES",
        "STRATEGIES",
        "STRUCTURES",
        "Registry",
    ],
    "prunekit.cli": ["cli", "main"],
}
EXIT_CODES = {
    "UsageError": 2,
    "RecipeError": 3,
    "DataError": 4,
    "CheckpointError": 5,
    "DivergedError": 6,
    "PluginError": 7,
    "ResourceError": 8,
    "WriteError": 8,
    "ExportError": 9,
    "RemovalError": 9,
    "StopRequestedError": 75,
}
PRUNER = [
    "after_step",
    "assigned",
    "attach",
    "batch_penalty",
    "before_step",
    "dense",
    "dense_weights",
    "finish",
    "gradients",
    "load_state_dict",
    "masks",
    "metrics",
    "model",
    "optimizer_rules",
    "params",
    "set_dense",
    "start",
    "state_dict",
    "step",
    "strategy_metrics",
    "summary",
    "target",
    "timeline",
    "units",
]
"""What a loop of somebody else's may call."""


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names]
)
def test_a_public_name_can_be_imported(module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("module", ["prunekit", "prunekit.testing"])
def test_all_names_no_more_and_no_less(module):
    assert sorted(importlib.import_module(module).__all__) == PUBLIC[module]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'prunekit' has no attribute 'Prunner'"):
        prunekit.Prunner  # noqa: B018 - the access is what is tested


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("torch", "pydantic", "numpy")
    code = f"import prunekit, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_an_error_has_its_exit_code(name, code):
    assert getattr(errors, name).exit_code == code


def test_the_groups_of_entry_points():
    kinds = [
        "strategies",
        "compressors",
        "models",
        "datasets",
        "probes",
        "losses",
        "loggers",
        "structures",
        "distributions",
        "schedules",
        "recipes",
    ]
    assert list(KINDS) == [f"prunekit.{kind}" for kind in kinds]


def test_the_command_and_the_logger():
    (script,) = entry_points(group="console_scripts", name="prunekit")
    assert script.value == "prunekit.cli:main"
    assert LOG.name == "prunekit"


def test_a_pruner_shows_a_loop_what_it_needs():
    assert sorted(name for name in vars(prunekit.Pruner) if not name.startswith("_")) == PRUNER


def test_the_package_is_imported_from_a_zip(tmp_path):
    """As zipapps and some clusters have it: the list of names is read through the loader."""
    archive = shutil.make_archive(
        str(tmp_path / "all"), "zip", Path(prunekit.__file__).parents[1], "prunekit"
    )
    code = "import prunekit as p; p.UsageError; print(p.__file__, len(p.__all__))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": archive},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    place, names = run.stdout.split()
    assert place.startswith(archive)
    assert int(names) == len(PUBLIC["prunekit"])
