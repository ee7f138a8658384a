"""The benchmark runs and says what it compares; how fast anything is depends on the machine."""

import json
from itertools import pairwise

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, strategies as st

from prunekit.bench import measure as rounds
from prunekit.bench.deploy import SECTIONS as DEPLOY
from prunekit.bench.deploy_cases import QUICK, smallest
from prunekit.bench.masks import SECTIONS
from prunekit.bench.measure import AGAIN, Measured, Row, Section, Timed, in_bytes, in_turn
from prunekit.bench.memory import live_bytes
from prunekit.bench.plain_tokens import plain_merge
from prunekit.bench.probes import WORKLOADS
from prunekit.bench.startup import bench_startup
from prunekit.bench.tokens import LIMIT, SECTIONS as TOKENS
from prunekit.cli.app import cli
from prunekit.cli.bench import MEASURES, PARTS
from prunekit.cli.common import Options
from prunekit.errors import UsageError
from prunekit.registry.installed import import_object

GOALS = {
    "threshold": {"cold, from a sample": "<= 0.06 x", "warm, from the last": "<= 0.045 x"},
    "update, ste": {
        "of a pruned model": "",
        "same target": "<= 0.05 x",
        "rising target": "<= 0.05 x",
    },
    "update, hard": {"same target": "<= 0.05 x"},
    "logged, ste": {"update and log": "<= 1.4 x"},
    "logged, hard": {"update and log": "<= 1.4 x"},
    "overhead": {"dense": "", "hard": "<= 1.3 x", "ste": "<= 1.4 x"},
    "step": {"hard": "", "ste": "", "torch.nn.utils.prune": ""},
    "memory": {
        "held, hard": "<= +4 B",
        "held, ste": "<= +8 B",
        "held, torch.nn.utils.prune": "",
        "search, at its peak": "<= 0.5 B",
    },
    "eval": {"hard": "<= 1.02 x", "ste": "<= 1.02 x", "torch.nn.utils.prune": ""},
}


def bench(*args):
    done = CliRunner().invoke(cli, ["bench", "masks", "--quick", *args], obj=Options())
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def document():
    return json.loads(bench("--json"))


@pytest.mark.slow
def test_every_part_has_its_rows_with_baseline_ratio_and_goal(document):
    assert tuple(SECTIONS) == PARTS["masks"]
    assert [section["name"] for section in document["sections"]] == list(GOALS)
    for section in document["sections"]:
        rows = {row["what"]: row for row in section["rows"]}
        null = rows.pop(AGAIN, None)
        assert (null is None) == (section["null"] is None) == (section["name"] == "memory")
        assert section["baseline"]
        assert {what: row["goal"] for what, row in rows.items()} == GOALS[section["name"]]
        for row in rows.values():
            assert row["ours"] >= 0 or section["name"] == "overhead"  # a difference of times
            assert row["baseline"] >= 0
            assert row["verdict"] == ("not judged" if row["goal"] else "")
            if row["interval"]:
                low, high = row["interval"]
                assert low <= row["ratio"] <= high


@pytest.mark.slow
def test_the_document_says_what_the_numbers_depend_on(document):
    assert document["schema_version"] == 1
    assert document["quick"] is True
    assert document["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert document["environment"]["threads"] == 1


@pytest.mark.slow
def test_held_memory_is_counted_to_the_byte(document):
    rows = {row["what"]: row for row in document["sections"][7]["rows"]}
    over = {what: row["ours"] - row["baseline"] for what, row in rows.items() if "held" in what}
    assert over["held, hard"] == pytest.approx(4)
    assert over["held, ste"] == pytest.approx(8)
    assert over["held, torch.nn.utils.prune"] == pytest.approx(12)


def test_the_table_shows_all_rows_and_the_null():
    text = bench("--only", "eval, threshold")
    assert text.index("eval: ") < text.index("threshold: ")
    for part in ("eval", "threshold"):
        assert all(what in text for what in GOALS[part])
    assert text.count(AGAIN) == text.count("1 % of itself") == 2
    assert "quick: too small to judge any goal" in text
    assert "update: " not in text


def test_threads_are_as_before():
    threads = torch.get_num_threads()
    bench("--only", "threshold")
    assert torch.get_num_threads() == threads


def test_the_cost_of_probes_is_beside_training_without_one():
    done = CliRunner().invoke(cli, ["bench", "probes", "--quick", "--json"], obj=Options())
    assert done.exit_code == 0, done.output
    sections = json.loads(done.stdout)["sections"]
    assert tuple(section["name"] for section in sections) == tuple(WORKLOADS) == PARTS["probes"]
    for section in sections:
        goals = {row["what"]: row["goal"] for row in section["rows"]}
        probes = {"every 50 steps": "", "with means": ""}
        assert goals == {AGAIN: "", "the record alone": "<= 0.02 x", **probes}


def deploy(*args):
    done = CliRunner().invoke(cli, ["bench", "deploy", "--quick", "--json", *args], obj=Options())
    assert done.exit_code == 0, done.output
    return {section["name"]: section for section in json.loads(done.stdout)["sections"]}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["heads", "channels"])
