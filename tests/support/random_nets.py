"""Small convolutional nets put together at random, and what a slow oracle finds out about them."""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn

NORMS = ("batch", "batch", "batch", "group", "layer", "instance", "plain", "again")
ACTIVATIONS = (F.relu, torch.sigmoid, F.hardswish, F.gelu, torch.tanh)


class ChannelNorm(nn.LayerNorm):
    """Over the channels of [N, C, H, W]."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class RandomNet(nn.Module):
    """A program over a list of tensors [N, C, 5, 5]: each step appends one.

    Args:
        draw: an integer of a range, both ends included.
        steps: how many.
    """

    def __init__(self, draw, steps):
        super().__init__()
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        self.program, self.widths, self._draw = [], [3], draw
        self._convolution(0)
        for _ in range(steps):
            source = draw(max(0, len(self.widths) - 3), len(self.widths) - 1)
            step = ("conv", "norm", "norm", "act", "pair", "move")[draw(0, 5)]
            getattr(self, f"_{step}")(source)

    def _add(self, width, function):
        self.program.append(function)
        self.widths.append(width)

    def _convolution(self, source):
        width, draw = self.widths[source], self._draw
        groups = (1, 1, width, 2)[draw(0, 3)]
        groups = groups if width % groups == 0 else 1
        out = groups * draw(1, 2) if groups > 1 else draw(2, 4)
        layer = nn.Conv2d(width, out, 3, padding=1, groups=groups, bias=bool(draw(0, 1)))
        self.layers.append(layer)
        self._add(out, lambda x: layer(x[source]))

    _conv = _convolution

    def _norm(self, source):
        width, kind = self.widths[source], NORMS[self._draw(0, len(NORMS) - 1)]
        same = [n for n in self.norms if isinstance(n, nn.BatchNorm2d) and n.num_features == width]
        if kind == "again" and same:
            norm = same[-1]
        else:
            norm = {
                "group": lambda: nn.GroupNorm(1, width),
                "layer": lambda: ChannelNorm(width),
                "instance": lambda: nn.InstanceNorm2d(width, affine=True),
                "plain": lambda: nn.BatchNorm2d(width, affine=False),
            }.get(kind, lambda: nn.BatchNorm2d(width))()
            self.norms.append(norm)
        self._add(width, lambda x: norm(x[source]))

    def _act(self, source):
        function = ACTIVATIONS[self._draw(0, len(ACTIVATIONS) - 1)]
        self._add(self.widths[source], lambda x: function(x[source]))

    def _pair(self, source):
        other, width = self._draw(0, len(self.widths) - 1), self.widths[source]
        kinds = ["cat"] + (["add", "mul"] if self.widths[other] == width else [])
        kind = kinds[self._draw(0, len(kinds) - 1)]
        if kind == "cat":
            self._add(width + self.widths[other], lambda x: torch.cat((x[source], x[other]), dim=1))
        else:
            join = torch.add if kind == "add" else torch.mul
            self._add(width, lambda x: join(x[source], x[other]))

    def _move(self, source):
        width = self.widths[source]
        if self._draw(0, 1):
            self._add(width, lambda x: F.avg_pool2d(x[source], 3, 1, 1, count_include_pad=False))
        elif width % 2 == 0:
            self._add(
                width, lambda x: x[source].unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
            )
        else:
            self._add(width - 1, lambda x: x[source][:, 1:])

    def forward(self, x):
        made = [x]
        for step in self.program:
            made.append(step(made))
        return sum(one.mean((1, 2, 3)) for one in made)


def randomize(model, seed):
    """Values without accidental zeros, in float64 and evaluation mode."""
    torch.manual_seed(seed)
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) + 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def seen_by_norms(model, x, pruned=None):
    """(norm, what it reads) for each call of a norm, in order; each layer as without pruning.

    Args:
        model: on which this leaves no trace.
        x: the input.
        pruned: a layer's name and one of its rows, whose output is 0.
    """
    calls, hooks = [], []
    layers = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    def norm(name):
        return lambda _, given, out: calls.append((name, given[0]))

    def layer(module, given, out):
        out = model.outputs.setdefault(module, out).clone()
        if pruned is not None and layers[module] == pruned[0]:
            out[:, pruned[1]] = 0.0
        return out

    for name, module in model.named_modules():
        if module in layers:
            hooks.append(module.register_forward_hook(layer))
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
            hooks.append(module.register_forward_hook(norm(name)))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return calls


def constant_channels(reads):
    """Which channels [C] are one number, whatever the image and the place in it."""
    spread = reads.transpose(0, 1).flatten(1)
    return (spread - spread[:, :1]).abs().amax(1) <= 1e-9 * (1 + spread.abs().amax(1))


def oracle(model, x):
    """What each row alone feeds: it is pruned alone, then what it feeds with it, too.

    Returns:
        (row by name and index) -> the entries of norms' vectors that must go along, by name and
        index; the names of the weights one of whose channels would not be 0 behind a norm; and the
        channels (norm, index) that say nothing, as they are constant in any case.
    """
    model.outputs = {}
    calls = seen_by_norms(model, x)
    before = [constant_channels(reads) for _, reads in calls]
    still = {
        (n, c)
        for (n, _), b in zip(calls, before, strict=True)
        for c in b.nonzero().flatten().tolist()
    }
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    along, bad = defaultdict(set), set()
    for name, layer in model.named_modules():
        for row in range(getattr(layer, "out_channels", 0)):
            fed, grown = set(), True
            while grown:
                alone, other = fed_alone(model, x, (name, row), before)
                bad |= {f"{name}.weight" for one in alone if one in other}
                new = alone - other - fed
                for norm, channel in new:
                    vectors = model.get_submodule(norm).named_parameters()
                    owns = [f"{norm}.{own}" for own, _ in vectors]
                    bad |= set() if owns else {f"{name}.weight"}
                    along[f"{name}.weight", row] |= {(own, channel) for own in owns}
                    with torch.no_grad():
                        for own in owns:
                            model.get_parameter(own)[channel] = 0.0
                fed, grown = fed | new, bool(new)
            with torch.no_grad():
                for parameter, value in start.items():
                    model.get_parameter(parameter).copy_(value)
    return along, bad, still


def fed_alone(model, x, pruned, before):
    """(norm, channel) that have become constant in one call of it, and that have not in one."""
    alone, other = set(), set()
    for (norm, reads), still in zip(seen_by_norms(model, x, pruned), before, strict=True):
        constant = constant_channels(reads) & ~still
        for channel, is_alone in enumerate(constant.tolist()):
            (alone if is_alone else other).add((norm, channel))
    return alone, other
