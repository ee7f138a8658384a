"""A compressor that learns, and what it adds to the loss: in runs, and in loops of others."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from prunekit import Pruner, RecipeError, auxiliary_losses, load_model, open_run, strategy, use_code
from prunekit.compressors.auxiliary import with_a_loss
from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.errors import DivergedError, PluginError
from prunekit.foundation.parameters import Scope
from prunekit.registry.configs import CompressorConfig
from prunekit.train.build import build
from prunekit.train.distributed import ProcessGroup
from prunekit.train.launch import resume_run
from prunekit.train.passes import Passes
from prunekit.train.precision import Precision
from tests.support import training as small
from tests.support.ranks import TwoRanks

CODE = """
from prunekit import CompressorConfig, DataCompressor, TokenBatch
from torch import cat, nn

class Merger(DataCompressor):
    class Config(CompressorConfig):
        width: int = 8
        left: int = 3
        weight: float = 0.5

    adds_loss, conserves_mass = True, False

    def __init__(self, config):
        super().__init__(config)
        self.queries = nn.Linear(config.width, config.left, bias=False)

    def output_tokens(self, n):
        return min(n, self.config.left)

    def forward(self, tokens):
        x, size, first = tokens
        share = self.queries(x[:, first:]).mT.float().softmax(-1)
        self.add_loss(self.config.weight * share.square().sum(-1).mean())
        merged, sizes = share.to(x.dtype) @ x[:, first:], share @ size[:, first:]
        return TokenBatch(cat([x[:, :first], merged], 1), cat([size[:, :first], sizes], 1), first)
