"""Any order of calls ends in the right masks or in one error of prunekit's own."""

import math
from contextlib import contextmanager

import torch
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn

from prunekit import Pruner, strategy
from prunekit.errors import PrunekitError

STEPS = 4
UNITS = 6 * 5 + 5 * 3
EVERY = {"cadence": {"every": "1st"}}
CHOICES = [
    ("magnitude", {"mode": "ste", **EVERY}),
    ("magnitude", {"mode": "hard", **EVERY}),
    ("magnitude", {"mode": "masked", "schedule": "linear", **EVERY}),
    ("movement", {}),
    ("rigl", EVERY),
    ("set", EVERY),
    ("snip", {}),
]
SPARSITY = 0.6


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


class Samples:
    def calibration(self, samples, balanced):
        yield torch.randn(samples, 6), torch.arange(samples) % 3


class Calls(RuleBasedStateMachine):
    """A loop that calls whatever it likes, in any order."""

    @initialize(choice=st.sampled_from(CHOICES), momentum=st.sampled_from([0.0, 0.9]))
    def build(self, choice, momentum):
        self.choice, self.momentum = choice, momentum
        self.generator = torch.Generator().manual_seed(1)
        self.model = net()
        self.pruner = self.make(self.model)
        self.optimizers = [self.optimizer() for _ in range(2)]
        self.finished = self.free = self.whole = False
        self.saved = None

    def make(self, model):
        name, more = self.choice
        made = strategy(name, sparsity=SPARSITY, **more)
        return Pruner(model, [made], total_steps=STEPS, data=Samples(), input_shape=(6,))

    def optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=self.momentum)

    @contextmanager
    def told(self):
        """Prunekit's own errors of one line are an answer; any other one fails the test."""
        try:
            yield
        except PrunekitError as error:
            if "\n" in str(error):
                raise

    def backward(self):
        self.model.zero_grad()
        x = torch.randn(8, 6, generator=self.generator)
        nn.functional.cross_entropy(self.model(x), x[:, :3].argmax(1)).backward()

    @rule(which=st.sampled_from([(0,), (0,), (1,), (0, 1), ()]))
    def attach(self, which):
        with self.told():
            self.pruner.attach(*(self.optimizers[i] for i in which))

    @rule()
    def gradients(self):
        self.backward()

    @rule()
    def before_step(self):
        with self.told():
            self.pruner.before_step()

    @rule(which=st.sampled_from([0, 0, 0, 1]))
    def step(self, which):
        with self.told():
            self.optimizers[which].step()

    @rule(looks=st.booleans())
    def step_with_closure(self, looks):
        def closure():
            self.backward()
            if looks:
                self.pruner.before_step()

        with self.told():
            self.optimizers[0].step(closure)

    @rule()
    def after_step(self):
        with self.told():
            self.pruner.after_step()

    @rule(steps=st.integers(1, STEPS))
    def a_right_loop(self, steps):
        with self.told():
            for _ in range(steps):
                self.backward()
                if self.pruner.before_step():
                    self.optimizers[0].step()
                self.pruner.after_step()

    @rule(early=st.booleans(), keep=st.sampled_from([None, True, False]))
    def finish(self, early, keep):
        with self.told():
            self.pruner.finish(early=early, keep_masks=keep)
            self.whole = self.whole or (not early and not self.finished)
            self.finished = True
            self.free = keep is False or (self.free and keep is None)

    @rule()
    def save(self):
        dense = {name: self.pruner.dense(name).clone() for name in self.pruner.params}
        self.saved = self.pruner.state_dict(), dense

    @rule()
    def load(self):
        if self.saved is not None:
            with self.told():
                self.pruner.load_state_dict(*self.saved)

    @rule()
    def load_of_another(self):
        with self.told():
            self.pruner.load_state_dict({"step": 1}, {})

    @invariant()
    def zeros_are_where_the_masks_are(self):
        if hasattr(self, "pruner") and not self.free:
            params = dict(self.model.named_parameters())
            for name, mask in self.pruner.masks().items():
                assert not params[name][~mask].any(), name

    @invariant()
    def a_whole_run_has_the_whole_sparsity(self):
        if hasattr(self, "pruner") and self.whole:
            kept = sum(int(mask.sum()) for mask in self.pruner.masks().values())
            assert kept == UNITS - math.floor(SPARSITY * UNITS + 0.5)

    @rule()
    def summary(self):
        summary, masks = self.pruner.summary(), self.pruner.masks()
        assert summary.nonzero == 53 - sum(int((~mask).sum()) for mask in masks.values())


TestCalls = Calls.TestCase
TestCalls.settings = settings(stateful_step_count=20)
