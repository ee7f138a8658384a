"""In the trainers of others: bit for bit the weights of a plain loop, also from a checkpoint."""

import logging

import accelerate
import lightning
import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunekit import Pruner, strategy
from prunekit.errors import CheckpointError, UsageError
from prunekit.integrations import (
    AcceleratedPruner,
    LightningPruning,
    TrainerPruning,
    follow_steps,
)
from prunekit.integrations.driving import STATE_FILE
from tests.support.passing import LogitDecay, Sam

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs, of many kinds

X = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].argmax(1)
LOADER = DataLoader(TensorDataset(X, Y), batch_size=16)
EPOCHS, BATCHES = 2, 8
CHOICES = {
    "magnitude in ste": ("magnitude", {"mode": "ste", "cadence": {"every": "3st"}}),
    "magnitude in hard": ("magnitude", {"mode": "hard", "cadence": {"every": "3st"}}),
    "rigl, which skips steps": ("rigl", {"cadence": {"every": "3st"}}),
    "movement": ("movement", {}),
}


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def chosen(choice):
    name, settings = CHOICES[choice]
    return [strategy(name, sparsity=0.75, **settings)]


def plain(choice, parts=1, clip=None, dtype=None, early_clip=False):
    """What a loop of one's own gives; `early_clip`: clipped before the pruner sees gradients."""
    model, steps = net(), EPOCHS * BATCHES // parts
    pruner, passes = Pruner(model, chosen(choice), total_steps=steps), 0
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
            if clip and early_clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            take = pruner.before_step()
            if clip and not early_clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if take:
                optimizer.step()
            optimizer.zero_grad()
            pruner.after_step()
    return pruner.finish()


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def kept(model):
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim == 2)


# --- Lightning ----------------------------------------------------------------------------------


class Module(lightning.LightningModule):
    def __init__(self, *, manual=False):
        super().__init__()
        self.net, self.automatic_optimization = net(), not manual

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


def trainer(callback, epochs=EPOCHS, **more):
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], **more,
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
def test_lightning_gives_the_weights_of_the_plain_loop(choice, way):
    theirs, ours = WAYS[way]
    theirs = dict(theirs)
    module = Module(manual=theirs.pop("manual", False))
    callback = LightningPruning(chosen(choice), part="net")
    trainer(callback, **theirs).fit(module, LOADER)
    assert callback.pruner.step == EPOCHS * BATCHES // ours.get("parts", 1)
    assert callback.model is module.net
    assert same(module.net, plain(choice, **ours))


@pytest.mark.parametrize("choice", CHOICES)
def test_lightning_goes_on_from_its_checkpoint(choice, tmp_path):
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1)
    lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LightningPruning(chosen(choice), part="net"), saving],
    ).fit(Module(), LOADER)  # fmt: skip
    (path,) = tmp_path.glob("*step=8.ckpt")  # masks change at every third step
    module, callback = Module(), LightningPruning(chosen(choice), part="net")
    trainer(callback).fit(module, LOADER, ckpt_path=path)
    assert same(module.net, plain(choice))


def test_lightning_that_stops_early_says_how_sparse_it_is(caplog):
    callback = LightningPruning(chosen("magnitude in hard"), part="net", total_steps=100)
    trainer(callback).fit(Module(), LOADER)
    assert "training ended at step 16 of the 100 that masks follow" in caplog.text
    assert kept(callback.model) == callback.pruner.units()[0].kept > 160


def test_lightning_without_an_end_is_refused():
    with pytest.raises(UsageError, match="give total_steps"):
        trainer(LightningPruning(chosen("movement"), part="net"), epochs=-1).fit(Module(), LOADER)


# --- Transformers -------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """The net with the loss that a Trainer asks for."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trained(choice, tmp_path, callback=None, resume=None, of=Wrapped, **settings):
    model, callback = of(), callback or TrainerPruning(chosen(choice))
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=EPOCHS, per_device_train_batch_size=16, use_cpu=True,
        report_to=[], save_strategy="steps", save_steps=5, disable_tqdm=True,
        **({"max_grad_norm": 0.0} | settings),
    )  # fmt: skip

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(LOADER_OF_NAMES)

        def create_optimizer(self, *_):
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
            return self.optimizer

        def create_scheduler(self, num_training_steps, optimizer=None):
            self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)
            return self.lr_scheduler

    InOrder(model, arguments, train_dataset=ROWS, callbacks=[callback]).train(
        resume_from_checkpoint=resume
    )
    return model, callback