def test_smaller_models_are_held_to_their_multiply_adds_at_batch_1(part):
    assert tuple(DEPLOY) == PARTS["deploy"]
    sections = deploy("--only", part)
    for runtime, slack in (("torch", 0.10), ("onnxruntime", 0.05)):
        rows = sections[f"{part}: {runtime}, batch 1"]["rows"]
        assert rows[0]["what"] == AGAIN
        for row in rows[1:]:
            assert 0 < row["macs"] < 1
            aligned = part == "heads" or "multiples of 16" in row["what"]
            goal = f"<= {round(1.15 * row['macs'] + slack, 3):g} x" if aligned else ""
            assert (row["goal"], row["verdict"]) == (goal, "not judged" if aligned else "")
        assert not any(row["goal"] for row in sections[f"{part}: {runtime}, batch 8"]["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["exporting", "zeros", "tokens", "quantised", "runtimes"])
def test_a_part_of_deployment_has_its_sections(part):
    sections = deploy("--only", part)
    assert {name.partition(":")[0].partition(",")[0] for name in sections} == {part}
    for section in sections.values():
        assert all(row["ours"] > 0 and row["baseline"] > 0 for row in section["rows"])
        if part == "zeros":
            assert {row["macs"] for row in section["rows"][1:]} == {1.0}
        if part == "quantised":
            assert "zeros in the matrices" in section["notes"][0]


def test_files_shrink_with_their_zeros():
    rows = {row["what"]: row for row in deploy("--only", "sizes")["sizes"]["rows"]}
    packed = [rows[f"{share} % zeros, packed"]["ratio"] for share in (0, 50, 80, 90, 95, 98)]
    assert packed[0] == 1.0
    assert packed == sorted(packed, reverse=True)
    assert packed[-1] < 0.3


def test_smaller_models_are_those_that_removal_leaves():
    full, half = QUICK.vit(), QUICK.vit(heads=1, hidden=64)
    shapes = {name: tuple(p.shape) for name, p in half.named_parameters()}
    assert shapes["blocks.0.attn.qkv.weight"] == (48, 32)
    assert shapes["blocks.0.attn.proj.weight"] == (32, 16)
    assert shapes["blocks.0.mlp.fc2.weight"] == (32, 64)
    images = QUICK.images(2)
    # the units that are removed give nothing: the smaller model computes the same
    with torch.no_grad():
        state = full.state_dict()
        for name, small in half.state_dict().items():
            big, kept = state[name], small.shape
            if "qkv" in name:
                small.copy_(torch.cat([big[o : o + 16] for o in (0, 32, 64)]))
            else:
                small.copy_(big[tuple(slice(length) for length in kept)])
        full.blocks[0].attn.proj.weight[:, 16:] = 0
        full.blocks[0].mlp.fc2.weight[:, 64:] = 0
        torch.testing.assert_close(half(images), full(images))


@pytest.mark.parametrize(("keep", "multiple", "widths"), [
    (0.7, 1, [45, 90, 179, 358]), (0.7, 16, [48, 96, 176, 352]), (0.3, 16, [16, 32, 80, 160]),
])  # fmt: skip
def test_channels_are_rounded_to_the_nearest_multiple(keep, multiple, widths):
    model = QUICK.resnet18(keep, multiple)
    found = {m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d)}
    assert sorted(found) == widths
    assert model(QUICK.images(1)).shape == (1, 10)


@given(st.integers(1, 60), st.floats(0, 1))
def test_the_smallest_weights_are_those_nearest_to_zero(entries, share):
    weight = torch.randn(entries, 1, generator=torch.Generator().manual_seed(entries))
    chosen = smallest(weight, share)
    assert int(chosen.sum()) == round(share * entries)
    if 0 < int(chosen.sum()) < entries:
        assert weight[chosen].abs().max() <= weight[~chosen].abs().min()


def test_deployment_without_the_extra_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["bench", "deploy", "--quick"], obj=Options())
    assert str(done.exception).startswith("bench deploy needs onnx, onnxscript, onnxruntime")


def test_an_unknown_part_is_refused_with_the_nearest():
    done = CliRunner().invoke(cli, ["bench", "masks", "--only", "step,evla"], obj=Options())
    assert "no part 'evla'. Did you mean 'eval'?" in str(done.exception)


def measured(base, again, ours):
    return Measured({"dense": base, AGAIN: again, "ours": ours}, "dense")


