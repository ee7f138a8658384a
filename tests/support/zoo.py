"""Strategies, compressors and probes that each break their contract in one way."""

import random
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, field_validator
from torch import nn

from prunekit.compressors.base import DataCompressor, TokenBatch
from prunekit.compressors.tome import Tome
from prunekit.errors import RecipeError
from prunekit.foundation.timeline import duration
from prunekit.pruning.cadence import Cadence
from prunekit.pruning.optimizer_state import StateChange
from prunekit.pruning.probes.base import Probe
from prunekit.pruning.schedules import AnySchedule, Constant
from prunekit.pruning.strategies.base import PruningStrategy, Update
from prunekit.pruning.strategies.scored import ScoredStrategy
from prunekit.registry.configs import CompressorConfig, ProbeConfig, StrategyConfig

STRATEGIES, COMPRESSORS, PROBES = {}, {}, {}


def broken(zoo, fault):
    """Into the zoo, with the words that its message must hold."""

    def put(cls):
        zoo[cls] = fault
        return cls

    return put


class Sound(ScoredStrategy):
    """Magnitude at each step; nothing is wrong with it."""

    class Config(ScoredStrategy.Config):
        name: Literal["sound"] = "sound"
        sparsity: float = Field(default=0.5, ge=0, lt=1)
        schedule: AnySchedule = Constant(name="constant")
        cadence: Cadence = Cadence(every=duration("1st"))

    def score(self, name, ctx):
        return ctx.weights[name].abs()


def all_kept(ctx):
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in ctx.weights.items()}


# --- what an update holds


@broken(STRATEGIES, r"update, step 0: returned dict, not an Update")
class ReturnsMasks(Sound):
    def update(self, ctx):
        return dict(super().update(ctx).masks)


@broken(STRATEGIES, r"step 0: 1\.weight: expected a bool mask of shape \(2, 1\), got torch.float32")
class FloatMasks(Sound):
    def update(self, ctx):
        return Update({name: mask.float() for name, mask in super().update(ctx).masks.items()})


@broken(STRATEGIES, r"expected a bool mask of shape \(2, 1\), got torch.bool of shape \(1, 2\)")
class TurnedMasks(Sound):
    def update(self, ctx):
        return Update({name: mask.T for name, mask in super().update(ctx).masks.items()})


@broken(STRATEGIES, r"step 0: 1\.bias: a mask for a parameter outside of the scope")
class OutOfScope(Sound):
    def update(self, ctx):
        masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in ctx.model.named_parameters()}
        return Update(masks | dict(super().update(ctx).masks))


@broken(STRATEGIES, r"promised to keep 1 of 2 units \(sparsity 0.5\), but its masks keep 2")
class Miscounts(Sound):
    def update(self, ctx):
        return Update(all_kept(ctx))


@broken(STRATEGIES, r"1\.weight: the score is not finite")
class DividesByZero(Sound):
    def score(self, name, ctx):
        return ctx.weights[name].abs() / 0.0


@broken(STRATEGIES, r"update, step 0: values of 1\.weight are not finite")
class BringsBackNothing(Sound):
    def update(self, ctx):
        values = {name: weight / 0.0 for name, weight in ctx.weights.items()}
        return Update(super().update(ctx).masks, values)


@broken(STRATEGIES, r"corrects is True, but no update gave another value to a weight that stayed")
class CorrectsNothing(Sound):
    corrects = True

    def update(self, ctx):
        return Update(super().update(ctx).masks, dict(ctx.weights))


@broken(STRATEGIES, r"update, step 0, raised KeyError: 'missing'")
class Crashes(Sound):
    def score(self, name, ctx):
        return ctx.weights["missing"]


@broken(STRATEGIES, r"check, prepare or cover raised KeyError: 'b\.weight'")
class CountsTiesTwice(Sound):
    def cover(self, model, names):
        own = {id(p): n for n, p in model.named_parameters()}
        every = model.named_parameters(remove_duplicate=False)
        return tuple(n for n, p in every if own[id(p)] in names)


@broken(STRATEGIES, r"count_units, step 0: counts \d+ of 17 units, in masks of 2 entries")
class CountsTooMuch(Sound):
    def count_units(self, model, masks):
        kept, total = super().count_units(model, masks)
        return kept, total + 15

    def promised_keep(self, clock, total):
        return None


