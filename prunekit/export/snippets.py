"""Lines that load an export: what a model card shows, and a test runs."""

from __future__ import annotations

from prunekit.export.subject import Subject
from prunekit.registry.own_code import code_of

PACKED_FILE, PLAIN_FILE = "model.packed.safetensors", "model.safetensors"
ONNX_FILE, PT2_FILE = "model.onnx", "model.pt2"

ONNXRUNTIME = """\
import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images = np.zeros((1, {shape}), dtype=np.float32)  # in place of yours
(logits,) = session.run(["logits"], {{"images": images}})
print(classes[logits[0].argmax()])
"""
PT2 = """\
import json

import torch

metadata = {{"prunekit.json": ""}}
model = torch.export.load("{file}", extra_files=metadata).module()
classes = json.loads(json.loads(metadata["prunekit.json"])["classes"])
images = torch.zeros(1, {shape})  # in place of yours
with torch.no_grad():
    logits = model(images)
print(classes[logits[0].argmax()])
"""
PRUNEKIT = """\
import prunekit
import torch

model = prunekit.load_model("{file}"{code})
prepare = prunekit.preprocessing("{file}")
images = prepare.read(["image.png"])  # or uint8 pixels [B, {shape}]: prepare(pixels)
with torch.no_grad():
    logits = model(images)
print(prepare.classes[logits[0].argmax()])
"""
STATE_DICT = """\
import {library}
import torch
from safetensors.torch import load_file

model = {call}
model.load_state_dict(load_file("{file}"), strict=True)
model.eval()
images = torch.zeros(1, {shape})  # in place of yours
with torch.no_grad():
    logits = model(images)
print(logits[0].argmax().item())
"""


def snippet(file: str, subject: Subject) -> str:
    """The lines that load a file of an export by its own runtime; of weights, by prunekit."""
    spec = subject.spec
    shape = f"{spec.channels}, {spec.height}, {spec.width}"
    template = {ONNX_FILE: ONNXRUNTIME, PT2_FILE: PT2}.get(file, PRUNEKIT)
    own = code_of(subject.recipe.model, subject.recipe.compressors)
    code = f", code={own.name!r}" if own else ""
    return template.format(file=file, shape=shape, code=code)


def state_dict_snippet(subject: Subject) -> str | None:
    """The lines that load the plain weights into a stock model.

    None where that is not true: with a compressor a stock model computes something else, without
    its empty units it is smaller, and prunekit's own architectures are its own classes.
    """
    spec, (library, _, variant) = subject.spec, subject.recipe.model.name.partition(":")
    settings: dict[str, object] = {"num_classes": spec.classes}
    if subject.recipe.compressors or (subject.compact and subject.compact["removed"]):
        return None
    settings |= getattr(subject.recipe.model, "kwargs", {})
    if library == "torchvision" and spec.channels == 3:
        if variant.startswith("vit_"):
            settings["image_size"] = spec.height
        if variant in ("googlenet", "inception_v3"):
            settings |= {"aux_logits": False, "init_weights": True}
        call = f'torchvision.models.get_model("{variant}", weights=None, {_written(settings)})'
    elif library == "timm":
        settings["in_chans"] = spec.channels
        if _one_size(variant):
            settings["img_size"] = (spec.height, spec.width)
        call = f'timm.create_model("{variant}", {_written(settings)})'
    else:
        return None
    shape = f"{spec.channels}, {spec.height}, {spec.width}"
    return STATE_DICT.format(library=library, call=call, file=PLAIN_FILE, shape=shape)


def _one_size(variant: str) -> bool:
    """Whether a model of timm is made for one size of image."""
    import timm

    stock = timm.get_pretrained_cfg(variant)
    return stock is not None and bool(stock.fixed_input_size)


def _written(settings: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
