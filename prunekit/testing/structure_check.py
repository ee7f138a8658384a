"""What must hold of a structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunekit.foundation.parameters import Scope
from prunekit.foundation.seeding import seed_for
from prunekit.pruning.distributions import Demand, Distribution, Global, Uniform
from prunekit.pruning.flow import note_input
from prunekit.pruning.selection import keep_count
from prunekit.pruning.structures import Structure, Units
from prunekit.testing.cases import SMALL_MODELS, SmallModel, global_noise, switches
from prunekit.testing.faults import ConformanceError, RefusedError, faults_of, refusals, report
from prunekit.testing.search import failure, smallest_failure, st
from prunekit.testing.settings import checked_settings

DISTRIBUTIONS: dict[str, Distribution] = {"uniform": Uniform(), "global": Global()}


@dataclass(frozen=True, slots=True)
class StructureTrial:
    """A model, and how much of it is to be pruned."""

    model: str = "tiny"
    """Name of the small model."""
    sparsity: float = 0.5
    more: float = 0.5
    """A sparsity that is not lower."""
    distribution: Literal["uniform", "global"] = "uniform"
    min_keep: int = 0
    seed: int = 0
    """Of the scores."""


def check_structure(
    cls: type[Structure],
    config: Structure | Mapping[str, Any],
    *,
    models: Mapping[str, SmallModel] = SMALL_MODELS,
    include: Sequence[str] = (),
    examples: int = 50,
    trial: StructureTrial | None = None,
) -> None:
    """Check all that the contract asks of a structure, by random scores on small models.

    Models that it refuses, by a RecipeError, are left out.

    Args:
        cls: the structure.
        config: its settings; a mapping is read as in a recipe, and may leave out `name`.
        models: what to try it on, simplest first.
        include: patterns of the parameters in scope, as `scope.include` has them; () = the weights
            of linear and convolution layers and the input projections of attention.
        examples: demands to draw, over all models.
        trial: look at this one alone, as the test in the message of a failure does.

    Raises:
        ConformanceError: an AssertionError; says what is broken, and shows it in a test.
    """
    settings: Structure = checked_settings(cls, config, Structure, Structure)
    checks = _Checks(settings, models, Scope(include=tuple(include)))

    def find() -> tuple[StructureTrial, ConformanceError] | None:
        if trial is not None:
            return failure(checks.check, trial)
        names = checks.fitting()
        share = math.ceil(examples / len(names))
        searches = (smallest_failure(checks.check, _trials(name), share) for name in names)
        return next((found for found in searches if found is not None), None)

    report("structure", cls, settings, find)


@st.composite
def _trials(draw: st.DrawFn, model: str) -> StructureTrial:
    low, high = sorted(draw(st.tuples(*[st.integers(0, 99)] * 2)))
    return StructureTrial(
        model=model,
        sparsity=low / 100,
        more=high / 100,
        distribution=draw(st.sampled_from(["uniform", "global"])),
        min_keep=draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 2**16)),
    )


class _Checks:
    """Demands on a structure, each checked in `check`."""

    def __init__(
        self, structure: Structure, models: Mapping[str, SmallModel], scope: Scope
    ) -> None:
        self.structure, self.models, self.scope = structure, models, scope
        self._built: dict[str, tuple[nn.Module, nn.Module]] = {}

    def fitting(self) -> list[str]:
        """The models that it takes.

        Raises:
            ConformanceError: none.
        """
        names, why = list[str](), ""
        for name in self.models:
            try:
                self._made(StructureTrial(name))
            except RefusedError as error:
                why = str(error)
            else:
                names.append(name)
        if not names:
            raise ConformanceError(
                f"it refuses all models: give some in models=, or their weights in include=; the "
                f"last one so: {why}"
            )
        return names

    def _models(self, name: str) -> tuple[nn.Module, nn.Module]:
        """A model and its copy, built once: what a pass finds of them is kept with them."""
        if name not in self._built:
            small = self.models[name]
            with global_noise(0, "model"):
                model = small.build()
            self._built[name] = both = model, deepcopy(model)
            for one in both:
                note_input(one, small.input_shape)
        return self._built[name]

    def _made(self, case: StructureTrial) -> tuple[nn.Module, list[str], Units]:
        """Model, names in scope, and their units."""
        model, _ = self._models(case.model)
        with refusals("units, cover or multiples"):
            names = list(self.scope.select(model, None))
            units = self.structure.units(model, names)
            self.structure.cover(model, names)
            self.structure.multiples(model, names, case.min_keep)
        return model, names, units

    def check(self, case: StructureTrial) -> None:
        """Everything of one demand.

        Raises:
            ConformanceError: what is broken.
            RefusedError: the structure refuses the model.
        """
        model, names, units = self._made(case)
        outside, before = switches(), _values(model)
        scores = _scores(model, names, case.seed)
        demand = Demand(scores, case.sparsity, case.min_keep)
        _covers(units, names, case.seed)
        with faults_of("cover"):
            cover = tuple(self.structure.cover(model, names))
        if cover[: len(names)] != tuple(names) or not {*cover} <= before.keys():
            raise ConformanceError(f"cover is {cover}: the scope comes first, {names}")
        masks = self._select(model, demand, case)
        self._fits(model, masks, cover, case)
        copied = self._select(
            self._models(case.model)[1], replace(demand, scores=_copies(scores)), case
        )
        if not _equal(masks, copied):
            raise ConformanceError("select gives other masks on an equal model: ranks would differ")
        fewer = self._select(model, replace(demand, sparsity=case.more), case)
        self._shrinks(masks, fewer, case)
        self._floors(units, masks, case)
        if not _equal(scores, _scores(model, names, case.seed)):
            raise ConformanceError("writes scores")
        if not _equal(before, _values(model)):
            raise ConformanceError("writes the model")
        if switches() != outside:
            raise ConformanceError("changes a global random state or switch: it may draw nothing")

    def _select(self, model: nn.Module, demand: Demand, case: StructureTrial) -> dict[str, Tensor]:
        with faults_of("select"):
            return self.structure.select(model, demand, DISTRIBUTIONS[case.distribution])

    def _fits(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        cover: Sequence[str],
        case: StructureTrial,
    ) -> None:
        """Masks of the cover, of whole units, as many as promised."""
        parameters = dict(model.named_parameters())
        if masks.keys() != {*cover}:
            raise ConformanceError(f"select gives masks of {[*masks]}, the cover is {list(cover)}")
        for name, mask in masks.items():
            if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
                raise ConformanceError(f"{name}: a mask of {mask.dtype} {tuple(mask.shape)}")
        names = list(self.scope.select(model, None))
        with faults_of("units or count"):
            units = self.structure.units(model, names)
            whole = units.expand(units.collapse(masks))
            kept, total = self.structure.count(model, {name: masks[name] for name in names})
        if split := next((n for n in names if not torch.equal(whole[n], masks[n])), None):
            raise ConformanceError(f"{split}: a unit is split: all its entries stay or go together")
        if total != sum(units.sizes.values()):
            raise ConformanceError(f"count finds {total} units, units {sum(units.sizes.values())}")
        promised = self._promised(model, names, total, case)
        if promised is not None and kept != promised:
            raise ConformanceError(
                f"keeps {kept} of {total} units at sparsity {case.sparsity}, not the promised "
                f"{promised}"
            )

    def _promised(
        self, model: nn.Module, names: Sequence[str], total: int, case: StructureTrial
    ) -> int | None:
        """As `ScoredStrategy.promised_keep` has it."""
        if not self.structure.exact:
            return None
        keep = keep_count(total, self.structure.reach(case.sparsity))
        multiples = self.structure.multiples(model, names, case.min_keep)
        if multiples is not None:
            return multiples.promised(keep)
        return None if case.min_keep and case.sparsity else keep

    def _shrinks(
        self, masks: Mapping[str, Tensor], fewer: Mapping[str, Tensor], case: StructureTrial
    ) -> None:
        for name, mask in masks.items():
            if bool((fewer[name] & ~mask).any()):
                raise ConformanceError(
                    f"{name}: of equal scores, sparsity {case.more} keeps what {case.sparsity} "
                    "prunes"
                )

    def _floors(self, units: Units, masks: Mapping[str, Tensor], case: StructureTrial) -> None:
        if self.structure.reach(case.sparsity) != case.sparsity:
            return  # it has counts of its own
        for name, kept in units.collapse(masks).items():
            if int(kept.sum()) < min(case.min_keep, kept.numel()):
                raise ConformanceError(
                    f"{name} keeps {int(kept.sum())} units, where min_keep is {case.min_keep}"
                )


def _covers(units: Units, names: Sequence[str], seed: int) -> None:
    """Each entry of the scope is in exactly one unit, and no unit is lost."""
    generator = torch.Generator().manual_seed(seed_for(seed, "units"))
    kept = {n: torch.rand(size, generator=generator) < 0.5 for n, size in units.sizes.items()}
    with faults_of("units"):
        masks = units.expand(kept)
        others = units.expand({name: ~one for name, one in kept.items()})
        back = units.collapse(masks)
    for name in names:
        if name not in masks or bool((masks[name] == others[name]).any()):
            raise ConformanceError(f"{name}: an entry is in no unit, or in more than one")
    if lost := next((name for name in kept if not torch.equal(back[name], kept[name])), None):
        raise ConformanceError(f"{lost}: a unit has no entry of its own in the parameters in scope")


def _scores(model: nn.Module, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed_for(seed, "scores"))
    shapes = {name: model.get_parameter(name).shape for name in names}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def _copies(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: score.clone() for name, score in scores.items()}


def _values(model: nn.Module) -> dict[str, Tensor]:
    held = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in held}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    same = one.keys() == other.keys()
    return same and all(torch.equal(value, other[name]) for name, value in one.items())