@broken(STRATEGIES, r"target, step 0: returned 50")
class PromisesPercent(Sound):
    def target(self, clock):
        return 50

    def promised_keep(self, clock, total):
        return None

    def update(self, ctx):
        return Update(all_kept(ctx))


# --- what may not be written


@broken(STRATEGIES, r"update, step 0: it changes parameter 1\.weight")
class WritesWeights(Sound):
    def update(self, ctx):
        update = super().update(ctx)
        for name, mask in update.masks.items():
            ctx.weights[name].mul_(mask)
        return update


@broken(STRATEGIES, r"update, step \d: it changes the anchor of 1\.weight")
class WritesTheAnchor(Sound):
    def update(self, ctx):
        ctx.anchor["1.weight" if "1.weight" in ctx.anchor else next(iter(ctx.anchor))].zero_()
        return super().update(ctx)


@broken(STRATEGIES, r"update, step 0: it changes buffer 1\.running_mean")
class MovesBatchNorm(Sound):
    def update(self, ctx):
        for x, _ in ctx.calibration(8):
            ctx.model.train()(x)
        return super().update(ctx)


@broken(STRATEGIES, r"update, step 0: it changes the gradient of 1\.weight")
class LeavesGradients(Sound):
    def update(self, ctx):
        with torch.enable_grad():
            for x, y in ctx.calibration(8):
                ctx.model.eval()
                torch.autograd.backward(ctx.loss(x, y))
        return super().update(ctx)


@broken(STRATEGIES, r"update, step 0: it changes requires_grad of 1\.weight")
class Freezes(Sound):
    def update(self, ctx):
        ctx.model.requires_grad_(False)
        return super().update(ctx)


@broken(STRATEGIES, r"update, step 0: it changes the hooks on module")
class LeavesHooks(Sound):
    def update(self, ctx):
        ctx.model.register_forward_hook(lambda module, args, out: None)
        return super().update(ctx)


@broken(STRATEGIES, r"update, step 0: it changes torch.is_grad_enabled\(\)")
class SwitchesGradientsOff(Sound):
    def update(self, ctx):
        update = super().update(ctx)
        torch.set_grad_enabled(False)
        return update


@broken(STRATEGIES, r"update, step 1: it changes the optimizer state momentum_buffer of 1\.weight")
class ForgetsMomentum(Sound):
    def update(self, ctx):
        if ctx.clock.step:
            for state in ctx.around.mask_set.optimizers[0].state.values():
                del state["momentum_buffer"]
        return super().update(ctx)


@broken(STRATEGIES, r"adjust_gradients, step 0: it changes parameter 1\.weight")
class DecaysByHand(Sound):
    def adjust_gradients(self, ctx):
        for weight in ctx.weights.values():
            weight.mul_(0.9)


@broken(STRATEGIES, r"penalty, step 0: it changes the gradient of 1\.weight")
class PenalisesByHand(Sound):
    def penalty(self, model, clock):
        loss = sum(p.square().sum() for p in model.parameters())
        torch.autograd.backward(loss)


@broken(STRATEGIES, r"penalty, step 0: returned no scalar tensor with a gradient")
class PenaltyWithoutGradient(Sound):
    def penalty(self, model, clock):
        return torch.tensor(1.0)


@broken(STRATEGIES, r"batch_penalty, step 0: draws from the global random state of torch")
class PenaltyDrawsGlobally(Sound):
    def batch_penalty(self, ctx):
        return (ctx.logits * torch.rand(())).mean()


@broken(STRATEGIES, r"batch_penalty, step 0: returned nan")
class PenaltyOfNothing(Sound):
    def batch_penalty(self, ctx):
        return ctx.logits[:0].mean()


@broken(STRATEGIES, r"around_gradients, step 0: it changes parameter 1\.weight")
class PerturbsByHand(Sound):
    def around_gradients(self, ctx, compute):
        for param in ctx.model.parameters():
            param.data.add_(0.1)
        compute()


@broken(STRATEGIES, r"called compute 2 times, and gradient_passes says 1")
class PassesInSecret(Sound):
    def around_gradients(self, ctx, compute):
        compute()
        compute()


@broken(STRATEGIES, r"gradient_passes, step 0: is not pure")
class PassesByMood(Sound):
    passes = 0

    def around_gradients(self, ctx, compute):
        compute()

    def gradient_passes(self, clock):
        self.passes += 1
        return self.passes


