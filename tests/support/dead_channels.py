"""Models as after pruning by channel: lived in, with random channels closed."""

import torch
from torch import nn

from prunekit.models import build_model
from prunekit.pruning.flow import channels, note_input
from prunekit.pruning.structures.channel import Channel
from prunekit.registry import MODELS
from prunekit.registry.configs import DataSpec

CLASSES = 7


def stock(name, side=64):
    """A stock model, its norms with the statistics of what comes into them, in evaluation."""
    torch.manual_seed(0)
    spec = DataSpec(channels=3, height=side, width=side, classes=CLASSES)
    return lived_in(build_model(MODELS.parse({"name": name}), spec), (3, side, side))


@torch.no_grad()
def lived_in(model, shape):
    """No statistic, scale or shift is what it began as, and logits depend on the image."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.uniform_(0.5, 1.5, generator=generator)
            parameter.mul_(torch.rand(parameter.shape, generator=generator).sub(0.2).sign())
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean of what comes
    model.train()
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training = False
    model(torch.randn(16, *shape, generator=generator))
    return model.eval()


@torch.no_grad()
def close(model, shape, share=0.5, seed=0):
    """Close random channels of all layers but the head; at least one stays in each.

    Returns:
        weight -> numbers of its closed channels.
    """
    note_input(model, shape)
    known, generator = channels(model), torch.Generator().manual_seed(seed)
    names = [
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    names = [
        n
        for n in names
        if n in known.reached and n not in known.refused and len(model.get_parameter(n)) != CLASSES
    ]
    units = Channel().units(model, names)
    kept = {}
    for name, size in units.sizes.items():
        kept[name] = torch.rand(size, generator=generator) >= share
        kept[name][0] = True
    for name, mask in units.expand(kept).items():
        model.get_parameter(name).mul_(mask)
    return {name: (~one).nonzero().flatten() for name, one in kept.items()}
