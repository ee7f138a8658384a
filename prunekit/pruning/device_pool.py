"""A pool on an accelerator: the host waits once for a bracket, whatever is found in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from prunekit.pruning.pools import ScorePool

Bound = float | Tensor
"""A number, or a tensor of no dimension on the device."""


class Verdict(NamedTuple):
    """What a bracket told of a rank."""

    value: float | None
    """The entry of that rank; None: it is not known."""
    surplus: int
    """How many entries beside those of the rank are at least `value`."""
    nan: bool
    """Whether an entry is NaN."""


class DevicePool(ScorePool):
    """Counts and the entries in between stay there; no `kthvalue`, which is slow."""

    block = 1 << 23

    def blocks(self) -> Iterator[Tensor]:
        """The entries in turn: small tensors together, as each operation costs a launch."""
        parts = [part for flat in self.flat for part in torch.split(flat, self.block)]
        while parts:
            taken, length = 0, 0
            while taken < len(parts) and length + parts[taken].numel() <= self.block:
                length += parts[taken].numel()
                taken += 1
            yield self.read(parts[0] if taken == 1 else torch.cat(parts[:taken]))
            parts = parts[taken:]

    def ascending(self, drawn: Tensor) -> Tensor:
        """See `ScorePool`."""
        return drawn.sort().values

    def look(self, keep: int, low: Bound, high: Bound, most: int) -> Tensor:
        """What a bracket tells of the `keep`-th largest entry, [4] int64 for `verdict`.

        The edges count too: where many entries are equal, the entry may be one of them.

        Args:
            keep: the rank, 1 .. size.
            low: below it, or it.
            high: not less than `low`.
            most: entries in between that are kept; where there are more, they tell nothing.
        """
        buffer = self.flat[0].new_full((most + 1,), -torch.inf, dtype=self.dtype)
        above = at_high = at_low = within = torch.zeros((), dtype=torch.int64, device=buffer.device)
        nan = above.bool()
        for x in self.blocks():
            over = x >= high
            inside = ~(over | (x <= low))
            place = inside.cumsum(0) + (within - 1)
            buffer.scatter_(0, torch.where(inside & (place < most), place, most), x)
            above, within = above + over.sum(), within + inside.sum()
            at_high, at_low = at_high + (x == high).sum(), at_low + (x == low).sum()
            nan = nan | x.isnan().any()
        at_low = at_low * (low < high)  # else they are among those above
        found = buffer[:most].sort(descending=True).values
        middle = found.gather(0, (keep - above - 1).clamp(0, most - 1).view(1)).view(())
        first, second = above + within, above + within + at_low
        is_high = (above - at_high < keep) & (keep <= above)
        is_middle = (above < keep) & (keep <= first) & (within <= most)
        is_low = (first < keep) & (keep <= second)
        value = torch.where(is_high, high, torch.where(is_low, low, middle)).to(self.dtype)
        filled = torch.arange(most, device=buffer.device) < within
        here = above + ((buffer[:most] >= middle) & filled).sum()
        at_least = torch.where(is_high, above, torch.where(is_low, second, here))
        known = is_high | is_middle | is_low
        return torch.stack((known.long(), at_least - keep, nan.long(), self._bits(value)))

    def only_nan(self) -> Tensor:
        """As `look`, where only that is to be known."""
        found = torch.stack([x.isnan().any() for x in self.blocks()]).any().long()
        return torch.stack((found.new_zeros(()), found.new_zeros(()), found, found.new_zeros(())))

    def _bits(self, value: Tensor) -> Tensor:
        return value.view(torch.int64 if self.dtype == torch.float64 else torch.int32).long()

    def verdict(self, told: list[int]) -> Verdict:
        """What `look` said, read of the device."""
        known, surplus, nan, bits = told
        kinds = ("q", "d") if self.dtype == torch.float64 else ("i", "f")
        (value,) = struct.unpack(kinds[1], struct.pack(kinds[0], bits))
        return Verdict(value if known else None, surplus, bool(nan))

    def at_least(self, edge: float) -> list[Tensor]:
        """See `ScorePool`."""
        return [self.read(flat) >= edge for flat in self.flat]

    def drop_last_ties(self, masks: list[Tensor], edge: float, surplus: int) -> None:
        """See `ScorePool`; how many are left to drop is counted on the device."""
        left: Tensor | int = surplus
        for flat, mask in zip(reversed(self.flat), reversed(masks), strict=True):
            ties = self.read(flat) == edge
            count = ties.sum()
            from_the_last = count - ties.cumsum(0) + 1
            mask &= ~(ties & (from_the_last <= left))
            left = (left - count).clamp(min=0)