@broken(STRATEGIES, r"the state 'momentum_buffer' of 1\.weight is not finite")
class StateOfNothing(Sound):
    def update(self, ctx):
        found, change = super().update(ctx), {"momentum_buffer": float("nan")}
        state = {
            name: StateChange(mask, change)
            for name, mask in found.masks.items()
            if ctx.optimizer_state(name)
        }
        return replace(found, state=state)


# --- randomness, purity, memory, ranks


@broken(STRATEGIES, r"update, step 0: draws from the global random state of torch: draw from ctx.g")
class DrawsGlobally(Sound):
    def score(self, name, ctx):
        return torch.rand_like(ctx.weights[name])


@broken(STRATEGIES, r"update, step 0: draws from the global random state of Python")
class ShufflesGlobally(Sound):
    def score(self, name, ctx):
        return torch.full_like(ctx.weights[name], random.random())


@broken(STRATEGIES, r"mask of 1\.weight, step 0, is another in a second run of the same seed")
class CountsItsInstances(Sound):
    made = 0

    def __init__(self, config):
        super().__init__(config)
        type(self).made += 1

    def score(self, name, ctx):
        weight = ctx.weights[name]
        score = torch.arange(weight.numel()).reshape(weight.shape).float()
        return score if self.made // 2 % 2 else -score


@broken(STRATEGIES, r"due, step 0: is not pure: asked twice, it said True, then False")
class DueOnce(Sound):
    asked = False

    def due(self, clock):
        due, self.asked = not self.asked, True
        return due


@broken(STRATEGIES, r"due, step \d: it said \w+ in a run and \w+ when asked alone")
class DueByMemory(Sound):
    updates = 0

    def due(self, clock):
        return clock.step == 0 or self.updates % 2 == 1

    def update(self, ctx):
        self.updates += 1
        return super().update(ctx)


@broken(STRATEGIES, r"due, step 0: returned tensor\(True\), not a bool")
class DueByTensor(Sound):
    def due(self, clock):
        return torch.tensor(True)


@broken(STRATEGIES, r"due was never true in runs of up to 10 steps")
class NeverDue(Sound):
    def due(self, clock):
        return False


class Averages(Sound):
    """Scores are sums over time; nothing is wrong with it."""

    def __init__(self, config):
        super().__init__(config)
        self.sums = {}

    def score(self, name, ctx):
        self.sums[name] = self.sums.get(name, 0.0) + ctx.weights[name].square()
        return self.sums[name].clone()

    def state_dict(self):
        return {"sums": self.sums}

    def load_state_dict(self, state):
        self.sums = dict(state["sums"])


@broken(STRATEGIES, r"is another in a run that was saved at step \d and continued: what")
class ForgetsAverages(Averages):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def score(self, name, ctx):
        super().score(name, ctx)  # a larger step in the sum weighs as much as many small ones
        return -self.sums[name] if ctx.clock.step % 2 else self.sums[name].clone()


@broken(STRATEGIES, r"load_state_dict, step 1: state_dict\(\)\['sums'\]\S* is not restored")
class LoadsNothing(Averages):
    def load_state_dict(self, state):
        pass


@broken(STRATEGIES, r"state_dict\(\) does not come back from a checkpoint: return plain tensors")
class SavesAnObject(Averages):
    def state_dict(self):
        return {"sums": self.sums, "last": duration("1st")}


@broken(STRATEGIES, r"the values for weights that stay differ between ranks: .*ctx.mean_over")
class CorrectsByItsOwnBuffers(Sound):
    corrects = True

    def update(self, ctx):
        seen = sum(buffer.double().sum() for buffer in ctx.model.buffers())
        values = {name: weight * (1 + 0.01 * seen) for name, weight in ctx.weights.items()}
        return Update(super().update(ctx).masks, values)


@broken(STRATEGIES, r"step \d: the masks differ between ranks: .* ctx.mean_over_ranks")
class ReadsItsOwnBuffers(Sound):
    def score(self, name, ctx):
        means = [b for n, b in ctx.model.named_buffers() if n.endswith("running_mean")]
        own = sum(mean.sum() for mean in means) if means else torch.tensor(0.0)
        return torch.sin(1e4 * own + ctx.weights[name] * 50)


