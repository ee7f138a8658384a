"""Losses against their formulas, written plainly; a teacher that must fit; runs with them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor, nn

from prunekit import (
    Loss,
    LossBatch,
    LossConfig,
    Pruner,
    load_model,
    open_run,
    preprocessing,
    strategy,
)
from prunekit.data import open_dataset
from prunekit.errors import (
    CheckpointError,
    DivergedError,
    PluginError,
    RecipeError,
    UsageError,
)
from prunekit.export.exporting import export_run
from prunekit.models.cost import count_macs, train_flops
from prunekit.models.published import published_classes, published_statistics
from prunekit.models.vit import ViTConfig
from prunekit.recipe.identity import recipe_hash
from prunekit.registry import LOSSES
from prunekit.registry.configs import DataSpec
from prunekit.testing import ConformanceError, LossTrial, check_loss
from prunekit.train.launch import resume_run
from prunekit.train.losses.base import LossSetting
from prunekit.train.losses.bce import BCE
from prunekit.train.losses.cross_entropy import CrossEntropy
from prunekit.train.losses.distill import Distill, soft_distance
from prunekit.train.losses.teacher import _renormalised
from tests.support.ranks import TwoRanks
from tests.support.training import (
    MAGNITUDE,
    by_operators,
    curve,
    recipe,
    result,
    rewound,
    run,
    same,
)

VIT = {"name": "vit", "patch_size": 2, "depth": 2, "embed_dim": 12, "heads": 2}
DISTILLED = VIT | {"distill_token": True}
DATA = {"name": "digits", "batch_size": 64, "train_limit": 256, "test_limit": 100}
SHORT = {"phases": [{"name": "train", "length": "6st"}], "evaluate": {"every": "100%"}}


def made(chosen: str, **more: object) -> Loss:
    loss: Loss = LOSSES.create(LOSSES.parse({"name": chosen, **more}))
    return loss


def value(loss: Loss, logits: Tensor, targets: Tensor) -> float:
    return loss.value(LossBatch(torch.empty(len(logits), 0), logits, targets)).item()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [B, K], classes [B] and shares [B, K] of which each row sums to 1."""
    samples, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    logits = 3 * torch.randn(samples, classes, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    shares = torch.rand(samples, classes, generator=generator)
    return logits, labels, shares / shares.sum(1, keepdim=True)


def rows(shares: Tensor, smoothing: float) -> list[list[float]]:
    classes = shares.shape[1]
    return [[(1 - smoothing) * y + smoothing / classes for y in row] for row in shares.tolist()]


def plain_cross_entropy(logits: Tensor, shares: list[list[float]]) -> float:
    total = 0.0
    for row, wanted in zip(logits.tolist(), shares, strict=True):
        log_sum = math.log(sum(math.exp(z) for z in row))
        total -= sum(y * (z - log_sum) for y, z in zip(wanted, row, strict=True))
    return total / len(shares)


@given(cases(), st.floats(0, 0.9))
def test_cross_entropy_is_the_formula_of_shares_and_of_classes(case, smoothing):
    logits, labels, shares = case
    loss = made("cross_entropy", label_smoothing=smoothing)
    one_hot = torch.eye(logits.shape[1])[labels]
    plain = plain_cross_entropy(logits, rows(one_hot, smoothing))
    assert value(loss, logits, labels) == pytest.approx(plain, rel=1e-4)
    assert value(loss, logits, shares) == pytest.approx(
        plain_cross_entropy(logits, rows(shares, smoothing)), rel=1e-4
    )


def plain_bce(logits: Tensor, shares: list[list[float]]) -> list[list[float]]:
    def one(z: float, y: float) -> float:
        p = 1 / (1 + math.exp(-z))
        return -y * math.log(p) - (1 - y) * math.log(1 - p)

    pairs = zip(logits.tolist(), shares, strict=True)
    return [[one(z, y) for z, y in zip(row, wanted, strict=True)] for row, wanted in pairs]


@given(cases(), st.floats(0, 0.9), st.sampled_from(["mean", "sum"]))
def test_bce_asks_of_each_class_by_itself(case, smoothing, reduction):
    logits, _, shares = case
    terms = plain_bce(logits.double(), rows(shares, smoothing))
    total = sum(map(sum, terms)) / len(terms)
    total = total / logits.shape[1] if reduction == "mean" else total
    loss = made("bce", label_smoothing=smoothing, reduction=reduction)
    assert value(loss, logits, shares) == pytest.approx(total, rel=1e-3)


def test_bce_with_a_threshold_takes_every_class_of_a_mixed_image_as_there():
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    mixed = torch.tensor([[0.7, 0.0, 0.3]])
    both = torch.tensor([[1.0, 0.0, 1.0]])
    assert value(made("bce", threshold=0.0), logits, mixed) == value(made("bce"), logits, both)
    assert value(made("bce", threshold=0.5), logits, mixed) == value(
        made("bce"), logits, torch.tensor([0])
    )


@given(cases(), st.floats(0.5, 8))
def test_the_distance_from_a_teacher_is_the_formula_of_hinton(case, temperature):
    student, _, _ = case
    teacher = student.flip(0) * 0.7 + 0.1
    total = 0.0
    for s, t in zip(
        (student / temperature).tolist(), (teacher / temperature).tolist(), strict=True
    ):
        p = [math.exp(z) / sum(map(math.exp, t)) for z in t]
        q = [math.exp(z) / sum(map(math.exp, s)) for z in s]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = soft_distance(student, teacher, temperature).item()
    assert found == pytest.approx(temperature**2 * total / len(student), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (CrossEntropy, {"label_smoothing": 0.1}),
        (BCE, {"label_smoothing": 0.1, "threshold": 0.05}),
        (BCE, {"reduction": "sum"}),
    ],
)
def test_the_contract_holds(cls, config):
    check_loss(cls, config, examples=20)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Half the data, so that its statistics are others than those of its students."""
    data = DATA | {"train_limit": 128}
    return run(tmp_path_factory.mktemp("teacher"), model=VIT, data=data, strategies=[])


def of(teacher: Path, /, **more: object) -> dict[str, object]:
    return {"name": "distill", "teacher": str(teacher)} | more


def test_a_teacher_is_asked_of_the_images_as_it_was_trained_on_them(teacher, tmp_path):
    """Its logits are those of its own run on the same pixels, though the statistics differ."""
    data = open_dataset(recipe(data=DATA).data, seed=0, device=torch.device("cpu"))
    loss = made("distill", teacher=str(teacher))
    loss.prepare(nn.Identity(), LossSetting(data.spec, data.preprocessing, data.device))
    images, _ = next(data.eval_batches("test"))
    pixels = (images * torch.tensor(data.std[0]) + torch.tensor(data.mean[0])) * 255
    own = preprocessing(teacher)(pixels.round().to(torch.uint8))
    assert own.mean().item() != pytest.approx(images.mean().item(), abs=1e-5)
    wanted = load_model(teacher)(own).detach()
    assert isinstance(loss, Distill)
    assert torch.allclose(loss.teacher.logits(images), wanted, atol=1e-3)


def test_statistics_of_three_channels_by_hand():
    from prunekit.data.preprocessing import Preprocessing
    from prunekit.registry.configs import DataSpec
    from prunekit.train.losses.base import LossSetting

    mine = Preprocessing((10.0, 20.0, 30.0), (2.0, 4.0, 5.0), ("a", "b"), (1, 1))
    setting = LossSetting(DataSpec(3, 1, 1, 2), mine, torch.device("cpu"))
    found = _renormalised(((12.0, 20.0, 20.0), (1.0, 8.0, 5.0)), setting)
    assert found is not None
    scale, shift = found
    pixels = torch.tensor([14.0, 28.0, 40.0]).view(1, 3, 1, 1)
    x = (pixels - torch.tensor(mine.mean).view(1, 3, 1, 1)) / torch.tensor(mine.std).view(
        1, 3, 1, 1
    )
    assert (x * scale + shift).flatten().tolist() == pytest.approx([2.0, 1.0, 4.0])
    assert _renormalised((mine.mean, mine.std), setting) is None


def test_soft_hard_and_tokens_are_the_weighted_sum(teacher):
    """Of the labels' loss and the distance, recomputed from the two models alone."""
    import torch.nn.functional as F

    from prunekit.data import open_dataset
    from prunekit.train.losses.base import LossSetting

    data = open_dataset(recipe(data=DATA).data, seed=0, device=torch.device("cpu"))
    x, y = data.train_batch(0)
    student = load_model(teacher)
    with torch.no_grad():
        for param in student.parameters():
            param.mul_(0.9)

    def loss_of(**more: object) -> float:
        loss = made("distill", teacher=str(teacher), alpha=0.3, **more)
        loss.prepare(student, LossSetting(data.spec, data.preprocessing, data.device))
        found = loss.value(LossBatch(x, student(x), y)).item()
        loss.release()
        return found

    asked = made("distill", teacher=str(teacher))
    asked.prepare(student, LossSetting(data.spec, data.preprocessing, data.device))
    assert isinstance(asked, Distill)
    answer, logits = asked.teacher.logits(x), student(x).detach()
    plain = F.cross_entropy(logits, y).item()
    wrong = F.cross_entropy(logits, answer.argmax(1)).item()
    assert loss_of(labels="hard") == pytest.approx(0.7 * plain + 0.3 * wrong, rel=1e-5)
    soft = soft_distance(logits, answer, 4.0).item()
    assert loss_of(temperature=4.0) == pytest.approx(0.7 * plain + 0.3 * soft, rel=1e-5)

    scale, shift = asked.teacher.renormalised or (torch.ones(1), torch.zeros(1))
    tokens = [
        model.blocks[0](model.embed(images), False).x.detach()
        for model, images in ((student, x), (asked.teacher.model, x * scale + shift))
    ]
    apart = [(t - t.mean(-1, keepdim=True)) / t.std(-1, keepdim=True, correction=0) for t in tokens]
    far = (apart[0] - apart[1]).square().mean().item()
    found = loss_of(of="tokens", layer="blocks.0")
    assert found == pytest.approx(0.7 * plain + 0.3 * far, rel=1e-2)
    units = [t / t.norm(dim=-1, keepdim=True) for t in tokens]
    cosines = [torch.einsum("bnc,bmc->bnm", u, u) for u in units]
    far = (cosines[0] - cosines[1]).square().mean().item()
    found = loss_of(of="relations", layer="blocks.0", teacher_layer="blocks.0")
    assert found == pytest.approx(0.7 * plain + 0.3 * far, rel=1e-3)
    assert not student.blocks[0]._forward_hooks


