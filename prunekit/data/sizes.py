"""How many samples a batch has: functions of the settings and of counts, without any data."""

from __future__ import annotations

from dataclasses import dataclass


def pieces(samples: int, size: int) -> tuple[int, ...]:
    """The sizes of `samples` cut into batches of `size`; the last may be smaller."""
    whole, left = divmod(samples, size)
    return (size,) * whole + (left,) * bool(left)


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """The sizes of all batches that go through the model at once.

    Args:
        batch_size: samples of an optimizer step, over all processes.
        micro_batch: samples of a forward pass in training; None = a process's whole share.
        world: processes; it divides `batch_size`.
        eval_batch: samples of a forward pass in evaluation on one process; None = the smaller of
            its share and `micro_batch`.
    """

    batch_size: int
    micro_batch: int | None = None
    world: int = 1
    eval_batch: int | None = None

    @property
    def rank_batch(self) -> int:
        """Samples of an optimizer step on one process."""
        return self.batch_size // self.world

    @property
    def evaluated(self) -> int:
        """Samples of a forward pass in evaluation; the last of a split may have fewer."""
        return self.eval_batch or min(self.rank_batch, self.micro_batch or self.rank_batch)

    def training(self) -> tuple[int, ...]:
        """Of one optimizer step, the same on each process."""
        return pieces(self.rank_batch, self.micro_batch or self.rank_batch)

    def evaluation(self, samples: int, rank: int) -> tuple[int, ...]:
        """Of a split of so many samples, on one process; none where there are too few for it."""
        return pieces(len(range(rank, samples, self.world)), self.evaluated)

    def calibration(self, samples: int) -> tuple[int, ...]:
        """Of a pass over so many calibration samples, the same on each process."""
        return pieces(samples, self.micro_batch or self.batch_size)
