"""Models and runs that the tests share."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from prunekit import DataSpec, Pruner, load_recipe, strategy

BLOCKS = ("identity", "projection", "pad")
SETTINGS = {
    "mlp": "hidden: [6, 5]",
    "lenet_300_100": "widths: [12, 7]",
    "lenet5": "widths: [3, 4, 6]",
    "vgg": "depth: 11, widths: [3, 4, 5, 4, 5, 4, 5, 4]",
    "resnet": "depth: 8, stages: [4, 6, 6]",
}
RECIPE = """
name: test
data: {{name: digits, image_size: 16}}
model: {{name: {name}, {settings}}}
optimizer: {{name: sgd, lr: 0.1}}
phases: [{{name: train, length: 1st}}]
"""


def core_model(name, seed=0):
    """A small form of a model that comes with prunekit, for images [1, 16, 16]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(RECIPE.format(name=name, settings=SETTINGS[name]))
        config = load_recipe(path).model
    torch.manual_seed(seed)
    return config.build(DataSpec(1, 16, 16, 10))


class Block(nn.Module):
    """A stem, one residual block of four (`pad`: six) channels, and a classifier."""

    def __init__(self, shortcut="identity", bias=False):
        super().__init__()
        out = 6 if shortcut == "pad" else 4
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.conv1 = nn.Conv2d(4, 3, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, out, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(out)
        self.kind, self.shortcut = shortcut, nn.Identity()
        if shortcut == "projection":
            self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 1, bias=bias), nn.BatchNorm2d(4))
        self.head = nn.Linear(out * 4, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x, (0, 0, 0, 0, 1, 1)) if self.kind == "pad" else self.shortcut(x)
        return self.head(torch.flatten(F.max_pool2d(F.relu(branch + skip), 2), 1))


class Fixed:
    """Calibration data: these samples in batches of `size`; labels that nobody may use."""

    def __init__(self, x, size=4):
        self.x, self.size = x, size

    def calibration(self, samples, balanced):
        chosen = self.x[:samples]
        return ((part, None) for part in chosen.split(self.size))


def run(model, x, steps=1, lr=0.0, **settings):
    """Train for `steps` steps with nnrelief; the pruner, after the cut at the end."""
    settings = {"samples": len(x)} | settings
    pruner = Pruner(model, [strategy("nnrelief", **settings)], total_steps=steps, data=Fixed(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    pruner.attach(optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()
        model(x).square().mean().backward()
        if pruner.before_step():
            optimizer.step()
        pruner.after_step()
    return pruner