def test_a_distillation_token_learns_of_the_teacher(teacher):
    from prunekit.data import open_dataset
    from prunekit.train.losses.base import LossSetting

    data = open_dataset(recipe(data=DATA).data, seed=0, device=torch.device("cpu"))
    x, y = data.train_batch(0)
    loss = made("distill", teacher=str(teacher), alpha=1.0)
    loss.prepare(nn.Identity(), LossSetting(data.spec, data.preprocessing, data.device))
    assert isinstance(loss, Distill)
    there, other = loss.teacher.logits(x), torch.randn(len(y), 10)
    assert loss.value(LossBatch(x, other, y, there)).item() == pytest.approx(0, abs=1e-6)
    assert loss.value(LossBatch(x, there, y, other)).item() > 0.1


@pytest.mark.slow
def test_a_model_of_timm_with_such_a_token_gives_both_heads_in_training(tmp_path):
    data = DATA | {"image_size": 32, "batch_size": 8, "train_limit": 16, "test_limit": 10}
    short = {"phases": [{"name": "train", "length": "1st"}], "strategies": [], "data": data}
    there = run(tmp_path, **short, name="there", model={"name": "lenet5"})
    seen: list[bool] = []

    class Watched(Distill):
        class Config(Distill.Config):
            name: Literal["watched"] = "watched"  # type: ignore[assignment]

        def value(self, batch: LossBatch) -> Tensor:
            seen.append(batch.distilled is not None)
            return super().value(batch)

    with LOSSES.temporarily("watched", Watched):
        for name in ("timm:deit_tiny_distilled_patch16_224", "timm:deit_tiny_patch16_224"):
            loss = {"name": "watched", "teacher": str(there)}
            small = {"depth": 1, "embed_dim": 24, "num_heads": 2}
            done = run(tmp_path, **short, model={"name": name, "kwargs": small}, loss=loss)
            assert load_model(done)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert seen == [True, False]