@pytest.mark.parametrize(
    ("again", "ours", "verdict"),
    [
        (1.001, 1.01, "met"),
        (1.001, 1.03, "not met"),
        (1.02, 1.01, "below the null"),
        (0.97, 1.03, "below the null"),
    ],
)
def test_a_goal_is_judged_only_where_the_baseline_is_closer_to_itself(again, ours, verdict):
    timed = Timed(measured([1.0] * 9, [again] * 9, [ours] * 9), judged=True)
    null, row = timed.rows({"ours": 1.02})
    assert (null.verdict, row.verdict) == ("", verdict)


def test_a_goal_inside_the_interval_is_undecided():
    ours = [1.0, 1.01, 1.012, 1.015, 1.018, 1.03, 1.04, 1.05, 1.06]
    rows = Timed(measured([1.0] * 9, [1.0] * 9, ours), judged=True).rows({"ours": 1.02})
    assert rows[1].verdict == "undecided"
    assert rows[1].interval == (1.01, 1.05)


def test_ratios_are_of_the_same_round():
    slow = [1.0, 10.0, 2.0, 7.0]
    ratio = measured(slow, slow, [x / 2 for x in slow]).ratio("ours")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


def test_variants_take_turns_until_the_baseline_equals_itself():
    order = []

    def variant(name, seconds):
        def run():
            order.append(name)
            return next(seconds)

        return run

    restless, calm = iter([1.0, 2.0] + [1.0] * 20), iter([1.0] * 22)
    result = in_turn({"dense": variant("d", calm), AGAIN: variant("a", restless)}, 1, 50)
    assert all(order[i] != order[i + 1] for i in range(0, len(order), 2))
    assert 1 < result.rounds < 20
    assert result.null.error <= rounds.CALM


def test_no_variant_comes_behind_itself_more_often_than_others():
    order = []
    variants = {name: lambda name=name: order.append(name) or 1.0 for name in ("d", AGAIN, "x")}
    in_turn(variants, 300, 300)
    turns = [order[i : i + 3] for i in range(3, len(order), 3)]
    assert all(len({*turn}) == 3 for turn in turns)
    twice = [a[-1] for a, b in pairwise(turns) if a[-1] == b[0]]
    assert all(20 <= twice.count(name) <= 50 for name in variants)


def test_a_restless_machine_ends_after_the_last_round():
    seconds = iter(range(1, 1000))
    run = lambda: float(next(seconds))  # noqa: E731
    assert in_turn({"dense": run, AGAIN: run}, 2, 6).rounds == 6


def test_a_goal_in_bytes_is_on_the_excess_or_on_the_whole():
    over = in_bytes("held", 20.0, 16.0, 4, over=True, judged=True)
    whole = in_bytes("search", 0.6, 16.0, 0.5, over=False, judged=True)
    assert (over.verdict, over.ratio, over.goal) == ("met", 1.25, "<= +4 B")
    assert (whole.verdict, whole.goal) == ("not met", "<= 0.5 B")


def test_live_bytes_counts_shared_storage_once_and_gradients_too():
    before = live_bytes()
    weight = torch.zeros(1000, requires_grad=True)
    views = [weight.detach(), weight[:10]]
    weight.sum().backward()
    assert live_bytes() - before == 8000
    del views


@pytest.mark.parametrize(
    ("words", "what"),
    [(["data"], "bench data"), (["masks", "--only", "memory"], "bench masks --only memory")],
)
def test_what_is_measured_on_the_cpu_alone_takes_no_device(words, what, monkeypatch):
    monkeypatch.setattr(
        "prunekit.foundation.devices.choose_device", lambda name: torch.device(name)
    )
    done = CliRunner().invoke(cli, ["bench", *words, "--device", "cuda"])
    assert (
        str(done.exception) == f"--device: {what} is measured on the CPU alone: leave --device out"
    )


SUBJECTS = {
    "tokens": {
        "merge, N=17": {"tome": "<= 0.35 x", "tome, the same tokens": "", LIMIT: ""},
        "rounds, N=17": {
            "ratio 0.6: 2 rounds": "<= 1.3 x",
            "ratio 0.8: 3 rounds": "<= 1.3 x",
            "the limit of one": "",
            "the limit of 2": "",
            "the limit of 3": "",
        },
        "block, N=17": {"tome": ""},
        "step, ratio 0.2": {"merged": "<= 1.01 x", "dense": ""},
        "step, ratio 0.4": {"merged": "<= 1.01 x", "dense": ""},
        "step, ratio 0.6": {"merged": "<= 1.02 x", "dense": ""},
        "step, ratio 0.8": {"merged": "<= 1.031 x", "dense": ""},
    },
    "train": {"step": {"trainer": "<= 1.01 x", "trainer, pruning": ""}},
    "data": {
        "memory": {
            "without workers": "",
            "prunekit": "<= 0.02 x",
            "prunekit, opened anew": "",
        }
    },
}


