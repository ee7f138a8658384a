"""What each logger leaves behind, read back by the tools that are made for it."""

import csv
import json
import math
import re
import struct
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.io_wrapper import GetLogdirSubdirectories
from tensorboard.plugins.hparams import metadata

from prunekit.errors import RecipeError
from prunekit.loggers.base import LoggedRun, Logger
from prunekit.loggers.event_files import LAYOUT, shown_tag
from prunekit.recipe.identity import cell_key, recipe_hash
from prunekit.recipe.load import load_recipe, read_written_out, recipe_from, recipe_from_text
from prunekit.recipe.yaml_text import dump_yaml
from prunekit.registry import LOGGERS
from prunekit.runs.directory import events_dir
from prunekit.testing import ConformanceError, check_logger
from prunekit.train.log import check_loggers

ROOT = Path(__file__).parents[2]
SETTINGS = {"tensorboard": {}, "csv": {}, "wandb": {"project": "tests", "run_name": "one"}}
RECIPE = {
    "name": "demo",
    "seed": 3,
    "data": {"name": "digits", "root": "here", "augment": ["flip"], "train_limit": None},
    "strategies": [{"name": "magnitude", "sparsity": 0.8, "regrow": True, "during": []}],
    "logging": {"every": "1%"},
}


@pytest.mark.filterwarnings("ignore")  # packages of others
@pytest.mark.parametrize("name", LOGGERS.names())
def test_what_is_built_in_keeps_the_contract(name):
    check_logger(LOGGERS.load(name), SETTINGS[name])


def opened(name, folder, resume_step=None, **settings):
    run = folder / "runs" / "demo" / "20260101T000000Z-0"
    run.mkdir(parents=True, exist_ok=True)
    logger = LOGGERS.create(LOGGERS.parse({"name": name, **settings}))
    logger.open(LoggedRun(run, RECIPE, resume_step))
    return logger, run


def test_the_settings_of_a_run_are_flat_and_have_their_types(tmp_path):
    assert LoggedRun(tmp_path, RECIPE).settings() == {
        "name": "demo",
        "seed": 3,
        "data.name": "digits",
        "data.root": "here",
        "data.augment.0": "flip",
        "strategies.0.name": "magnitude",
        "strategies.0.sparsity": 0.8,
        "strategies.0.regrow": True,
        "logging.every": "1%",
    }


# ---- csv


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
TAGS = st.sampled_from(["a/b", "c,d", "e"])
CALLS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.dictionaries(st.sampled_from(["a/b", "c,d", "e"]), NUMBERS, min_size=1),
    ),
    max_size=12,
)


@given(calls=CALLS, cut=st.integers(-1, 12))
def test_csv_has_what_was_logged_also_after_a_resume(tmp_path_factory, calls, cut):
    folder = tmp_path_factory.mktemp("csv")
    step, told = 0, []
    for advance, values in calls:
        step += advance
        told.append((step, values))
    logger, run = opened("csv", folder)
    for at, values in told:
        logger.scalars(at, values)
    if cut % 2:  # else the process was killed: nothing is closed
        logger.close()
    again, _ = opened("csv", folder, resume_step=cut)
    expected = {}
    for at, values in told:
        if at <= cut:
            expected.setdefault(at, {}).update(values)
    for at, values in told:
        if at > cut:
            again.scalars(at, values)
            expected.setdefault(at, {}).update(values)
    again.close()
    logger.close()
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        int(row["step"]): {k: float(v) for k, v in row.items() if k != "step" and v != ""}
        for row in rows
    }
    assert len(found) == len(rows)
    assert repr(found) == repr({k: {c: v[c] for c in found[k]} for k, v in expected.items()})
    assert {k: set(v) for k, v in expected.items()} == {k: set(v) for k, v in found.items()}


def test_a_row_that_a_full_disk_cut_short_is_dropped(tmp_path):
    logger, run = opened("csv", tmp_path)
    logger.scalars(8, {"a": 1.0, "b": 2.0})
    logger.close()
    with (run / "metrics.csv").open("a") as file:
        file.write("1")  # of step 12
    again, _ = opened("csv", tmp_path, resume_step=10)
    again.scalars(11, {"b": 3.0})
    again.close()
    assert (run / "metrics.csv").read_text() == "step,a,b\n8,1.0,2.0\n11,,3.0\n"


