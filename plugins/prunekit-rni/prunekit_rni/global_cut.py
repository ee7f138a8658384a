"""A cut through the channels of all layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from prunekit import Clock, RecipeError, keep_count, top_mask, top_masks_global
from prunekit_rni.channels import ChannelStrategy


class GlobalChannelStrategy(ChannelStrategy):
    """Rank the free channels of all layers in one pool."""

    class Config(ChannelStrategy.Config):
        """Settings of a global cut."""

        exact: bool = False
        """What `min_channels` means for the total. False: a layer below it is raised to it, so more
        channels stay than the sparsity says. True: the other layers give up as many."""

    config: GlobalChannelStrategy.Config

    def check_scope(self, model: nn.Module, names: Sequence[str]) -> None:
        """With `exact`, the layers' floors must leave the sparsity room."""
        super().check_scope(model, names)
        sizes = [len(model.get_parameter(f"{layer.conv}.weight")) for layer in self.layers(names)]
        keep = keep_count(sum(sizes), self.config.sparsity)
        if self.config.exact and keep < (held := sum(map(self.floor, sizes))):
            raise RecipeError(
                f"{self.who()}: sparsity {self.config.sparsity} keeps {keep} of {sum(sizes)} "
                f"channels, but min_channels keeps {held} in {len(sizes)} layers: lower one of them"
                ", or set exact: false"
            )

    def promised_keep(self, clock: Clock, total: int) -> int | None:
        """With `exact`, the exact count."""
        exact = self.is_cut(clock) and self.config.exact
        return (
            keep_count(total, self.config.sparsity)
            if exact
            else super().promised_keep(clock, total)
        )

    def select(self, scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The best of all layers, ties by (name, index); then the floors."""
        floors = {conv: self.floor(len(score)) for conv, score in scores.items()}
        keep = keep_count(sum(map(len, scores.values())), self.config.sparsity)
        if self.config.exact:
            return top_masks_global(scores, keep, floors)
        kept = top_masks_global(scores, keep)
        low = [conv for conv in kept if kept[conv].sum() < floors[conv]]
        return kept | {conv: top_mask(scores[conv], floors[conv]) for conv in low}
