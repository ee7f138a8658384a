"""The search for the smallest case that fails, by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from prunekit.testing.cases import LossTrial, TokenTrial, Trial
from prunekit.testing.faults import ConformanceError, RefusedError

try:
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.errors import Flaky, Unsatisfiable
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'prunekit.testing needs hypothesis: pip install "prunekit[kit]"', name="hypothesis"
    ) from error

T = TypeVar("T")
__all__ = ["failure", "loss_trials", "smallest_failure", "st", "token_trials", "trials"]


@st.composite
def trials(draw: st.DrawFn, model: str) -> Trial:
    """Runs of 2 to 10 steps of this model, simplest first."""
    phases = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return Trial(
        model=model,
        seed=draw(st.integers(0, 2**16)),
        phases=phases,
        stop=draw(st.integers(1, sum(phases) - 1)),
        optimizer=draw(st.sampled_from(["sgd", "adamw"])),
    )


@st.composite
def token_trials(
    draw: st.DrawFn, patches: Mapping[bool, Sequence[int]], widths: Sequence[int]
) -> TokenTrial:
    """Batches of the token counts (by whether it is training) and widths that are taken."""
    training = draw(st.sampled_from([mode for mode in (False, True) if patches[mode]]))
    return TokenTrial(
        patches=draw(st.sampled_from(patches[training])),
        protected=draw(st.integers(0, 2)),
        samples=draw(st.integers(1, 3)),
        width=draw(st.sampled_from(widths)),
        seed=draw(st.integers(0, 2**16)),
        training=training,
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
    )


@st.composite
def loss_trials(draw: st.DrawFn, model: str) -> LossTrial:
    """Batches of 2 to 6 samples, in two parts."""
    samples = draw(st.integers(2, 6))
    return LossTrial(
        model=model,
        samples=samples,
        parts=draw(st.integers(1, samples - 1)),
        shared=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def failure(run: Callable[[T], None], case: T) -> tuple[T, ConformanceError] | None:
    """The case and its error, where it fails."""
    try:
        run(case)
    except ConformanceError as error:
        return case, error
    except RefusedError as error:
        return case, ConformanceError(f"it refuses this case: {error}")
    return None


def smallest_failure(
    run: Callable[[T], None], space: st.SearchStrategy[T], examples: int
) -> tuple[T, ConformanceError] | None:
    """Run cases of a space; the simplest that fails, or None. The same cases each time.

    A case that raises `RefusedError` is left out.
    """
    failures: list[tuple[T, ConformanceError]] = []

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(space)
    def attempt(case: T) -> None:
        try:
            run(case)
        except RefusedError:
            hypothesis.reject()
        except ConformanceError as error:
            failures.append((case, error))
            raise

    try:
        attempt()
    except (ConformanceError, Flaky):  # the last one is the smallest
        return failures[-1]
    except Unsatisfiable:
        return None
    return None