ROWS = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
LOADER_OF_NAMES = DataLoader(ROWS, batch_size=16)
TRAINER_WAYS = {
    "plain": ({}, {}),
    "accumulated": ({"gradient_accumulation_steps": 4}, {"parts": 4}),
    "clipped": ({"max_grad_norm": 0.1}, {"clip": 0.1, "early_clip": True}),
    "bf16": ({"bf16": True}, {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("way", TRAINER_WAYS)
@pytest.mark.parametrize("choice", CHOICES)
def test_transformers_gives_the_weights_of_the_plain_loop(choice, way, tmp_path):
    theirs, ours = TRAINER_WAYS[way]
    model, callback = trained(choice, tmp_path, **theirs)
    assert callback.model is model
    assert same(model.net, plain(choice, **ours))


@pytest.mark.parametrize("choice", CHOICES)
def test_transformers_goes_on_from_its_checkpoint(choice, tmp_path):
    trained(choice, tmp_path)
    assert {path.name for path in tmp_path.glob("*")} >= {"checkpoint-5", "checkpoint-10"}
    again, _ = trained(choice, tmp_path, resume=str(tmp_path / "checkpoint-5"))
    assert same(again.net, plain(choice))
    moved = (tmp_path / "checkpoint-10").rename(tmp_path / "moved")
    elsewhere = TrainerPruning(chosen(choice), resume_from=moved)
    again, _ = trained(choice, tmp_path / "other", elsewhere, resume=str(moved))
    assert same(again.net, plain(choice))


def test_a_checkpoint_without_masks_is_told_in_one_line(tmp_path):
    trained("movement", tmp_path)
    folder = tmp_path / "checkpoint-5"
    (folder / STATE_FILE).write_bytes(b"no file of torch")
    with pytest.raises(CheckpointError, match=r"prunekit\.pt: cannot be read") as told:
        trained("movement", tmp_path, resume=str(folder))
    assert "\n" not in str(told.value)
    (folder / STATE_FILE).unlink()
    with pytest.raises(CheckpointError, match="masks of step 5 are not known"):
        trained("movement", tmp_path, resume=str(folder))


def test_scaled_gradients_are_unscaled_once(tmp_path):
    """With a scaler, which the Trainer makes itself on a GPU alone."""
    model, scaler = Wrapped(), torch.amp.GradScaler("cpu", init_scale=256.0)
    arguments = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, max_grad_norm=0.0, report_to=[]
    )
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.Accelerator(cpu=True)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = accelerate.optimizer.AcceleratedOptimizer(inner, scaler=scaler)
    state = transformers.TrainerState(max_steps=4)
    callback = TrainerPruning(chosen("magnitude in hard"))
    its = {"model": model, "optimizer": optimizer}
    callback.on_train_begin(arguments, state, None, **its)
    before = model.net[2].bias.detach().clone()
    scaler.scale(model(X[:16], Y[:16])["loss"]).backward()
    scaled = model.net[2].bias.grad.clone()
    callback.on_pre_optimizer_step(arguments, state, None, **its)
    optimizer.step()
    callback.on_optimizer_step(arguments, state, None, **its)
    assert torch.allclose(before - model.net[2].bias, 0.1 * scaled / 256)


# --- accelerate ---------------------------------------------------------------------------------


def accelerated(choice, precision, parts, clip, stop=None, start=None, folder=None):
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(
        gradient_accumulation_steps=parts, cpu=True, mixed_precision=precision
    )
    model = net()
    pruner = AcceleratedPruner(
        accelerator, model, chosen(choice), total_steps=EPOCHS * BATCHES // parts
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, LOADER)
    if start is not None:
        accelerator.load_state(str(folder))
    pruner.attach(optimizer)
    for epoch in range(start or 0, stop or EPOCHS):
        for x, y in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(nn.functional.cross_entropy(prepared(x), y))
                pruner.before_step()
                if clip and accelerator.sync_gradients:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                pruner.after_step()
        if stop == epoch + 1:
            accelerator.save_state(str(folder))
            return None
    return pruner.finish()


@pytest.mark.parametrize(("parts", "clip"), [(1, None), (4, 0.1)])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("choice", CHOICES)
def test_accelerate_gives_the_weights_of_the_plain_loop(choice, precision, parts, clip):
    dtype = torch.bfloat16 if precision == "bf16" else None
    model = accelerated(choice, precision, parts, clip)
    assert same(model, plain(choice, parts, clip, dtype))


@pytest.mark.parametrize("choice", CHOICES)
def test_accelerate_goes_on_from_its_checkpoint(choice, tmp_path):
    accelerated(choice, "no", 1, None, stop=1, folder=tmp_path)
    again = accelerated(choice, "no", 1, None, start=1, folder=tmp_path)
    assert same(again, plain(choice))


@pytest.mark.parametrize("choice", CHOICES)
def test_an_overflow_in_accelerate_counts_and_harms_nothing(choice):
    """Its optimizer with a scaler, which it makes itself on a GPU alone."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.Accelerator(cpu=True)
    model, scaler = net(), torch.amp.GradScaler("cpu")
    pruner = Pruner(model, chosen(choice), total_steps=BATCHES)
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
    assert kept(finished) <= 160


# --- terms of the loss, and steps that pass twice -----------------------------------------------


def by_hand(make):
    """A plain loop with a `Pruner` whose strategy sees the batch."""
    model = net()
    pruner = Pruner(model, [make()], total_steps=EPOCHS * BATCHES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner.attach(optimizer)
    for _ in range(EPOCHS):
        for x, y in LOADER:

            def closure(x=x, y=y):
                logits = model(x)
                loss = nn.functional.cross_entropy(logits, y) + pruner.batch_penalty(x, logits, y)
                loss.backward()
                return loss

            pruner.gradients(closure)
            pruner.before_step()
            optimizer.step()
            pruner.after_step()
    return pruner.finish()


def by_lightning(make, folder):
    callback = LightningPruning([make()], part="net")

    class Adding(Module):
        def training_step(self, batch, index):
            logits = self.net(batch[0])
            loss = nn.functional.cross_entropy(logits, batch[1])
            return loss + callback.batch_penalty(batch[0], logits, batch[1])

    trainer(callback).fit(Adding(), LOADER)
    return callback.model


def by_hand_in_lightning(make, folder):
    callback = LightningPruning([make()], part="net")

    class Handing(Module):
        def training_step(self, batch, index):
            def closure():
                logits = self.net(batch[0])
                loss = nn.functional.cross_entropy(logits, batch[1])
                loss = loss + callback.batch_penalty(batch[0], logits, batch[1])
                self.manual_backward(loss)
                return loss

            callback.pruner.gradients(closure)
            self.optimizers().step()

    trainer(callback).fit(Handing(manual=True), LOADER)
    return callback.model


def by_transformers(make, folder):
    callback = TrainerPruning([make()])

    class Adding(Wrapped):
        def forward(self, x, labels):
            found = super().forward(x, labels)
            added = callback.batch_penalty(x, found["logits"], labels)
            return found | {"loss": found["loss"] + added}

    return trained(None, folder, callback, of=Adding)[0].net


def by_accelerate(make, folder):
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True)
    model = net()
    pruner = AcceleratedPruner(accelerator, model, [make()], total_steps=EPOCHS * BATCHES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, LOADER)
    pruner.attach(optimizer)
    for _ in range(EPOCHS):
        for x, y in loader:

            def closure(x=x, y=y):
                logits = prepared(x)
                loss = nn.functional.cross_entropy(logits, y) + pruner.batch_penalty(x, logits, y)
                accelerator.backward(loss)
                return loss

            pruner.gradients(closure)
            pruner.before_step()
            optimizer.step()
            pruner.after_step()
    return pruner.finish()


@pytest.mark.parametrize("way", [by_lightning, by_transformers, by_accelerate])
def test_a_term_of_the_loss_reaches_each_trainer(way, tmp_path):
    def make():
        return LogitDecay(LogitDecay.Config(mode="ste"))

    assert same(way(make, tmp_path), by_hand(make))


@pytest.mark.parametrize("way", [by_hand_in_lightning, by_accelerate])
def test_a_loop_inside_of_a_trainer_passes_twice(way, tmp_path):
    def make():
        return Sam(Sam.Config())

    assert same(way(make, tmp_path), by_hand(make))


def test_a_trainer_that_passes_by_itself_refuses_who_passes_twice():
    with pytest.raises(UsageError, match=r"sam passes several times in a step"):
        trainer(LightningPruning([Sam(Sam.Config())], part="net")).fit(Module(), LOADER)


# --- a step that is out of reach ----------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("choice", CHOICES)
def test_following_steps_gives_the_weights_of_the_plain_loop(choice, clip):
    model = net()
    pruner = Pruner(model, chosen(choice), total_steps=EPOCHS * BATCHES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    follow_steps(pruner, optimizer)
    for _ in range(EPOCHS):
        for x, y in LOADER:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    assert same(pruner.finish(), plain(choice, clip=clip, early_clip=True))


def test_a_package_that_is_missing_is_told_with_its_pip_line(monkeypatch):
    import sys

    from prunekit import integrations

    monkeypatch.delitem(sys.modules, "prunekit.integrations.lightning_callback")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'prunekit\[integrations\]'"):
        integrations.LightningPruning  # noqa: B018 - it is looked up
    with pytest.raises(AttributeError, match="no attribute 'Lightening'"):
        integrations.Lightening  # noqa: B018


def test_lightning_names_the_modules_where_a_part_is_none():
    callback = LightningPruning(chosen("magnitude in hard"), part="nett")
    with pytest.raises(UsageError, match=r"no module 'nett'\. Did you mean 'net'\? Known: net"):
        trainer(callback).fit(Module(), LOADER)
