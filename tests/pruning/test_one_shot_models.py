"""Finished models in one shot: vision transformers of others, and language models."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision.models import VisionTransformer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig as HFConfig,
    ViTForImageClassification,
)

from prunekit import Pruner, open_run, strategy
from prunekit.pruning.selection import keep_count
from tests.support.training import run

HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TIMM = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
VITS = {
    "torchvision": ("heads*", lambda: VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)),
    "timm": ("head*", lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, **TIMM)),
    "transformers": (
        "classifier*",
        lambda: ViTForImageClassification(HFConfig(image_size=32, patch_size=8, **HF)),
    ),
}


class Images:
    """Made images, in batches of 4."""

    def calibration(self, samples, balanced):
        draw = torch.Generator().manual_seed(0)
        for _ in range(0, samples, 4):
            yield torch.randn(4, 3, 32, 32, generator=draw), torch.arange(4) % 2


def loss(out, labels):
    return F.cross_entropy(getattr(out, "logits", out), labels)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "taylor", "fpgm", "sparse_gpt"])
@pytest.mark.parametrize("kind", VITS)
def test_a_finished_vision_transformer_loses_half_in_one_shot(kind, name):
    torch.manual_seed(0)
    head, make = VITS[kind]
    model = make()
    if kind == "torchvision":  # its head starts at zero, which tells taylor nothing
        torch.nn.init.normal_(model.heads[0].weight)
    samples = {"samples": 8} if name in ("wanda", "taylor", "sparse_gpt") else {}
    if name != "fpgm":
        samples |= {"schedule": "constant"}
    half = strategy(name, sparsity=0.5, mode="hard", scope={"exclude": [head]}, **samples)
    shape = (3, 32, 32)
    pruner = Pruner(
        model, [half], total_steps=0, data=Images(), loss_function=loss, input_shape=shape
    )
    pruner.start()
    (units,) = pruner.units()
    assert units.kept == keep_count(units.total, 0.5)
    finished = pruner.finish()
    assert pruner.effective.sparsity == pytest.approx(0.5, abs=0.02)
    out = finished(torch.randn(2, *shape))
    assert getattr(out, "logits", out).isfinite().all()


def test_a_recipe_of_no_step_does_it(tmp_path):
    run_dir = run(
        tmp_path,
        model={"name": "timm:test_vit", "kwargs": {"depth": 1}},
        data={"name": "digits", "batch_size": 16, "image_size": 64, "train_limit": 32},
        strategies=[{"name": "sparse_gpt", "sparsity": 0.5, "samples": 16}],
        phases=[{"name": "prune", "length": "0st"}],
    )
    assert open_run(run_dir).report()["sparsity"]["scope"] == pytest.approx(0.5, abs=1e-4)


LLAMA = LlamaConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(vocab_size=48, n_positions=16, n_embd=32, n_layer=2, n_head=2)


class Tokens:
    """Made sequences of which each token depends on the one before; as a tokenizer gives them."""

    def __init__(self, form):
        self.form = form

    def calibration(self, samples, balanced):
        draw = torch.Generator().manual_seed(0)
        for _ in range(0, samples, 4):
            steps = torch.randint(1, 4, (4, 12), generator=draw)
            ids = steps.cumsum(1) % 48
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            yield {"ids": ids, "dict": inputs, "tuple": (ids,)}[self.form], ids


@pytest.mark.parametrize("form", ["ids", "dict", "tuple"])
@pytest.mark.parametrize("name", ["wanda", "sparse_gpt"])
def test_a_causal_language_model_is_pruned_from_token_ids(name, form):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA).eval()
    dense = copy.deepcopy(model)
    chosen = strategy(name, sparsity=0.5, samples=32, scope={"include": ["model.layers.*_proj*"]})
    pruner = Pruner(model, [chosen], total_steps=0, data=Tokens(form))
    pruner.start()
    masks = pruner.masks()
    assert len(masks) == 2 * 7
    assert all(int(m.sum()) == keep_count(m.numel(), 0.5) for m in masks.values())
    finished = pruner.finish()
    if name == "sparse_gpt":  # nearer to the dense model than the same masks alone
        plain = copy.deepcopy(dense)
        for own, mask in masks.items():
            plain.get_parameter(own).data *= mask
        ids = torch.arange(40).view(4, 10)
        with torch.no_grad():
            right, own, alone = (m(ids).logits for m in (dense, finished, plain))
        assert (own - right).square().sum() < 0.8 * (alone - right).square().sum()


def test_weights_that_lie_the_other_way_are_corrected_in_gpt2():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2).eval()
    ids = next(Tokens("ids").calibration(4, False))[0]
    layer = model.transformer.h[0].attn.c_attn  # [in, out]
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    model(ids)
    handle.remove()
    before = layer.weight.detach().clone()
    only = {"include": ["transformer.h.0.attn.c_attn.weight"]}
    chosen = strategy("sparse_gpt", sparsity=0.5, samples=4, scope=only)
    pruner = Pruner(model, [chosen], total_steps=0, data=Tokens("ids"))
    pruner.start()
    (mask,) = pruner.masks().values()
    own, alone = (
        (seen[0] @ (now - before)).square().sum(0) for now in (layer.weight, before * mask)
    )
    assert (own <= alone * (1 + 1e-5)).all()
    assert own.sum() < 0.8 * alone.sum()