class Kept(Distill):
    """Keeps what it was given, and what it made of it."""

    class Config(Distill.Config):
        name: Literal["kept"] = "kept"  # type: ignore[assignment]

    seen: ClassVar[list[tuple[LossBatch, float]]] = []

    def value(self, batch: LossBatch) -> Tensor:
        found = super().value(batch)
        self.seen.append((batch, found.item()))
        return found


@pytest.fixture
def kept():
    Kept.seen.clear()
    with LOSSES.temporarily("kept", Kept):
        yield Kept.seen


def test_the_class_token_learns_of_the_labels_and_the_other_of_the_teacher(teacher, kept, tmp_path):
    loss = of(teacher, name="kept", temperature=2.0, alpha=0.3)
    each = {**SHORT, "logging": {"every": "1st"}}
    done = run(tmp_path, **each, model=DISTILLED, data=DATA, loss=loss)
    assert len(kept) == 6
    teaches = load_model(teacher).eval()
    for batch, found in kept:
        assert batch.distilled is not None
        assert not torch.equal(batch.distilled, batch.logits)
        given, wanted = (batch.distilled / 2).softmax(-1), (teaches(batch.images) / 2).softmax(-1)
        far = 4 * (wanted * (wanted / given).log()).sum(-1).mean()
        picked = batch.logits.log_softmax(-1)[range(len(batch.targets)), batch.targets]
        assert found == pytest.approx((0.3 * far - 0.7 * picked.mean()).item(), rel=1e-4)
    logged = [m["train/loss"] for m in curve(done) if "train/loss" in m]
    assert logged == pytest.approx([found for _, found in kept], rel=1e-5)


