"""Batches depend on (seed, step, sample) and on nothing else."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from prunekit.data import open_dataset
from prunekit.data.sizes import BatchSizes, pieces
from prunekit.errors import DataError, PluginError, RecipeError, ResourceError
from tests.support.data_sets import CPU, NoiseConfig, indices_of, noise

SETTINGS = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 3]),
        "height": st.integers(2, 10),
        "width": st.integers(2, 10),
        "augment": st.sampled_from([(), ("flip",), ("crop",), ("flip", "crop")]),
        "image_size": st.sampled_from([None, 1, 5, 12]),
        "validation": st.sampled_from([0.0, 0.25]),
    }
)


def joined(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def equal(a, b):
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@given(SETTINGS, st.sampled_from([2, 3, 6]), st.integers(0, 40), st.integers(0, 3))
def test_the_ranks_shares_are_the_whole_batch_bit_for_bit(settings, world, step, seed):
    whole = noise(seed, batch_size=6, **settings)
    shares = [noise(seed, rank, world, batch_size=6, **settings) for rank in range(world)]
    batch = whole.train_batch(step)
    assert equal(batch, joined([share.train_batch(step) for share in shares]))
    for split in ("validation", "test")[not whole.validation_size :]:
        parts = [list(share.eval_batches(split)) for share in shares]
        found = joined([batch for part in parts for batch in part])
        expected = joined(whole.eval_batches(split))
        order = [i for rank in range(world) for i in range(rank, len(expected[1]), world)]
        assert equal(found, (expected[0][order], expected[1][order]))
    first, *others = [list(data.calibration(13, balanced=True)) for data in [whole, *shares]]
    for other in others:
        assert all(equal(a, b) for a, b in zip(first, other, strict=True))


@given(SETTINGS, st.integers(1, 9), st.integers(0, 20))
def test_micro_batches_are_the_batch_in_pieces(settings, micro, step):
    data = noise(micro_batch=micro, **settings)
    pieces = list(data.micro_batches(step))
    assert equal(joined(pieces), data.train_batch(step))
    assert [len(y) for _, y in pieces[:-1]] == [micro] * (len(pieces) - 1)
    assert len(pieces[-1][1]) <= micro


@given(
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(1, 3),
    st.integers(1, 30),
    st.booleans(),
    st.sampled_from([0.0, 0.25]),
)
def test_the_sizes_that_are_listed_are_those_of_the_batches(
    share, micro, world, samples, balanced, validation
):
    settings = {"batch_size": share * world, "micro_batch": micro, "validation": validation}
    settings |= {"samples": 60, "tests": 11, "height": 2, "width": 2}
    ranks = [noise(0, rank, world, **settings) for rank in range(world)]
    sizes = BatchSizes(share * world, micro, world)
    for rank, data in enumerate(ranks):
        assert data.sizes == sizes
        assert tuple(len(y) for _, y in data.micro_batches(3)) == sizes.training()
        for split, count in (("test", 11), ("validation", data.validation_size)):
            if count:
                found = tuple(len(y) for _, y in data.eval_batches(split))
                assert found == sizes.evaluation(count, rank)
        found = tuple(len(y) for _, y in data.calibration(samples, balanced))
        assert found == sizes.calibration(samples)
    assert sum(sizes.training()) * world == share * world
    assert sum(sum(sizes.evaluation(11, rank)) for rank in range(world)) == 11


@pytest.mark.parametrize(
    ("samples", "size", "expected"),
    [(33, 32, (32, 1)), (32, 32, (32,)), (3, 1, (1, 1, 1)), (2, 5, (2,)), (0, 4, ())],
)
def test_pieces_by_hand(samples, size, expected):
    assert pieces(samples, size) == expected


def test_the_same_step_is_the_same_batch_in_any_order_of_asking():
    data, again = noise(augment=("flip", "crop")), noise(augment=("flip", "crop"))
    forward = [data.train_batch(step) for step in range(12)]
    for step in (7, 0, 11, 7, 3):
        assert equal(again.train_batch(step), forward[step])
    assert not equal(forward[0], noise(1, augment=("flip", "crop")).train_batch(0))
    assert not equal(forward[0], forward[data.steps_per_epoch])


def test_an_epoch_takes_every_sample_once_and_drops_the_incomplete_batch():
    data = noise(samples=300, batch_size=32)
    assert data.steps_per_epoch == 9
    orders = []
    for epoch in range(3):
        steps = range(epoch * 9, epoch * 9 + 9)
        orders.append([i for s in steps for i in indices_of(data, data.train_batch(s)[0])])
        assert len(set(orders[-1])) == 288
        assert set(orders[-1]) <= set(range(300))
    assert orders[0] != orders[1] != orders[2]
    whole = noise(samples=320, batch_size=32)
    seen = [i for s in range(10) for i in indices_of(whole, whole.train_batch(s)[0])]
    assert sorted(seen) == list(range(320))


def test_no_global_random_state_is_read_or_moved():
    states = []
    for start in (1, 2):
        torch.manual_seed(start)
        np.random.seed(start)  # noqa: NPY002 - the global state is the subject
        random.seed(start)
        before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
        data = noise(augment=("flip", "crop"), validation=0.2, train_limit=30)
        batch = data.train_batch(5)
        calibration = joined(data.calibration(9))
        after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
        states.append((batch, calibration))
    assert all(equal(a, b) for a, b in zip(*states, strict=True))


def test_a_batch_is_normalised_by_the_training_part_alone():
    data = noise(samples=200, batch_size=160, validation=0.2)
    x, _ = data.train_batch(0)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    raw = NoiseConfig(samples=200).load("train").images
    kept = raw[sorted(indices_of(data, x))].double().numpy() / 255
    assert data.mean == pytest.approx(kept.mean((0, 2, 3)))
    assert data.std == pytest.approx(kept.std((0, 2, 3)))


def test_labels_stay_with_their_images():
    data = noise(samples=200, batch_size=50, validation=0.1)
    labels = NoiseConfig(samples=200).load("train").labels
    for x, y in [data.train_batch(3), *data.eval_batches("validation"), *data.calibration(20)]:
        assert y.tolist() == labels[indices_of(data, x)].tolist()


def test_splits_are_disjoint_exact_and_the_same_for_every_seed():
    found = []
    for seed in (0, 1):
        data = noise(seed, samples=200, batch_size=18, train_limit=120, validation=0.25)
        assert (data.train_size, data.validation_size, data.test_size) == (90, 30, 11)
        train = [i for s in range(5) for i in indices_of(data, data.train_batch(s)[0])]
        held = [i for x, _ in data.eval_batches("validation") for i in indices_of(data, x)]
        assert not set(train) & set(held)
        assert len(set(train) | set(held)) == 120
        found.append((sorted(train), held, data.fingerprint()))
    assert found[0] == found[1]


def test_evaluation_covers_a_split_once_in_batches_that_fit():
    data = [noise(rank=rank, world=2, micro_batch=3) for rank in range(2)]
    parts = [list(d.eval_batches("test")) for d in data]
    assert [[len(y) for _, y in part] for part in parts] == [[3, 3], [3, 2]]
    seen = [
        i for d, part in zip(data, parts, strict=True) for x, _ in part for i in indices_of(d, x)
    ]
    assert sorted(seen) == list(range(11))
    lonely = noise(rank=7, world=8, tests=4)
    assert list(lonely.eval_batches("test")) == []


def test_calibration_is_fixed_plain_and_balanced():
    data = noise(samples=200, classes=7, augment=("flip", "crop"), micro_batch=5)
    first, again = (list(data.calibration(33, balanced=True)) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert [len(y) for _, y in first] == [5] * 6 + [3]
    x, y = joined(first)
    assert sorted(Counter(y.tolist()).values()) == [4, 4, 5, 5, 5, 5, 5]
    raw = NoiseConfig(samples=200, classes=7).load("train").images
    back = (x.double() * torch.tensor(data.std).view(1, 3, 1, 1)) * 255
    back += torch.tensor(data.mean).view(1, 3, 1, 1) * 255
    assert torch.equal(back.round().to(torch.uint8), raw[indices_of(data, x)])
    other = joined(noise(1, samples=200, classes=7).calibration(33, balanced=True))
    assert not torch.equal(x, other[0])


def test_the_spec_is_what_batches_have():
    for settings in (
        {},
        {"image_size": 5},
        {"height": 6, "width": 9},
        {"width": 9, "image_size": 4},
    ):
        data = noise(channels=1, **settings)
        spec, shape = data.spec, data.train_batch(0)[0].shape
        assert (8, spec.channels, spec.height, spec.width) == tuple(shape)
        assert (spec.classes, len(data.classes)) == (4, 4)


def test_the_fingerprint_tells_samples_and_splits_apart():
    one = noise()
    assert one.fingerprint() == noise(augment=("flip",), batch_size=4).fingerprint()
    others = [noise(train_limit=39), noise(test_limit=3), noise(validation=0.1), noise(channels=1)]
    assert len({one.fingerprint(), *(other.fingerprint() for other in others)}) == 5


@pytest.mark.parametrize(
    ("settings", "world", "error", "message"),
    [
        ({"batch_size": 10}, 4, RecipeError, "batch_size: 10 .* 4 processes: .*multiple of 4"),
        ({"batch_size": 41}, 1, RecipeError, "batch_size: 41 .* 40 training .*train_limit"),
        ({"train_limit": 41}, 1, DataError, "data.train_limit: 41 .* 40 samples"),
        ({"test_limit": 12}, 1, DataError, "data.test_limit: 12 .* 11 samples"),
        ({"validation": 0.01}, 1, RecipeError, "data.validation: 0.01 of 40"),
        ({"validation": 0.95}, 1, RecipeError, "data.validation: 0.95: .*without any"),
    ],
)
def test_what_does_not_fit_is_refused(settings, world, error, message):
    with pytest.raises(error, match=message):
        noise(world=world, **settings)


def test_a_split_or_a_sample_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match=r"data\.validation: 0 holds"):
        noise().eval_batches("validation")
    with pytest.raises(RecipeError, match=r"41 calibration samples: .* 40 training"):
        noise().calibration(41)


@pytest.fixture
def loads(monkeypatch):
    """Change what the noise set gives."""

    def change(split, **fields):
        plain = NoiseConfig.load

        def load(self, asked):
            samples = plain(self, asked)
            return replace(samples, **fields) if asked == split else samples

        monkeypatch.setattr(NoiseConfig, "load", load)

    return change


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": torch.zeros(40, 3, 8, 8)}, r"images torch.float32 \[40, 3, 8, 8\]"),
        (
            {"images": torch.zeros(40, 8, 8, dtype=torch.uint8)},
            r"images torch.uint8 \[40, 8, 8\] instead",
        ),
        ({"labels": torch.zeros(39, dtype=torch.int64)}, r"labels torch.int64 \[39\] for 40"),
        ({"labels": torch.full((40,), 4)}, r"labels 4 \.\. 4 of 4 classes"),
    ],
)
def test_a_data_set_that_breaks_its_contract_is_named(loads, fields, message):
    loads("train", **fields)
    with pytest.raises(PluginError, match=rf"data set 'noise': load\('train'\) gave {message}"):
        noise()


def test_splits_that_do_not_fit_each_other_are_refused_or_matched(loads):
    loads("test", images=torch.full((11, 1, 8, 9), 7, dtype=torch.uint8))
    with pytest.raises(DataError, match="8x8 and test images of 9x8 pixels: set data"):
        noise()
    data = noise(image_size=8)
    x, _ = next(data.eval_batches("test"))
    assert x.shape == (8, 3, 8, 8)
    expected = (torch.tensor(7 / 255) - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert (
        x[3].amax((1, 2)).tolist() == x[3].amin((1, 2)).tolist() == pytest.approx(expected.tolist())
    )
    loads("test", classes=("a", "b", "c", "d"))
    with pytest.raises(DataError, match="other classes"):
        noise(image_size=8)


def test_gray_images_beside_colour_ones_become_colour(loads):
    gray = torch.randint(0, 256, (11, 1, 8, 8), dtype=torch.uint8)
    loads("test", images=gray)
    data = noise()
    x = torch.cat([x for x, _ in data.eval_batches("test")])
    for channel in range(3):
        pixels = (x[:, channel] * data.std[channel] + data.mean[channel]) * 255
        assert torch.equal(pixels.round().to(torch.uint8), gray[:, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_makes_the_same_batches():
    config = NoiseConfig(batch_size=8, augment=("flip", "crop"), image_size=12)
    here, there = (open_dataset(config, seed=0, device=d) for d in (CPU, torch.device("cuda")))
    assert here.mean == there.mean
    for a, b in zip(here.calibration(20), there.calibration(20), strict=True):
        torch.testing.assert_close(a, tuple(t.cpu() for t in b))
    torch.testing.assert_close(here.train_batch(9), tuple(t.cpu() for t in there.train_batch(9)))


def test_a_set_larger_than_the_device_is_refused(monkeypatch):
    monkeypatch.setattr("prunekit.data.cache.available_memory", lambda device: 1000)
    with pytest.raises(ResourceError, match=r"noise: .* GB .* meta has 1e-06 GB left: lower"):
        open_dataset(NoiseConfig(batch_size=8), seed=0, device=torch.device("meta"))


@pytest.mark.parametrize(("eval_batch", "sizes"), [(None, [4, 4, 3]), (5, [5, 5, 1]), (99, [11])])
def test_evaluation_has_a_batch_of_its_own(eval_batch: int | None, sizes: list[int]) -> None:
    data = noise(batch_size=8, micro_batch=4, eval_batch=eval_batch)
    batches = list(data.eval_batches("test"))
    assert [len(labels) for _, labels in batches] == sizes
    whole = torch.cat([images for images, _ in batches])
    assert torch.equal(whole, torch.cat([x for x, _ in noise().eval_batches("test")]))
