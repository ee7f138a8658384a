"""A model without the units that its masks emptied, proved to compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prunekit.errors import ExportError, UsageError
from prunekit.pruning.compact.emptiness import Empty, by_first_name
from prunekit.pruning.compact.plan import LayerCut, RemovalPlan, plan_removal
from prunekit.pruning.compact.proof import TOLERANCE, MaskedReference, random_images
from prunekit.pruning.compact.rest import renumbered, without_rest
from prunekit.pruning.compact.surgery import masked_copy, smaller_masks, without
from prunekit.pruning.compact.values import Compacted, Proof, Removed, Stayed
from prunekit.pruning.flow import note_input, removable
from prunekit.pruning.flow.removable import OUTPUT

FIXED = "has its size fixed in the code of the model"


def compact(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    images: Tensor | None = None,
) -> Compacted:
    """Remove the heads, channels and hidden units of which nothing is left but zeros.

    A unit leaves if what is read of it is exactly 0: its rows are 0, and so are its bias entry and
    the entries of the norms behind it, as the structures `head` and `channel` prune them; or if no
    layer reads it. The columns that read it leave, too. What that cannot be said of stays, as what
    enters a residual stream, and is told. Each layer keeps one unit.

    Args:
        model: the plain module; it is not changed.
        masks: parameter name -> bool, True = kept, as `Pruner.masks()` or `RunDir.masks()` has
            them; None: the zeros in the parameters, where an attached Pruner holds W*M.
        input_shape: [C, H, W] of one image; None = that of `images`, of the Pruner, or a guess.
        images: [N, C, H, W], normalised: the two models are compared on up to 64 of them; None =
            64 random ones.

    Returns:
        The smaller model and what was done. Where nothing is empty, its state dict is the same.

    Raises:
        UsageError: masks of another model, no forward pass runs, or channels of a convolution that
            index selection does not cover, as one in groups, need the extra `removal`.
        ExportError: the logits of the smaller model are not, within 1e-9 of the largest, those of
            the masked one in float64; names the layer.
    """
    return compacted(model, masks, input_shape=input_shape, images=images, required=True)


def compacted(
    model: nn.Module,
    masks: Mapping[str, Tensor] | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    images: Tensor | None = None,
    required: bool,
) -> Compacted:
    """As `compact`; where not `required`, a library that is missing is told in `stayed`."""
    known = by_first_name(model, masks or {})
    shape = tuple(images.shape[1:]) if images is not None else input_shape
    note_input(model, shape)
    found = removable(model)
    if found.untraced:
        raise UsageError(f"compact: {found.untraced}: give input_shape=")
    wanted = plan_removal(model, found, Empty(model, known, found.along))
    if not wanted.cuts and not wanted.channels:
        return _Work(model, known, None, wanted).result()
    if images is None:
        if found.shape is None:
            raise UsageError("compact: the model takes more than one tensor")
        images = random_images(found.shape)
    outputs = {w for unit in found.units if unit.reason == OUTPUT for w, _ in unit.rows}
    work = _Work(model, known, MaskedReference(model, known, images, outputs), wanted)
    work.remove(wanted.cuts)
    work.remove_rest(tuple(images.shape[1:]), required=required)
    return work.result()


class _Work:
    """A model on its way to a smaller one."""

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        reference: MaskedReference | None,
        wanted: RemovalPlan,
    ) -> None:
        self.original, self.reference = model, reference
        self.masks, self.channels = dict(masks), wanted.channels
        self.given, self.model = masks, masked_copy(model, masks)
        self.removed, self.stayed = list[Removed](), list(wanted.stayed)
        self.replaced: dict[str, str] = {}
        self.proof: Proof | None = None

    def remove(self, cuts: Sequence[LayerCut]) -> None:
        """Take out what can be: all at once, else layer by layer."""
        try:
            proof, same = self._try(cuts)
        except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
            raise
        except Exception:  # a model whose own code has a size in it says so in its own way
            cuts = self._those_that_run(cuts)
            if not cuts:
                return
            proof, same = self._try(cuts)
        if not same:
            alone = [cut for cut in cuts if not self._try([cut])[1]] or [cuts[-1]]
            raise ExportError(_difference(alone[0].removed[0], proof))
        self.model, self.replaced = without(self.model, cuts)
        self.masks, self.proof = smaller_masks(self.given, cuts), proof
        self.removed = [one for cut in cuts for one in cut.removed]
        self.channels = renumbered(self.channels, cuts)

    def remove_rest(self, shape: tuple[int, ...], *, required: bool) -> None:
        """Take out what is in no reach of index selection, where a library can."""
        rest = without_rest(self.model, self.channels, self.stayed, shape, required=required)
        self.stayed = list(rest.stayed)
        if not rest.removed or self.reference is None:
            return
        proof, same = self.reference.compare(rest.model)
        if not same:
            raise ExportError(_difference(rest.removed[0], proof))
        self.model, self.proof = rest.model, proof
        self.removed += rest.removed
        for name, parameter in self.model.named_parameters():
            if name in self.masks and self.masks[name].shape != parameter.shape:
                self.masks[name] = parameter.detach() != 0  # what is left of it is not told

    def _try(self, cuts: Sequence[LayerCut]) -> tuple[Proof, bool]:
        assert self.reference is not None
        return self.reference.compare(without(masked_copy(self.model, {}), cuts)[0])

    def _those_that_run(self, cuts: Sequence[LayerCut]) -> list[LayerCut]:
        kept: list[LayerCut] = []
        for cut in cuts:
            try:
                self._try([*kept, cut])
            except torch.AcceleratorError:  # the device is gone, and nothing else is wrong
                raise
            except Exception:  # see `remove`
                self.stayed += [
                    Stayed(r.layer, r.unit, r.before - r.after, FIXED) for r in cut.removed
                ]
            else:
                kept.append(cut)
        return kept

    def result(self) -> Compacted:
        """The smaller model, and what was done."""
        return Compacted(
            model=self.model,
            masks=self.masks,
            removed=tuple(self.removed),
            stayed=tuple(self.stayed),
            replaced=self.replaced,
            parameters=(_count(self.original), _count(self.model)),
            proof=self.proof,
        )


def _difference(removed: Removed, proof: Proof) -> str:
    return (
        f"compact: without the empty {removed.unit} of {removed.layer} the logits are off by "
        f"{proof.difference:.1e} of the largest, not within {TOLERANCE:g}: nothing was removed; "
        "leave such layers out by scope.exclude of the strategy"
    )


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