# ---- TensorBoard


def read(run):
    events = EventAccumulator(str(events_dir(run)), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard_finds_a_run_once_beside_the_link_latest(tmp_path):
    logger, run = opened("tensorboard", tmp_path)
    logger.close()
    (run.parent / "latest").symlink_to(run.name)
    assert [*GetLogdirSubdirectories(str(tmp_path / "runs"))] == [str(run.parent / "tb" / run.name)]


def test_a_run_of_before_goes_on_in_its_own_folder(tmp_path):
    own = tmp_path / "runs/demo/20260101T000000Z-0/tb"
    own.mkdir(parents=True)
    logger, _ = opened("tensorboard", tmp_path, resume_step=4)
    logger.close()
    assert len([*own.iterdir()]) == 1


def test_accuracy_and_loss_come_first_among_the_cards(tmp_path):
    logger, run = opened("tensorboard", tmp_path)
    values = {f"density/blocks.{i}.weight": (i + 1) / 8 for i in range(5)}
    values |= {"train/loss": 1.0, "train/accuracy": 0.5, "train/lr": 0.1, "flips/magnitude": 3.0}
    values |= {"eval/test_top1": 0.4, "eval/test_loss": 1.5, "sparsity/achieved": 0.4}
    logger.scalars(7, values)
    logger.close()
    tags = sorted(read(run).Tags()["scalars"])
    assert tags == [
        *("accuracy/test", "accuracy/train", "loss/test", "loss/train"),
        *("masks/density/highest", "masks/density/lowest", "masks/density/median"),
        *("masks/flips/magnitude", "sparsity/achieved", "train/lr"),
    ]
    shown = {tag: read(run).Scalars(tag)[0].value for tag in tags if "density" in tag}
    assert [*shown.values()] == [5 / 8, 1 / 8, 3 / 8]
    assert read(run).Scalars("accuracy/test")[0].step == 7


def test_tags_of_others_are_left_alone():
    for tag in ("probe/eval/x_loss", "strategy/a/train/loss", "tokens/in", "train/loss_scale"):
        assert shown_tag(tag) == tag


def test_the_charts_name_tags_that_there_are(tmp_path):
    from tensorboard.plugins.custom_scalar import layout_pb2

    logger, run = opened("tensorboard", tmp_path)
    logger.close()
    [event] = read(run).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == [*LAYOUT]
    assert layout.category[0].chart[0].multiline.tag == ["accuracy/.*"]
    [series] = layout.category[1].chart[1].margin.series
    assert (series.lower, series.upper) == ("masks/density/lowest", "masks/density/highest")


def sessions(run):
    found = read(run).SummaryMetadata
    start = found(metadata.SESSION_START_INFO_TAG).plugin_data.content
    return metadata.parse_session_start_info_plugin_data(start)


def test_hparams_have_their_types_and_no_paths(tmp_path):
    logger, run = opened("tensorboard", tmp_path)
    logger.close()
    start = sessions(run)
    kinds = {key: value.WhichOneof("kind") for key, value in start.hparams.items()}
    assert kinds == {
        "seed": "number_value",
        "data.name": "string_value",
        "data.augment.0": "string_value",
        "strategies.0.name": "string_value",
        "strategies.0.sparsity": "number_value",
        "strategies.0.regrow": "bool_value",
    }


def rows_of_hparams(folder):
    """What the page HParams is made of, by its own code: (run, accuracy) of each row."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import (
        api_pb2,
        backend_context,
        get_experiment,
        list_session_groups,
    )

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    context = RequestContext()
    asked = api_pb2.GetExperimentRequest(include_metrics=True)
    experiment = get_experiment.Handler(context, backend, "", asked).run()
    tag = api_pb2.MetricName(tag="accuracy/test")
    assert tag in [info.name for info in experiment.metric_infos]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN], slice_size=10
    )
    request.col_params.add(metric=tag, order=api_pb2.ORDER_DESC)
    found = list_session_groups.Handler(context, backend, "", request).run()
    return {
        group.name: (group.hparams["strategies.0.sparsity"].number_value, value.value)
        for group in found.session_groups
        for value in group.metric_values
        if value.name == tag
    }


def test_a_run_is_one_row_of_hparams_with_its_final_accuracy(tmp_path):
    for number, resumes in enumerate([[None], [None, 5]]):
        run = tmp_path / f"demo/2026-{number}"
        run.mkdir(parents=True)
        for resume_step in resumes:
            recipe = {**RECIPE, "strategies": [{"name": "magnitude", "sparsity": number / 2}]}
            logger = LOGGERS.create(LOGGERS.parse("tensorboard"))
            logger.open(LoggedRun(run, recipe, resume_step))
            logger.scalars((resume_step or 0) + 1, {"eval/test_top1": 0.25})
        logger.scalars(9, {"eval/test_top1": 0.5 + number / 8})
        (run / "metrics.jsonl").touch()
        logger.finish({})
        logger.close()
    assert rows_of_hparams(tmp_path) == {
        "demo/tb/2026-0": (0.0, 0.5),
        "demo/tb/2026-1": (0.5, 0.625),
    }


def test_the_densities_of_all_layers_are_one_picture(tmp_path):
    logger, run = opened("tensorboard", tmp_path)
    lines = [
        {"step": step, **{f"density/layer.{i}.weight": 1 - step * i / 1000 for i in range(71)}}
        for step in (0, 5, 10)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    logger.finish({})
    logger.close()
    [event] = read(run).Images("masks/density_by_layer")
    assert event.height == 14 * 73


# ---- W&B


def records(folder):
    """What an offline run holds: protobufs in the chunks of a LevelDB log, behind a header."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.rglob("*.wandb")
    data, place, found, begun = file.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        size, kind = struct.unpack("<4xHB", data[place : place + 7])
        begun += data[place + 7 : place + 7 + size]
        place += 7 + size
        if 32768 - place % 32768 < 7:  # no chunk begins there
            place += 32768 - place % 32768
        if kind in (1, 4):  # the whole, or its last part
            found.append(wandb_internal_pb2.Record.FromString(begun))
            begun = b""
    return found


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_has_recipe_scalars_and_summary(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # whoever would call home cannot
    logger, run = opened("wandb", tmp_path, project="p", run_name="n")
    logger.scalars(1, {"train/loss": 2.5, "train/lr": 0.1})
    logger.scalars(2, {"train/loss": math.nan})
    logger.image(2, "tokens/merged", np.zeros((4, 4, 3), np.uint8))
    logger.finish({"accuracy": {"test_top1": 0.75}, "environment": {"cwd": "secret"}})
    logger.close()
    assert not any(path.is_symlink() for path in run.rglob("*"))
    for _ in range(300):  # its process closes the file a moment after it says that it is done
        found = records(tmp_path)
        if any(one.HasField("exit") for one in found):
            break
        time.sleep(0.1)
    [begun] = [one.run for one in found if one.HasField("run")]
    assert (begun.project, begun.display_name, begun.run_group) == ("p", "n", f"demo-{run.name}")
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["strategies"][0]["sparsity"] == 0.8
    logged = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in one.history.item}
        for one in found
        if one.HasField("history")
    ]
    assert json.loads(logged[0]["train/loss"]) == 2.5
    assert [json.loads(row["_step"]) for row in logged] == [1, 2]
    text = str([one.summary for one in found if one.HasField("summary")])
    assert "0.75" in text
    assert "secret" not in text