ONLY = {"data": ("--only", "memory")}  # what is read from files has tests of its own


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_has_its_rows_with_null_and_goal(subject):
    done = CliRunner().invoke(
        cli, ["bench", subject, "--quick", "--json", *ONLY.get(subject, ())], obj=Options()
    )
    assert done.exit_code == 0, done.output
    sections = {section["name"]: section for section in json.loads(done.stdout)["sections"]}
    assert list(sections) == list(SUBJECTS[subject])
    for name, section in sections.items():
        goals = {row["what"]: row["goal"] for row in section["rows"]}
        assert goals.pop(AGAIN) == ""
        assert goals == SUBJECTS[subject][name]
        assert section["subject"] == subject
        assert section["null"] is not None


@pytest.mark.slow
def test_start_up_is_that_of_fresh_interpreters():
    (section,) = bench_startup(("commands",), quick=True)
    rows = {row.what: row for row in section.rows}
    assert rows["python alone"].ours < rows["the limit of list"].ours < rows["list"].ours
    assert (rows["--help"].goal, rows["list"].goal) == ("<= 1.8 x", "<= 3 x")


def test_every_subject_has_what_measures_it_and_its_parts():
    assert list(MEASURES) == list(PARTS)
    assert tuple(TOKENS) == PARTS["tokens"]
    for value in MEASURES.values():
        assert callable(import_object(value))


def test_all_takes_every_subject_and_passes_over_what_is_not_installed(monkeypatch):
    asked = {}

    def measurement(subject):
        if subject == "deploy":
            raise UsageError("bench deploy needs onnx: install it")
        return lambda only, *, quick: asked.setdefault(subject, (only, quick)) and iter(())

    monkeypatch.setattr("prunekit.cli.bench.measurement", measurement)
    done = CliRunner().invoke(cli, ["bench", "all", "--quick"], obj=Options())
    assert done.exit_code == 0
    assert asked == {name: (parts, True) for name, parts in PARTS.items() if name != "deploy"}
    assert "skipped: bench deploy needs onnx" in done.stderr
    refused = CliRunner().invoke(cli, ["bench", "all", "--only", "step"], obj=Options())
    assert refused.exit_code == 2


def row_with(verdict):
    return Row("ours", 2.0, 1.0, "ms", 2.0, (1.9, 2.1), "<= 1.5 x", verdict)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [(["met", "not met"], 10), (["met", "undecided", "below the null"], 0), (["not judged"], 0)],
)
def test_check_fails_on_a_missed_goal_alone_and_names_it(verdicts, code, monkeypatch):
    section = Section("step", "a step", "dense", [row_with(verdict) for verdict in verdicts])
    monkeypatch.setattr(
        "prunekit.cli.bench.measurement", lambda subject: lambda only, *, quick: iter([section])
    )
    for words in (["--check"], ["--check", "--json"]):
        done = CliRunner().invoke(cli, ["bench", "train", *words], obj=Options())
        assert done.exit_code == code
        told = [line for line in done.stderr.splitlines() if ": train, step, ours: 2.000" in line]
        assert [line.partition(":")[0] for line in told] == [
            v for v in verdicts if v not in ("met", "not judged")
        ]
        assert f"{verdicts.count('met')} met, {verdicts.count('not met')} not met" in done.stderr
    assert CliRunner().invoke(cli, ["bench", "train"], obj=Options()).exit_code == 0


@given(st.integers(2, 12), st.integers(0, 2**16), st.data())
def test_the_plain_way_is_that_of_the_paper(tokens, seed, data):
    """Against a merge of one token after the other, by the definition."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, tokens, 4, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 4, (1, tokens, 1), generator=generator).double()
    sources, targets = list(range(0, tokens, 2)), list(range(1, tokens, 2))
    removed = data.draw(st.integers(0, len(sources) - 1))
    cosine = torch.nn.functional.cosine_similarity(x[0].unsqueeze(1), x[0].unsqueeze(0), dim=-1)
    pairs = [max((float(cosine[i, j]), i, j) for j in targets) for i in sources[1:]]
    goes = {i: j for _, i, j in sorted(pairs, reverse=True)[:removed]}
    groups = [[i] for i in sources if i not in goes]
    groups += [[j, *(i for i in goes if goes[i] == j)] for j in targets]
    means = [
        sum(size[0, i] * x[0, i] for i in group) / sum(size[0, i] for i in group)
        for group in groups
    ]
    found, expected = (
        sorted(r.tolist() for r in t) for t in (plain_merge(x, size, removed)[0], means)
    )
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
