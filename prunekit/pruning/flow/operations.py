"""Operations of torch's aten level, by what they do with the elements that they are given.

Names are those of aten without the `_` of the in-place form. What is in none of these sets, is no
view and is not tagged pointwise by torch is unknown, and nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

COPIES = {"clone", "_to_copy", "detach", "alias", "lift_fresh", "contiguous", "copy", "lift"}
"""Each element stays where it is."""
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
MOVES = {
    *("cat", "stack", "roll", "flip", "index", "index_select", "gather", "repeat", "unfold"),
    *("constant_pad_nd", "im2col", "pixel_shuffle", "pixel_unshuffle", "index_put"),
    *("native_channel_shuffle", "channel_shuffle", "slice_scatter", "select_scatter"),
    *("rot90", "take", "permute_copy", "split_copy", "expand_copy"),
}
"""Elements go to other places, unchanged; views do so, too."""
MOVING = COPIES | RESHAPES | MOVES
WRITES = {"constant_pad_nd", "index_put", "slice_scatter", "select_scatter"}
"""Moves that put other elements among those of their first argument."""
NOT_FOLLOWED = {"as_strided"}
"""A view in terms of memory, not of places: known only where it moves nothing."""
POINTWISE = {
    "hardswish",
    "hardsigmoid",
    "gelu",
    "_prelu_kernel",
    "rrelu_with_noise",
    "glu_jvp",
    "log_sigmoid_forward",
}
"""Element by element, without torch's tag for it in every version."""
ZEROS = {"zeros", "zeros_like", "new_zeros", "zero"}
FACTORIES = {
    *("empty", "empty_like", "new_empty", "ones", "ones_like", "new_ones", "full", "full_like"),
    *("new_full", "arange", "linspace", "scalar_tensor", "randn", "rand", "eye"),
    *("empty_strided", "new_empty_strided", "fill", "normal", "uniform"),
}
"""What comes out does not depend on what goes in."""
PRODUCTS = {"mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1)}
SUMS_OF_PRODUCTS = {"addmm": (1, 2), "baddbmm": (1, 2), "addmv": (1, 2)}
"""Matrix products, with the places of their two factors."""
FACTORS = PRODUCTS | SUMS_OF_PRODUCTS
CONVOLUTIONS = {"convolution", "_convolution"}
BATCH_NORMS = {
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("cudnn_batch_norm", "miopen_batch_norm", "batch_norm_with_update"),
    *("_batch_norm_with_update", "_batch_norm_no_update"),
}
LAYER_NORMS = {"native_layer_norm", "_fused_rms_norm"}
RMS_NORMS = {"_fused_rms_norm"}
"""No shift, no mean: what is 0 stays 0."""
GROUP_NORMS = {"native_group_norm"}
NORMS = BATCH_NORMS | LAYER_NORMS | GROUP_NORMS
SPATIAL = {
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_avg_pool1d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d"),
    *("adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("_upsample_nearest_exact2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa"),
    *("upsample_bicubic2d", "_upsample_bicubic2d_aa", "upsample_linear1d", "upsample_trilinear3d"),
    *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
}
"""Each channel by itself, over its last 1, 2 or 3 axes; zeros stay zeros."""
REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean"),
    *("linalg_vector_norm", "norm", "prod"),
}
"""Over some axes; zeros give zero."""
SOFTMAXES = {"_softmax", "_safe_softmax", "_log_softmax"}


def is_pointwise(name: str, func: OpOverload) -> bool:
    """Whether an operation works element by element, its operands broadcast."""
    return torch.Tag.pointwise in func.tags or name in POINTWISE


def short_name(func: OpOverload) -> str:
    """`mul` of `aten.mul_.Tensor`."""
    name = str(func._schema.name).partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def arguments(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    named = [argument.name for argument in func._schema.arguments]
    return dict(zip(named, args, strict=False)) | kwargs


def keeps_places(tensor: Tensor, size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether `as_strided` only says anew how axes of length 1 lie."""
    old = zip(tensor.shape, tensor.stride(), strict=True)
    new = zip(size, stride, strict=True)
    return list(tensor.shape) == list(size) and all(
        n == 1 or before == after for (n, before), (_, after) in zip(old, new, strict=True)
    )


def spatial_axes(name: str) -> int:
    """How many last axes an operation of `SPATIAL` works over."""
    return int(next(letter for letter in name if letter in "123"))