@pytest.mark.filterwarnings("ignore")
def test_wandb_online_without_a_key_says_so_and_asks_nothing(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Exception, match="no API key"):
        opened("wandb", tmp_path, mode="online")


def test_a_logger_without_its_package_is_refused_with_its_key(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = recipe_from(
        {
            "name": "demo",
            "data": "digits",
            "model": "mlp",
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "phases": [{"name": "train", "length": "1ep"}],
            "loggers": ["csv", "wandb"],
        }
    )
    with pytest.raises(RecipeError, match=r"^loggers\.1: needs the package wandb: pip install"):
        check_loggers(recipe)
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "wandb.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"^loggers\.1: .* cannot be imported: .* half of it"):
        check_loggers(recipe)


# ---- the kit


class Good(Logger):
    class Config(LOGGERS.config_class("csv").__mro__[1]):
        name: str = "good"

    def open(self, run):
        self.run = run

    def scalars(self, step, values):
        pass


class Links(Good):
    def open(self, run):
        (run.path / "newest").unlink(missing_ok=True)
        (run.path / "newest").symlink_to(run.path)


class Draws(Good):
    def scalars(self, step, values):
        np.random.random()  # noqa: NPY002 - what must not be


class Strict(Good):
    def scalars(self, step, values):
        if not all(map(math.isfinite, values.values())):
            raise ValueError("nan")


class Writes(Good):
    def image(self, step, tag, pixels):
        pixels[0] = 0


def test_the_kit_passes_what_is_good():
    check_logger(Good, {})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Links, "newest is a link"),
        (Draws, "draws from the global generators"),
        (Strict, r"logger 'strict' \(Strict\): scalars raised ValueError: nan"),
        (Writes, "image raised ValueError: assignment destination is read-only"),
    ],
)
def test_the_kit_catches(cls, message):
    with pytest.raises(ConformanceError, match=message):
        check_logger(cls, {})


