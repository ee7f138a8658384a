"""Every random draw is a function of a seed and a place, never of what was drawn before."""

from __future__ import annotations

import hashlib


def seed_for(*where: int | str) -> int:
    """A 63-bit seed for this place: `seed_for(seed, "noise", step, rank)`."""
    digest = hashlib.sha256(repr(where).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