"""
SLOT = "blocks.0"
VIT = {"name": "vit", "patch_size": 2, "depth": 1, "embed_dim": 8, "heads": 2}
LEARNED = {
    "model": VIT,
    "compressors": [{"name": "Merger", "slot": SLOT}],
    "strategies": [],
    "phases": [{"name": "train", "length": "12st"}],
    "evaluate": {"every": "100%"},
}
NOT_FINITE = r"^compressor 'Merger' \(.*Merger\): its add_loss is not finite at step 0, and all "
TAG = "compressor/Merger/loss"
WEIGHT = "blocks.0.compressor.queries.weight"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "merger.py"
    path.write_text(CODE)
    return path


def run(code: Path, out: Path, **changes: object) -> Path:
    with use_code(code):
        return small.run(out, **(LEARNED | changes))


@pytest.fixture(scope="module")
def done(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pruned = [{"name": "magnitude", "sparsity": 0.5, "cadence": {"every": "3st"}}]
    changes = {"strategies": pruned, "ema": {"decay": 0.5}, "data": MICRO}
    return run(code, tmp_path_factory.mktemp("runs"), **changes)


MICRO = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100} | {
    "micro_batch": 24
}


def test_gradients_are_those_of_the_mean_over_the_whole_batch(code: Path) -> None:
    """Three micro-batches of 24, 24 and 16 against one plain pass over all 64."""
    with use_code(code):
        made = build(
            small.recipe(**LEARNED | {"data": MICRO}), ProcessGroup(0, 1, torch.device("cpu"))
        )
    passes = Passes(made, Precision("fp32", torch.device("cpu")))
    sums = passes.gradients(0)
    found = {name: param.grad.clone() for name, param in made.model.named_parameters()}
    x, y = (torch.cat(part) for part in zip(*made.data.micro_batches(0), strict=True))
    made.model.zero_grad()
    loss = F.cross_entropy(made.model(x), y)
    (term,) = auxiliary_losses(made.model).values()
    (loss + term).backward()
    for name, param in made.model.named_parameters():
        assert_close(found[name], param.grad, msg=name)
    assert found[WEIGHT].any()
    assert sums[[0, 3]].tolist() == pytest.approx([loss.item(), term.item()], rel=1e-5)


def test_a_run_trains_keeps_and_logs_it(code: Path, done: Path, tmp_path: Path) -> None:
    opened = open_run(done)
    terms = [value for _, value in opened.series(TAG)]
    assert len(terms) == 6
    assert all(0.5 / 16 <= term <= 0.5 for term in terms)  # 16 patches: 1/16 .. 1 times 0.5
    assert WEIGHT not in opened.masks()
    assert "blocks.0.mlp.fc1.weight" in opened.masks()
    model = load_model(done, code=code)
    assert torch.equal(model.get_parameter(WEIGHT), opened.final_weights()[WEIGHT])
    stopped = small.rewound(done, 10, tmp_path / "stopped")
    with use_code(code):
        resume_run(stopped)
    assert small.same(small.result(done), small.result(stopped))
    assert small.curve(stopped) == small.curve(done)


def test_a_run_that_starts_from_another_takes_it_along(
    code: Path, done: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    length = [{"name": "train", "length": "0st"}]
    kept = run(code, tmp_path / "kept", model=VIT | {"init": str(done)}, phases=length)
    found = open_run(kept).final_weights()[WEIGHT]
    assert torch.equal(found, open_run(done).final_weights()[WEIGHT])
    other = [{"name": "Merger", "slot": SLOT, "left": 2}]
    fresh = run(
        code, tmp_path / "2", model=VIT | {"init": str(done)}, phases=length, compressors=other
    )
    assert open_run(fresh).final_weights()[WEIGHT].shape == (2, 8)
    assert "blocks.0.compressor is not in it as it is here: starts fresh" in caplog.text
    without = run(
        code, tmp_path / "3", model=VIT | {"init": str(done)}, phases=length, compressors=[]
    )
    assert WEIGHT not in open_run(without).final_weights()


def test_half_precision_adds_the_same_term(code: Path, tmp_path: Path) -> None:
    short = [{"name": "train", "length": "4st"}]
    first, half = (
        open_run(run(code, tmp_path / name, precision=name, phases=short)).series(TAG)
        for name in ("fp32", "fp16")
    )
    assert [v for _, v in half] == pytest.approx([v for _, v in first], rel=1e-2)


@pytest.mark.ddp
def test_two_processes_add_what_one_adds(code: Path, two_ranks: TwoRanks, tmp_path: Path) -> None:
    both = two_ranks(run, code, tmp_path / "two")
    alone = run(code, tmp_path / "one")
    found, expected = (small.curve(each) for each in (both, alone))
    for key in (TAG, "train/loss"):
        assert [m[key] for m in found if key in m] == pytest.approx(
            [m[key] for m in expected if key in m], rel=1e-3
        )


# --- the hook itself


class Costs(DataCompressor):
    """Removes nothing, and adds what it holds."""

    class Config(CompressorConfig):
        name: str = "costs"

    adds_loss = True

    def __init__(self, config: CompressorConfig, term: object = None) -> None:
        super().__init__(config)
        self.linear = nn.Linear(2, 2)
        self.term = term

    def output_tokens(self, n: int) -> int:
        return n

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        term = self.linear.weight.sum() if self.term is None else self.term
        self.add_loss(term)  # type: ignore[arg-type]
        return tokens


TOKENS = TokenBatch(torch.zeros(1, 2, 2), torch.ones(1, 2, 1), 0)


def test_a_term_is_taken_once_and_only_in_training() -> None:
    costs = Costs(Costs.Config())
    model = nn.Sequential(costs)
    assert auxiliary_losses(model) == {}
    model(TOKENS)
    assert auxiliary_losses(model)["costs"] == costs.linear.weight.sum()
    assert auxiliary_losses(model) == {}
    model.eval()(TOKENS)
    assert auxiliary_losses(model) == {}


def test_labels_tell_compressors_of_one_name_apart() -> None:
    with_place = {
        "a": Costs(Costs.Config()),
        "b": nn.ModuleDict({"compressor": Costs(Costs.Config())}),
    }
    assert [*with_a_loss(nn.ModuleDict(with_place))] == ["costs#a", "costs#b"]


@pytest.mark.parametrize(
    ("term", "told"),
    [
        (1.0, "was given a float, not a tensor"),
        (torch.ones(2), r"was given float32 \[2\], where one number is wanted"),
        (torch.ones((), dtype=torch.int64), r"was given int64 \[\], where one number"),
        (torch.ones(()), "depends on nothing that learns"),
    ],
)
def test_what_is_no_term_is_told_with_its_compressor(term: object, told: str) -> None:
    model = nn.Sequential(Costs(Costs.Config(), term))
    model(TOKENS)
    with pytest.raises(PluginError, match=rf"compressor 'costs' \(.*Costs\): .*{told}"):
        auxiliary_losses(model)


def test_a_loop_that_leaves_a_term_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(2, 2), Costs(Costs.Config()))
    pruner = Pruner(
        model, [strategy("magnitude", sparsity=0.5, schedule="constant")], total_steps=2
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner.attach(optimizer)
    for takes in (True, False):
        loss = model[0](torch.ones(1, 2)).sum()
        model[1](TOKENS)
        if takes:
            loss = loss + sum(auxiliary_losses(model).values())
        loss.backward()
        pruner.before_step()
        assert ("the compressor costs adds a term" in caplog.text) is not takes
        optimizer.step()
        pruner.after_step()
    assert [*pruner.masks()] == ["0.weight"]


def test_a_checkpoint_that_computes_again_leaves_no_second_term() -> None:
    first, costs = nn.Linear(2, 2), Costs(Costs.Config())

    def block(x: Tensor) -> Tensor:
        costs(TokenBatch(x, torch.ones(1, 2, 1), 0))
        return x.sin()

    for reentrant in (False, True):
        out = checkpoint(block, first(torch.ones(1, 2, 2)), use_reentrant=reentrant).sum()
        if reentrant:
            with pytest.raises(PluginError, match="use_reentrant=True: set that to False"):
                auxiliary_losses(costs)
            return
        torch.autograd.backward(out + sum(auxiliary_losses(costs).values()))
        assert auxiliary_losses(costs) == {}
        assert torch.equal(costs.linear.weight.grad, torch.ones(2, 2))


def test_only_a_pattern_prunes_the_parameters_of_a_compressor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Costs(Costs.Config()))
    assert Scope().select(model) == ("0.weight",)
    assert Scope().select(model, ["*.weight"]) == ("0.weight",)
    assert Scope(include=("*.weight",)).select(model) == ("0.weight", "1.linear.weight")
    assert Scope().explain(model, "1.linear.weight") == "out: of a compressor"
    with pytest.raises(RecipeError, match="no parameter is left"):
        Scope().select(nn.Sequential(Costs(Costs.Config())))


def test_a_term_that_is_not_finite_is_told_with_its_compressor(code: Path, tmp_path: Path) -> None:
    """1e39 is no number of float32."""
    merger = LEARNED["compressors"][0] | {"weight": 1e39}
    with pytest.raises(DivergedError, match=NOT_FINITE):
        run(code, tmp_path, compressors=[merger])