# ---- the pages


def test_the_logger_of_the_docs_for_mlflow_tells_its_server_all(monkeypatch):
    """By a client that takes what MLflow's takes: names without `#`, one number at a time."""
    page = (ROOT / "docs/loggers.md").read_text()
    [code] = re.findall(r"<!-- file: mlflow_logger\.py -->\n```python\n(.*?)```", page, re.S)
    told = []

    class Client:
        def create_run(self, experiment_id, tags):
            told.append(("run", experiment_id, tags["mlflow.runName"].split()[0]))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def log_param(self, run_id, key, value):
            told.append(("param", run_id, key, value))

        def log_metric(self, run_id, key, value, step):
            assert re.fullmatch(r"[\w\-. /:]+", key)
            told.append(("metric", run_id, key, step))

        def set_terminated(self, run_id):
            told.append(("end", run_id))

    fake = ModuleType("mlflow")
    fake.MlflowClient = Client
    fake.set_experiment = lambda name: SimpleNamespace(experiment_id=f"of {name}")
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    space = {"__name__": "mlflow_logger"}
    exec(compile(code, "mlflow_logger", "exec"), space)  # noqa: S102 - our own docs
    check_logger(space["MLflow"], {"name": "mlflow", "experiment": "mine"})
    assert told[0] == ("run", "of mine", "logged")
    assert ("param", "r1", "strategies.0.sparsity", 0.8) in told
    assert ("metric", "r1", "train/loss", 0) in told
    assert told[-1] == ("end", "r1")
    assert len(code.splitlines()) < 30


def test_each_logger_has_its_row_in_the_docs():
    page = (ROOT / "docs/loggers.md").read_text()
    assert [name for name in LOGGERS.names() if f"\n| `{name}`" not in page] == []


# ---- what people have


def test_loggers_make_no_other_experiment_and_no_other_cell():
    plain = load_recipe("quickstart")
    for words in ("[]", "[csv, tensorboard]", "[{name: wandb, project: mine}]"):
        other = load_recipe("quickstart", [f"loggers={words}"])
        assert other != plain
        assert recipe_hash(other) == recipe_hash(plain)
        assert cell_key(other) == cell_key(plain)


def test_a_recipe_of_before_logs_to_tensorboard(tmp_path):
    recipe = load_recipe("quickstart")
    assert [one.name for one in recipe.loggers] == ["tensorboard"]
    written = dump_yaml(recipe)
    assert recipe_from_text(written) == recipe
    old = re.sub(r"^loggers:\n(?:- .*\n)+", "", written, flags=re.M)
    assert old != written
    (tmp_path / "resolved.yaml").write_text(old)
    assert read_written_out(tmp_path / "resolved.yaml").loggers == recipe.loggers
    with pytest.raises(RecipeError, match=r"no logger is called 'tensorbord'.*Did you mean"):
        load_recipe("quickstart", ["loggers=[tensorbord]"])