def test_a_finished_model_with_a_distillation_token_gives_the_mean_of_its_heads(teacher, tmp_path):
    done = run(tmp_path, **SHORT, model=DISTILLED, data=DATA, loss=of(teacher))
    model, images = load_model(done).eval(), torch.randn(3, 1, 8, 8)
    tokens: list[Tensor] = []
    model.norm.register_forward_hook(lambda *given: tokens.append(given[-1]))
    found = model(images)
    mean = (model.head(tokens[0]) + model.head_dist(tokens[1])) / 2
    torch.testing.assert_close(found, mean)
    assert model.train()(images).shape == (3, 10)
    exported = export_run(done, onnx=True, out=tmp_path / "served", timing=False)
    assert exported.checks["model.onnx"].images == 100


def test_both_heads_are_given_from_prepare_to_release(teacher):
    data = open_dataset(recipe(data=DATA).data, seed=0, device=torch.device("cpu"))
    model, (x, _) = ViTConfig(**DISTILLED).build(data.spec).train(), data.train_batch(0)
    loss = made("distill", teacher=str(teacher))
    loss.prepare(model, LossSetting(data.spec, data.preprocessing, data.device))
    assert [one.shape for one in model(x)] == [(64, 10), (64, 10)]
    assert model.eval()(x).shape == (64, 10)
    loss.release()
    assert model.train()(x).shape == (64, 10)


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_strategies_ask_both_heads_as_training_does(name, teacher, kept, tmp_path):
    strategy = {"name": name, "sparsity": 0.5, "samples": 20}
    loss = of(teacher, name="kept")
    length = {"phases": [{"name": "train", "length": "1st"}]}
    done = run(tmp_path, **length, strategies=[strategy], model=DISTILLED, loss=loss)
    assert [len(batch.targets) for batch, _ in kept] == [20] * (1 + (name == "grasp")) + [64]
    assert all(batch.distilled is not None for batch, _ in kept)
    report = json.loads((done / "report.json").read_text())
    assert report["sparsity"]["scope"] == pytest.approx(0.5, abs=0.01)