@broken(STRATEGIES, r"ranks part ways, .*rank 0 is at mean_over_ranks")
class MeansOnOneRank(Sound):
    def update(self, ctx):
        if getattr(ctx.around.sources.ranks, "rank", 1) == 0:
            ctx.mean_over_ranks(torch.ones(1))
        return super().update(ctx)


# --- models, settings, the end


class Softens(Sound):
    """Soft masks until the end; nothing is wrong with it."""

    class Config(Sound.Config):
        mode: Literal["ste"] = "ste"

    modes = ("ste",)
    soft_masks = True

    def softness(self, ctx):
        return 0.5

    def update(self, ctx):
        masks = super().update(ctx).masks
        if ctx.clock.active_step == ctx.clock.active_steps:
            return Update(masks)
        return Update(masks, soft={n: mask * self.softness(ctx) for n, mask in masks.items()})


@broken(STRATEGIES, r"step 2: the mask of .* is soft at the end of its window")
class StaysSoft(Softens):
    def update(self, ctx):
        masks = ScoredStrategy.update(self, ctx).masks
        return Update(masks, soft={name: mask * 0.5 for name, mask in masks.items()})


@broken(STRATEGIES, r"the mask of .* is another in a run that was saved at step \d and continued")
class ForgetsItsSoftness(Softens):
    calls = 0

    def softness(self, ctx):
        self.calls += 1
        return 1 / self.calls


@broken(STRATEGIES, r"masks differ between ranks")
class SoftByItsOwnBuffers(Softens):
    def softness(self, ctx):
        buffers = [b.float().mean() for n, b in ctx.model.named_buffers() if "mean" in n]
        return torch.stack([torch.ones(()), *buffers]).sum().sigmoid()


@broken(STRATEGIES, r"refuses all models: .*\n  tiny: .*no layer named encoder\n  mlp: .*no layer")
class FitsNothing(Sound):
    def prepare(self, model):
        raise RecipeError("no layer named encoder")


@broken(STRATEGIES, r"needs two updates")
class RefusesLate(Sound):
    def update(self, ctx):
        if ctx.clock.step:
            raise RecipeError("needs two updates")
        return super().update(ctx)


@broken(STRATEGIES, r"under torch.compile")
class LooksWhetherCompiled(Sound):
    def prepare(self, model):
        first = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
        first.register_forward_hook(self.hook)

    @staticmethod
    def hook(module, args, out):
        return -out if torch.compiler.is_compiling() else out


@broken(STRATEGIES, r"finish returned NoneType, not the model")
class FinishesWithNothing(Sound):
    def finish(self, model):
        return None


@broken(STRATEGIES, r"finish: pruned weights of 1\.weight are not zero in the end")
class FinishesDense(Sound):
    def finish(self, model):
        for param in model.parameters():
            param.data.add_(1.0)
        return model


@broken(STRATEGIES, r"finish: the finished model gives what is not finite")
class FinishesBroken(Sound):
    def finish(self, model):
        for name, param in model.named_parameters():
            if name.endswith("bias"):
                param.data.fill_(float("nan"))
        return model


@broken(STRATEGIES, r"Config.share does not come back from JSON: 0.5 became 0.25")
class HalvesItsSetting(Sound):
    class Config(Sound.Config):
        share: float = 1.0

        @field_validator("share")
        @classmethod
        def _half(cls, share):
            return share / 2


@broken(STRATEGIES, r"Config does not come back from JSON")
class SettingOfAnyKind(Sound):
    class Config(Sound.Config):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        device: torch.device = torch.device("cpu")


@broken(STRATEGIES, r"Config takes unknown keys")
class TakesAnything(Sound):
    class Config(Sound.Config):
        model_config = ConfigDict(extra="ignore")


@broken(STRATEGIES, r"Abstract does not define due, update")
class Abstract(PruningStrategy):
    class Config(StrategyConfig):
        name: Literal["abstract"] = "abstract"


@broken(STRATEGIES, r"reads is 'gradient': say weights or gradients")
class Misread(Sound):
    reads = "gradient"


# --- compressors


class Halves(DataCompressor):
    """Every second token goes; nothing is wrong with it."""

    conserves_mass = False

    class Config(CompressorConfig):
        name: Literal["halves"] = "halves"

    def output_tokens(self, n):
        return (n + 1) // 2

    def forward(self, tokens):
        x, size, first = tokens
        return TokenBatch(*(torch.cat([t[:, :first], t[:, first::2]], 1) for t in (x, size)), first)


