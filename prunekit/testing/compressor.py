"""What must hold of a compressor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunekit.compressors.base import DataCompressor
from prunekit.registry.configs import CompressorConfig
from prunekit.testing.batches import Batches
from prunekit.testing.fault import ConformanceError, report
from prunekit.testing.search import failure, smallest_failure, token_trials
from prunekit.testing.settings import checked_settings
from prunekit.testing.trial import TokenTrial


def check_compressor(
    cls: type[DataCompressor],
    config: CompressorConfig | Mapping[str, Any],
    *,
    widths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    examples: int = 100,
    trial: TokenTrial | None = None,
) -> None:
    """Check all that the contract asks of a compressor, on batches of random tokens on the CPU.

    Args:
        cls: the compressor.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        widths: channels of a token to try; a compressor with parameters may take only one.
        examples: batches to draw.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: CompressorConfig = checked_settings(cls, config, DataCompressor, CompressorConfig)
    batches = Batches(cls, settings)

    def find() -> tuple[TokenTrial, ConformanceError] | None:
        if trial is not None:
            return failure(batches.check, trial)
        return _first_failure(batches, widths, examples)

    report("compressor", cls, settings, find)


def _first_failure(
    batches: Batches, widths: Sequence[int], examples: int
) -> tuple[TokenTrial, ConformanceError] | None:
    taken = batches.taken()
    found = smallest_failure(batches.check, token_trials(taken, widths), examples)
    for training, counts in taken.items():
        if found is None and counts:
            trial = TokenTrial(counts[-1], 1, 2, widths[-1], training=training, compiled=True)
            found = failure(batches.check, trial)
    return found