def test_a_loop_with_both_heads_is_asked_for_its_loss():
    class Same:
        def calibration(self, samples: int, balanced: bool) -> Iterator[tuple[Tensor, Tensor]]:
            yield torch.randn(samples, 1, 8, 8), torch.arange(samples) % 10

    def both(logits: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)

    model = ViTConfig(**DISTILLED).build(DataSpec(1, 8, 8, 10))
    model.set_distilled_training(True)
    for name in ("snip", "grasp"):
        strategies = [strategy(name, sparsity=0.5, samples=20)]
        given = {"total_steps": 2, "data": Same(), "input_shape": (1, 8, 8)}
        with pytest.raises(UsageError, match="two heads: give the Pruner your loss_function"):
            Pruner(model, strategies, **given).attach(torch.optim.SGD(model.parameters(), 0.1))
        Pruner(model, strategies, **given, loss_function=both)


CASES: dict[str, dict[str, object]] = {
    "logits": {"loss": {"temperature": 2.0}},
    "tokens": {"loss": {"of": "tokens", "layer": "blocks.0"}},
    "relations": {
        "loss": {"of": "relations", "layer": "blocks.1"},
        "model": VIT | {"embed_dim": 8},
        "data": DATA | {"micro_batch": 24},
    },
    "distillation token": {"loss": {"labels": "hard"}, "model": DISTILLED},
    "fp16": {"loss": {"of": "tokens", "layer": "blocks.0"}, "precision": "fp16"},
    "bf16": {"loss": {}, "precision": "bf16"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_student_is_the_undisturbed_one(case, teacher, tmp_path):
    changes: dict[str, object] = {"model": VIT, "data": DATA, **CASES[case]}
    changes["loss"] = of(teacher, **changes["loss"])  # type: ignore[arg-type]
    whole = run(tmp_path, **{**SHORT, **changes, "checkpoint": {"every": "3st"}})
    again = resume_run(rewound(whole, 3, tmp_path / "again"))
    assert same(result(again), result(whole))
    assert curve(again) == curve(whole)


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(teacher, tmp_path):
    changes = {**SHORT, "model": VIT, "loss": of(teacher, of="tokens", layer="blocks.0")}
    with by_operators():
        eager, compiled = (run(tmp_path, compile=one, **changes) for one in (False, True))
    losses = [
        [m["train/loss"] for m in curve(path) if "train/loss" in m] for path in (eager, compiled)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.ddp
def test_two_processes_distil_as_one_does(teacher, two_ranks: TwoRanks, tmp_path):
    changes = {**SHORT, "model": VIT, "loss": of(teacher, of="relations", layer="blocks.0")}
    pair, alone = two_ranks(run, tmp_path, **changes), run(tmp_path, **changes)
    losses = [[m["train/loss"] for m in curve(p) if "train/loss" in m] for p in (pair, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_teacher_is_told_and_its_cost_counted(teacher, tmp_path):
    done = open_run(run(tmp_path, **SHORT, model=VIT, loss=of(teacher)))
    assert len(done.manifest()["loss"]) == 64
    macs = count_macs(load_model(teacher), (1, 8, 8))
    images = 6 * 64
    assert done.report()["train"]["flops"] == train_flops(macs, images) + 2 * macs.dense * images
    plain = open_run(run(tmp_path, **SHORT, model=VIT))
    assert "loss" not in plain.manifest()
    assert plain.report()["train"]["flops"] == 6 * macs.dense * images


def test_a_run_is_not_resumed_with_another_teacher(teacher, tmp_path):
    import shutil

    there = Path(shutil.copytree(teacher, tmp_path / "there"))
    whole = run(tmp_path, **SHORT, model=VIT, loss=of(there), checkpoint={"every": "3st"})
    again = rewound(whole, 3, tmp_path / "again")
    other = run(tmp_path, **SHORT, model=VIT, strategies=[])
    shutil.copy(other / "model.safetensors", there / "model.safetensors")
    with pytest.raises(CheckpointError, match="the teacher of the loss changed"):
        resume_run(again)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"model": {"name": "mlp", "hidden": [8]}, "loss": {"of": "tokens", "layer": "blocks.0"}},
         RecipeError, "loss.layer: no module is called 'blocks.0'"),
        ({"loss": {"of": "tokens", "layer": "blocks.0"}, "model": VIT | {"embed_dim": 8}},
         RecipeError, "loss.layer: blocks.0 has tokens of width 8, .* of the teacher 12: use `of"),
        ({"loss": {"of": "relations", "layer": "blocks.0", "teacher_layer": "head"}},
         RecipeError, "loss.layer: head gives no tokens"),
        ({"loss": {"of": "relations", "layer": "blocks.0"}, "model": VIT | {"patch_size": 4}},
         RecipeError, "has 5 tokens, .* of the teacher 17"),
        ({"loss": {"alpha": 1}, "model": DISTILLED},
         RecipeError, "loss.alpha: at 1 only the distillation token learns"),
        ({"data": DATA | {"image_size": 16}},
         RecipeError, "loss.teacher: .* takes images of 1x8x8, this run has 1x16x16"),
        ({"loss": {"teacher_init": "x.pth"}},
         RecipeError, "loss.teacher_init: .* has its own weights"),
        ({"loss": {"teacher": "runs/none"}},
         CheckpointError, "loss.teacher: runs/none: no such file"),
        ({"loss": {"teacher": "mlpp:small"}},
         RecipeError, "loss.teacher: mlpp:small is neither a run, a file nor the name of a model"),
        ({"loss": {"teacher": "torchvision:resnet18"}},
         RecipeError, "loss.teacher: torchvision:resnet18 has 1000 classes, the data 10"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_told_in_one_line(changes, error, told, teacher, tmp_path):
    loss = of(teacher, **changes.get("loss", {}))
    with pytest.raises(error, match=told) as caught:
        run(tmp_path, **{**SHORT, "model": VIT, **changes, "loss": loss})
    assert "\n" not in str(caught.value)


def test_other_classes_are_told(teacher, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog", "owl"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("L", (8, 8), 40 * number).save(folder / f"{number}.png")
    data = {"name": "image_folder", "root": str(tmp_path / "photos"), "batch_size": 4}
    with pytest.raises(RecipeError, match=r"loss\.teacher: .* has 10 classes, the data 3: use"):
        run(tmp_path, **SHORT, model=VIT, data=data, loss=of(teacher))


def test_a_stock_model_teaches_from_a_file(tmp_path):
    """With weights of its own; the head of other classes would be random, so it is refused."""
    import torchvision

    for classes, name in ((10, "own.pth"), (1000, "other.pth")):
        model = torchvision.models.squeezenet1_1(num_classes=classes)
        model.features[0] = nn.Conv2d(1, 64, 3, stride=2)
        torch.save(model.state_dict(), tmp_path / name)
    data = DATA | {"image_size": 32, "batch_size": 8, "test_limit": 20}
    loss = {"name": "distill", "teacher": "torchvision:squeezenet1_1"}
    mlp = {"name": "lenet5"}
    short = {"phases": [{"name": "train", "length": "2st"}], "model": mlp, "data": data}
    good = run(tmp_path, **short, loss=loss | {"teacher_init": str(tmp_path / "own.pth")})
    assert any("normalised as those of this run" in w for w in open_run(good).report()["warnings"])
    with pytest.raises(CheckpointError, match=r"loss\.teacher: .*other\.pth") as caught:
        run(tmp_path, **short, loss=loss | {"teacher_init": str(tmp_path / "other.pth")})
    assert "\n" not in str(caught.value)


def test_what_published_weights_were_made_for():
    assert published_classes("torchvision:resnet18") == 1000
    assert published_classes("torchvision:nothing") is None
    statistics = published_statistics("torchvision:resnet18")
    assert statistics is not None
    assert statistics[0] == pytest.approx((123.675, 116.28, 103.53))
    assert published_classes("timm:vit_tiny_patch16_224.augreg_in21k") == 21843
    half = published_statistics("timm:vit_tiny_patch16_224.augreg_in21k")
    assert half == ((127.5,) * 3, (127.5,) * 3)


class _Bad(Loss):
    class Config(LossConfig):
        name: Literal["bad"] = "bad"
        how: str = ""

    config: "_Bad.Config"
    seen = 0

    def value(self, batch: LossBatch) -> Tensor:
        mean = batch.logits.logsumexp(-1).mean()
        self.seen += 1
        if self.config.how == "raises":
            raise KeyError("x")
        if self.config.how == "writes":
            batch.images.zero_()
        answers: dict[str, object] = {
            "vector": batch.logits.sum(-1),
            "number": mean.detach().item(),
            "constant": torch.tensor(1.0),
            "nan": mean * float("nan"),
            "sum": batch.logits.logsumexp(-1).sum(),
            "labels": mean + (batch.targets.ndim == 2),
            "forgets": mean * self.seen,
        }
        if self.config.how == "draws":
            return mean * torch.rand(())
        return answers.get(self.config.how, mean)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("vector", PluginError, r"value gives float32 \[64\], where one number is wanted"),
        ("number", PluginError, "value gives a float, not a tensor"),
        ("constant", PluginError, "does not depend on the logits"),
        ("nan", DivergedError, "not finite at step 0, before a weight has changed: look at"),
    ],
)
def test_a_loss_that_gives_no_number_is_told_in_one_line(how, error, told, tmp_path):
    with LOSSES.temporarily("bad", _Bad), pytest.raises(error, match=told) as caught:
        run(tmp_path, **SHORT, loss={"name": "bad", "how": how})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("vector", "where one number is wanted"),
        ("raises", "value.*KeyError: 'x'"),
        ("nan", "value is nan on finite logits"),
        ("draws", "the global random state of torch"),
        ("sum", "it must be the mean over samples"),
        ("labels", "targets may be int64"),
        ("writes", "value changes images, targets, weights or buffers"),
        ("forgets", "must hold what value remembers|mean over samples|changes"),
    ],
)
def test_the_kit_finds_what_breaks_the_contract(how, told):
    with pytest.raises(ConformanceError, match=told):
        check_loss(_Bad, {"how": how}, examples=20)


def test_the_kit_shows_the_smallest_case_and_takes_it_again():
    check_loss(_Bad, {}, trial=LossTrial(samples=3, shared=True))
    with pytest.raises(ConformanceError, match=r"check_loss\(_Bad, settings, trial=trial\)"):
        check_loss(_Bad, {"how": "sum"}, examples=20)


def test_strategies_have_the_loss_of_training(tmp_path):
    """SNIP's masks under another loss are other masks; GraSP asks for the same one."""
    asked: list[int] = []

    class Watched(CrossEntropy):
        class Config(CrossEntropy.Config):
            name: Literal["watched"] = "watched"  # type: ignore[assignment]

        def value(self, batch: LossBatch) -> Tensor:
            asked.append(len(batch.targets))
            return super().value(batch)

    with LOSSES.temporarily("watched", Watched):
        for name in ("snip", "grasp"):
            asked.clear()
            run(
                tmp_path,
                strategies=[{"name": name, "sparsity": 0.5, "samples": 20}],
                loss="watched",
                phases=[{"name": "train", "length": "1st"}],
            )
            assert asked == ([20, 64] if name == "snip" else [20, 20, 64])


def test_the_default_changes_no_hash_and_trains_as_before(tmp_path):
    written = recipe(loss={"name": "cross_entropy", "label_smoothing": 0.0})
    assert recipe_hash(written) == recipe_hash(recipe())
    smoothed = recipe(loss={"name": "cross_entropy", "label_smoothing": 0.1})
    assert recipe_hash(smoothed) != recipe_hash(recipe())
    assert recipe(loss="bce").loss.name == "bce"


def test_evaluation_tells_cross_entropy_whatever_was_minimised(tmp_path):
    done = open_run(run(tmp_path, loss={"name": "bce", "reduction": "sum"}, strategies=[MAGNITUDE]))
    from prunekit import evaluate_run

    report = json.loads((done.path / "report.json").read_text())
    assert report["loss"]["test"] == pytest.approx(evaluate_run(done.path).loss, rel=1e-6)
    last = [m["train/loss"] for m in done.metrics() if "train/loss" in m]
    assert last[0] > 4  # ten classes of ln 2 each, and not the 2.3 of cross-entropy
