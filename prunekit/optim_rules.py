"""Rules that give some parameters their own learning rate or decay."""

from __future__ import annotations

from pydantic import Field

from prunekit.frozen import Frozen
from prunekit.patterns import Pattern


class ParamRule(Frozen):
    """For parameters whose name matches: another learning rate or weight decay."""

    match: Pattern
    """A glob on parameter names, or `re:` and a regular expression."""
    lr_scale: float = Field(default=1.0, ge=0)
    """Factor on the learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay instead of the optimizer's; null = the optimizer's."""
