"""The blocks of docs/loop.md in the loops of others: bit for bit the weights of a plain loop."""

import logging
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunekit import Pruner, strategy

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs, of many kinds

X = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
LOADER = DataLoader(TensorDataset(X, X[:, :4].argmax(1)), batch_size=16)
EPOCHS, BATCHES = 2, 8
CHOICES = {
    "magnitude in ste": ("magnitude", {"mode": "ste", "cadence": {"every": "3st"}}),
    "magnitude in hard": ("magnitude", {"mode": "hard", "cadence": {"every": "3st"}}),
    "rigl, which skips steps": ("rigl", {"cadence": {"every": "3st"}}),
    "movement": ("movement", {}),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def pruner_of(model, choice, steps, **more):
    name, settings = CHOICES[choice]
    return Pruner(model, [strategy(name, sparsity=0.75, **settings)], total_steps=steps, **more)


def plain(choice, parts=1, clip=None, dtype=None):
    """What a loop of one's own gives."""
    model, steps = net(), EPOCHS * BATCHES // parts
    pruner, passes = pruner_of(model, choice, steps), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    for _ in range(EPOCHS):
        for x, y in LOADER:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = nn.functional.cross_entropy(model(x), y)
            (loss / parts).backward()
            passes += 1
            if passes % parts:
                continue
            take = pruner.before_step()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if take:
                optimizer.step()
            optimizer.zero_grad()
            pruner.after_step()
    return pruner.finish()


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.fixture(scope="module")
def callback():
    """The callback of the page, after the whole block has run."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    page = (Path(__file__).parents[2] / "docs" / "loop.md").read_text()
    (block,) = re.findall(r"```python\n(import lightning\n(?:.*\n)*?)```", page)
    space = {"__name__": "example"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "docs/loop.md", "exec"), space)  # noqa: S102 - our own docs
    return space["Pruning"]


class Module(lightning.LightningModule):
    def __init__(self, choice, steps, *, manual=False, **more):
        super().__init__()
        self.net, self.automatic_optimization = net(), not manual
        self.pruner = pruner_of(self.net, choice, steps, **more)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=1e-2)

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


def trainer(callbacks, epochs=EPOCHS, **more):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks, **more,
    )  # fmt: skip


WAYS = {
    "automatic": ({}, {}),
    "manual": ({"manual": True}, {}),
    "accumulated": ({"accumulate_grad_batches": 4}, {"parts": 4}),
    "clipped": ({"gradient_clip_val": 0.1}, {"clip": 0.1}),
    "bf16": ({"precision": "bf16-mixed"}, {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("choice", CHOICES)
def test_lightning_gives_the_weights_of_the_plain_loop(callback, choice, way):
    theirs, ours = WAYS[way]
    theirs = dict(theirs)
    steps = EPOCHS * BATCHES // ours.get("parts", 1)
    module = Module(choice, steps, manual=theirs.pop("manual", False))
    trainer([callback(module.pruner)], **theirs).fit(module, LOADER)
    assert module.pruner.step == steps
    assert same(module.pruner.finish(), plain(choice, **ours))


@pytest.mark.parametrize("choice", CHOICES)
def test_lightning_goes_on_from_its_checkpoint(callback, choice, tmp_path):
    first = Module(choice, EPOCHS * BATCHES)
    fitted = trainer([callback(first.pruner)], epochs=1)
    fitted.fit(first, LOADER)
    fitted.save_checkpoint(tmp_path / "half.ckpt")
    second = Module(choice, EPOCHS * BATCHES, resuming=True)
    trainer([callback(second.pruner)]).fit(second, LOADER, ckpt_path=tmp_path / "half.ckpt")
    assert same(second.pruner.finish(), plain(choice))


@pytest.mark.parametrize(("parts", "clip"), [(1, None), (4, 0.1)])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("choice", CHOICES)
def test_accelerate_gives_the_weights_of_the_plain_loop(choice, precision, parts, clip):
    accelerate.state.AcceleratorState._reset_state(True)
    ours = accelerate.Accelerator(
        gradient_accumulation_steps=parts, cpu=True, mixed_precision=precision
    )
    model = net()
    pruner = pruner_of(model, choice, EPOCHS * BATCHES // parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prepared, optimizer, loader = ours.prepare(model, optimizer, LOADER)
    pruner.attach(optimizer)
    for _ in range(EPOCHS):
        for x, y in loader:
            with ours.accumulate(prepared):
                ours.backward(nn.functional.cross_entropy(prepared(x), y))
                if ours.sync_gradients:
                    ours.unscale_gradients()
                    pruner.before_step()
                    if clip:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                if ours.sync_gradients:
                    pruner.after_step()
    dtype = torch.bfloat16 if precision == "bf16" else None
    assert same(pruner.finish(), plain(choice, parts, clip, dtype))


@pytest.mark.parametrize("choice", CHOICES)
def test_an_overflow_in_accelerate_counts_and_harms_nothing(choice):
    """Its optimizer with a scaler, which it makes itself on a GPU alone."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.Accelerator(cpu=True)
    model, scaler = net(), torch.amp.GradScaler("cpu")
    pruner = pruner_of(model, choice, BATCHES)
    inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer = accelerate.optimizer.AcceleratedOptimizer(inner, scaler=scaler)
    pruner.attach(optimizer)
    skipped = []
    for step, (x, y) in enumerate(LOADER):
        overflow = float("inf") if step in (2, 5) else 1.0
        scaler.scale(nn.functional.cross_entropy(model(x), y) * overflow).backward()
        scaler.unscale_(inner)
        pruner.before_step()
        optimizer.step()
        skipped += [step] * optimizer.step_was_skipped
        optimizer.zero_grad()
        pruner.after_step()
    assert skipped == [2, 5]
    finished = pruner.finish()
    assert all(bool(p.isfinite().all()) for p in finished.parameters())
    kept = sum(int(p.count_nonzero()) for p in finished.parameters() if p.ndim == 2)
    assert kept <= 160