class Pays(Halves):
    """Halves with a weight that learns and a term for the loss; nothing is wrong with it."""

    adds_loss = True

    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, tokens):
        out = super().forward(tokens)
        if out.x.shape[1] == tokens.x.shape[1]:
            return tokens
        first, scale = tokens.protected, self.weight.to(out.x.dtype)
        self.pay(tokens.x.float().square().mean() * self.weight)
        return out._replace(x=torch.cat([out.x[:, :first], out.x[:, first:] * scale], 1))

    def pay(self, term):
        self.add_loss(term)


@broken(COMPRESSORS, r"adds_loss is True, and forward in training left no term for the loss")
class PaysNothing(Pays):
    def pay(self, term):
        pass


@broken(COMPRESSORS, r"adds_loss is False, and forward in training left a term for the loss")
class PaysUndeclared(Pays):
    adds_loss = False


@broken(COMPRESSORS, r"of a batch that has each sample twice: give the mean over the samples")
class PaysTheSum(Pays):
    def forward(self, tokens):
        self.samples = len(tokens.x)
        return super().forward(tokens)

    def pay(self, term):
        self.add_loss(term * self.samples)


@broken(COMPRESSORS, r"add_loss was given float32 \[1\], where one number is wanted")
class PaysAVector(Pays):
    def pay(self, term):
        self.add_loss(term.view(1))


@broken(COMPRESSORS, r"its loss depends on nothing that learns")
class PaysInVain(Pays):
    def pay(self, term):
        self.add_loss(term.detach())


@broken(COMPRESSORS, r"no gradient reaches the parameter idle")
class HoldsAnIdleParameter(Pays):
    def __init__(self, config):
        super().__init__(config)
        self.idle = nn.Parameter(torch.ones(()))


@broken(COMPRESSORS, r"output_tokens\(2\) is 2, so x is .*; forward gave x \(1, 1, 1\)")
class PromisesAll(Halves):
    def output_tokens(self, n):
        return n


@broken(COMPRESSORS, r"output_tokens\(1\) is 0.5, not an int in 1 \.\. 1")
class CountsByHalves(Halves):
    def output_tokens(self, n):
        return n / 2


@broken(COMPRESSORS, r"output_tokens\(2\) is \d, and \d when asked again")
class CountsCalls(Halves):
    calls = 0

    def output_tokens(self, n):
        self.calls += 1
        return max(1, n - self.calls % 2)


@broken(COMPRESSORS, r"output_tokens refuses every count from 1 to 256")
class TakesNothing(Halves):
    def output_tokens(self, n):
        raise RecipeError("no")


@broken(COMPRESSORS, r"output_tokens\(1\) raised ZeroDivisionError")
class CrashesAtOne(Halves):
    def output_tokens(self, n):
        return n // (n - 1)


@broken(COMPRESSORS, r"the 1 protected tokens are not the first ones of the output, unchanged")
class DropsTheClassToken(Halves):
    def forward(self, tokens):
        out = super().forward(tokens)
        return TokenBatch(out.x.flip(1), out.size.flip(1), out.protected)


@broken(COMPRESSORS, r"conserves_mass, but sizes that add up to \[.*\] came out as")
class LosesMass(Halves):
    conserves_mass = True


@broken(COMPRESSORS, r"a size is not positive")
class SizeZero(Halves):
    def forward(self, tokens):
        out = super().forward(tokens)
        return out._replace(size=out.size - 1)


@broken(COMPRESSORS, r"x torch.bfloat16 became torch.float32")
class Upcasts(Halves):
    def forward(self, tokens):
        return super().forward(tokens._replace(x=tokens.x.float()))


@broken(COMPRESSORS, r"no gradient reaches x")
class Detaches(Halves):
    def forward(self, tokens):
        return super().forward(tokens._replace(x=tokens.x.detach()))


@broken(COMPRESSORS, r"forward writes into the tokens that it is given")
class WritesSizes(Halves):
    def forward(self, tokens):
        out = super().forward(tokens)
        tokens.size.add_(1)
        return out


