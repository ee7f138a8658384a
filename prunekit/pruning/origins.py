"""Where numbers that are not finite came from: which hook gave the first of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from prunekit.errors import DivergedError


class Origins:
    """Who gave something that is not finite, made of what is, before anything else was not.

    Flags on the device, looked at where a run stops being finite anyway: no step waits for them.
    """

    def __init__(self) -> None:
        self._spoiled: dict[torch.device, Tensor] = {}
        self._found: dict[str, Tensor] = {}

    @torch.no_grad()
    def note(self, who: str, given: Iterable[Tensor], of: Sequence[Tensor] = ()) -> None:
        """Remember `who` gave these, if they are the first that are not finite.

        Args:
            who: a part of a sentence, as `strategy 'x' (module.Class): its penalty`.
            given: what it gave, on one device.
            of: what they were made of; where that is not finite, it is not to blame.
        """
        bad = any_not_finite(given)
        if bad is None:
            return
        for each in of:
            bad = bad & each.detach().isfinite().all()
        device = bad.device
        before = self._spoiled.get(device, torch.zeros_like(bad))
        first, known = bad & ~before, self._found.get(who)
        self._found[who] = first if known is None else known | first.to(known.device)
        self._spoiled[device] = before | bad

    def spoil(self, bad: Tensor) -> None:
        """Something else is not finite, where the flag `bad` says so: the rest follows from it."""
        known = self._spoiled.get(bad.device)
        self._spoiled[bad.device] = bad.clone() if known is None else known | bad

    def forget(self) -> None:
        """What was seen so far is to be computed again."""
        self._spoiled.clear()
        self._found.clear()

    def first(self) -> str | None:
        """Who gave the first; waits for the device."""
        return next((who for who, flag in self._found.items() if bool(flag)), None)

    def refuse(self, step: int) -> None:
        """Stop where a hook gave something that is not finite; waits for the device.

        Raises:
            DivergedError: one did; says which.
        """
        if (who := self.first()) is not None:
            raise DivergedError(blame(who, step))


def blame(who: str, step: int) -> str:
    """What to say of a hook that gave the first number that is not finite."""
    return (
        f"{who} is not finite at step {step}, and all before it was: look at its formula (a root, "
        "a logarithm or a division at 0) and at its settings"
    )


@torch.no_grad()
def any_not_finite(tensors: Iterable[Tensor]) -> Tensor | None:
    """A flag on their device: whether an entry of these is not finite; None: there are none."""
    plain = [one.detach() for one in tensors if one.is_floating_point() and not one.is_sparse]
    if not plain:
        return None
    size = torch.nn.utils.get_total_norm(plain, float("inf"))
    return ~torch.isfinite(size)
