"""Run by `test_two_processes`: trains in one trainer on two processes, and prints what it gave.

torchrun --nproc-per-node 2 two_processes.py lightning|transformers|accelerate FOLDER
"""

import hashlib
import json
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunekit import strategy

X = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].argmax(1)
DATA = TensorDataset(X, Y)
STEPS = 8  # two epochs of four batches of 16 a process


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def strategies():
    # reads gradients, which the processes must have in common
    return [strategy("rigl", sparsity=0.75, cadence={"every": "2st"})]


def in_lightning(folder):
    import lightning

    from prunekit.integrations import LightningPruning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.net.parameters(), lr=1e-2)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    callback = LightningPruning(strategies(), part="net")
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback],
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(DATA, batch_size=16))
    return callback.pruner, callback.model


def in_transformers(folder):
    import transformers

    from prunekit.integrations import TrainerPruning

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    callback = TrainerPruning(strategies())
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=16, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": x, "labels": y} for x, y in DATA]
    transformers.Trainer(Wrapped(), arguments, train_dataset=rows, callbacks=[callback]).train()
    return callback.pruner, callback.model


def in_accelerate(folder):
    from accelerate import Accelerator

    from prunekit.integrations import AcceleratedPruner

    accelerator = Accelerator(cpu=True)
    model = net()
    pruner = AcceleratedPruner(accelerator, model, strategies(), total_steps=STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(DATA, batch_size=16)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    pruner.attach(optimizer)
    for _ in range(2):
        for x, y in loader:
            accelerator.backward(nn.functional.cross_entropy(prepared(x), y))
            pruner.before_step()
            optimizer.step()
            optimizer.zero_grad()
            pruner.after_step()
    return pruner.pruner, pruner.finish()


if __name__ == "__main__":
    pruner, model = globals()[f"in_{sys.argv[1]}"](sys.argv[2])
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    kept = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim == 2)
    told = {
        "rank": torch.distributed.get_rank(),
        "world": torch.distributed.get_world_size(),
        "steps": pruner.step,
        "kept": kept,
        "units": pruner.units()[0].kept,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    with open(f"{sys.argv[2]}/{told['rank']}.json", "w") as file:
        json.dump(told, file)