@broken(COMPRESSORS, r"forward in evaluation changes the global random state of torch")
class DrawsInEvaluation(Halves):
    def forward(self, tokens):
        order = torch.randperm(tokens.x.shape[1] - tokens.protected) + tokens.protected
        kept = order[: self.output_tokens(len(order))].sort().values
        rows = torch.cat([torch.arange(tokens.protected), kept])
        return TokenBatch(tokens.x[:, rows], tokens.size[:, rows], tokens.protected)


@broken(COMPRESSORS, r"sample 0 gives other tokens alone than in its batch")
class MixesSamples(Halves):
    def forward(self, tokens):
        out = super().forward(tokens)
        mixed = out.x + out.x.mean(0, keepdim=True)
        return out._replace(x=torch.cat([out.x[:, : out.protected], mixed[:, out.protected :]], 1))


@broken(COMPRESSORS, r"groups gave a place that is not in -1 \.\. \d")
class CountsWhatCameIn(Halves):
    def groups(self, tokens):
        return torch.arange(tokens.x.shape[1]).expand(tokens.x.shape[:2])


@broken(COMPRESSORS, r"groups gave no token to a place that came out")
class TellsOfNone(Halves):
    def groups(self, tokens):
        return torch.full(tokens.x.shape[:2], -1)


@broken(COMPRESSORS, r"groups gave torch.float32")
class TellsShares(Halves):
    def groups(self, tokens):
        return tokens.size


@broken(COMPRESSORS, r"the sizes that groups put together are not those that came out")
class TellsTheOtherWay(Tome):
    class Config(Tome.Config):
        name: Literal["tells_the_other_way"] = "tells_the_other_way"
        ratio: float = 0.5

    def groups(self, tokens):
        own, first = super().groups(tokens), tokens.protected
        return torch.cat([own[:, :first], own[:, first:].flip(1)], 1)


@broken(COMPRESSORS, r"ratio 0 is not the identity")
class AlwaysHalves(Halves):
    class Config(CompressorConfig):
        name: Literal["always_halves"] = "always_halves"
        ratio: float = 0.5


@broken(COMPRESSORS, r"a new compressor with the same settings and state_dict\(\) gives other")
class HidesItsWeights(Halves):
    def __init__(self, config):
        super().__init__(config)
        self.scale = float(torch.rand(()))

    def forward(self, tokens):
        out = super().forward(tokens)
        first = out.protected
        return out._replace(x=torch.cat([out.x[:, :first], out.x[:, first:] * self.scale], 1))


@broken(COMPRESSORS, r"forward in evaluation gives other tokens when it is called again")
class RemembersCalls(Halves):
    calls = 0

    def forward(self, tokens):
        self.calls += 1
        out = super().forward(tokens)
        first = out.protected
        return out._replace(x=torch.cat([out.x[:, :first], out.x[:, first:] * self.calls], 1))


@broken(COMPRESSORS, r"on the meta device")
class StaysOnTheCpu(Halves):
    def forward(self, tokens):
        out = super().forward(tokens)
        return out._replace(x=out.x * torch.ones(out.x.shape[1], 1))


@broken(COMPRESSORS, r"under torch.compile\(fullgraph=True\)")
class BreaksTheGraph(Halves):
    def forward(self, tokens):
        torch._dynamo.graph_break()
        return super().forward(tokens)


# --- probes


class Counts(Probe):
    class Config(ProbeConfig):
        name: Literal["counts"] = "counts"

    def due(self, clock):
        return True

    def observe(self, ctx):
        return {"tensors": float(len(ctx.weights))}


@broken(PROBES, r"observe, step 0: it changes the gradient of 1\.weight")
class ClipsGradients(Counts):
    def observe(self, ctx):
        for grad in ctx.grads.values():
            grad.clamp_(-1e-3, 1e-3)
        return {}


@broken(PROBES, r"observe, step 0: gave 'norm' as Tensor, not as an int or a float")
class ReturnsTensors(Counts):
    def observe(self, ctx):
        return {"norm": torch.tensor(1.0)}


@broken(PROBES, r"saved after step 1 and continued tells something else: state_dict\(\) must hold")
class Forgets(Counts):
    looks = 0

    def observe(self, ctx):
        self.looks += 1
        return {"looks": self.looks}


@broken(PROBES, r"observe, step 0: draws from the global random state of torch")
class AddsNoise(Counts):
    def observe(self, ctx):
        return {"noise": float(F.dropout(torch.ones(1)))}
