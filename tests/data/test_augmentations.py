"""Augmentations: the same for any ranks and pieces, and torchvision's own for the same draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from pydantic import ValidationError
from torchvision.transforms import v2

from prunekit.data.augment import Augmenter, shift
from prunekit.data.augment.erasing import draw_erasing, erase, erased_rectangles
from prunekit.data.augment.jitter import change_colours, draw_colours
from prunekit.data.augment.mixing import CUT, MIXED, PLAIN, draw_mixing, mix
from prunekit.data.augment.operations import OPERATIONS
from prunekit.data.augment.pipeline import places_in_epoch
from prunekit.data.augment.policies import draw_operations, operate
from prunekit.data.augment.resized_crop import (
    crop_and_resize,
    crop_rectangle,
    crop_rectangles,
    draw_resized_crop,
)
from prunekit.data.contact_sheet import contact_sheet
from prunekit.data.split import generator
from prunekit.errors import RecipeError
from prunekit.registry.augmentations import (
    ColorJitter,
    CutMix,
    MixUp,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
)
from prunekit.registry.configs import DataSpec
from tests.support.data_sets import NoiseConfig, noise

ALL = {
    "flip": "flip",
    "crop": "crop",
    "random_resized_crop": {"name": "random_resized_crop", "scale": (0.2, 0.8)},
    "rand_augment": {"name": "rand_augment", "ops": 3, "magnitude": 14},
    "trivial_augment": "trivial_augment",
    "color_jitter": {"name": "color_jitter", "hue": 0.2},
    "random_erasing": {"name": "random_erasing", "probability": 0.6, "value": "noise"},
    "mixup": "mixup",
    "cutmix": {"name": "cutmix", "probability": 0.7},
    "repeated": {"name": "repeated", "times": 3},
}
TOGETHER = st.lists(st.sampled_from(sorted(ALL)), unique=True).filter(
    lambda names: (
        not {"crop", "random_resized_crop"} <= {*names}
        and not {"rand_augment", "trivial_augment"} <= {*names}
    )
)
SETTINGS = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 3]),
        "height": st.sampled_from([5, 8, 16]),
        "width": st.sampled_from([7, 8]),
        "image_size": st.sampled_from([None, 6]),
        "augment": TOGETHER.map(lambda names: tuple(ALL[name] for name in names)),
    }
)


def joined(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def equal(a, b):
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@given(SETTINGS, st.integers(0, 12), st.integers(0, 3))
def test_a_batch_is_the_same_from_any_ranks_in_any_pieces(settings, step, seed):
    whole = noise(seed, batch_size=12, **settings).train_batch(step)
    assert whole[0].is_contiguous()
    for world, micro in ((1, 2), (1, 8), (2, None), (3, 4), (3, 2)):
        ranks = [
            noise(seed, rank, world, batch_size=12, micro_batch=micro, **settings)
            for rank in range(world)
        ]
        assert equal(whole, joined([one for data in ranks for one in data.micro_batches(step)]))


@given(TOGETHER, TOGETHER, st.integers(0, 5))
def test_no_draw_depends_on_another_augmentation(first, second, step):
    draws = [
        Augmenter(NoiseConfig(augment=tuple(ALL[n] for n in names)).augment, SPEC, (8, 8)).draw(
            10, 3, step
        )
        for names in (first, second)
    ]
    shared = {*first} & {*second}
    for name in shared - {"repeated", "flip", "crop", "mixup", "cutmix", "rand_augment"}:
        key = "policy" if name == "trivial_augment" else name
        assert torch.equal(draws[0].of[key], draws[1].of[key])
    for name, row in (("flip", [0]), ("crop", [1, 2])):
        if name in shared:
            assert torch.equal(*(one.of["shift"][:, row] for one in draws))


SPEC = DataSpec(3, 8, 8, 4)


def test_a_mixup_keeps_its_share_where_cutmix_is_asked_for_too():
    alone = draw_mixing(MixUp(), None, 60, 1, 2)
    both = draw_mixing(MixUp(), CutMix(), 60, 1, 2)
    mixed = both[:, 0] == MIXED
    assert 10 < int(mixed.sum()) < 50
    assert torch.equal(alone[mixed], both[mixed])
    other = draw_mixing(None, CutMix(), 60, 1, 2)
    assert torch.equal(other[~mixed], both[~mixed])


@pytest.mark.parametrize("names", [("flip",), ("crop",), ("flip", "crop")])
def test_flips_and_crops_are_drawn_as_they_always_were(names):
    data = noise(5, augment=names, batch_size=8)
    raw = NoiseConfig().load("train").images
    for step in (0, 4, 7):
        epoch, position = divmod(step, 5)
        order = torch.randperm(40, generator=generator(5, "epoch", epoch))
        choices = torch.zeros(3, 8, dtype=torch.int64)
        if "flip" in names:
            choices[0].random_(0, 2, generator=generator(5, "flip", step))
        if "crop" in names:
            source = generator(5, "crop", step)
            choices[1].random_(0, 3, generator=source)
            choices[2].random_(0, 3, generator=source)
        images = raw[order[position * 8 : position * 8 + 8]]
        pads = (1, 1) if "crop" in names else (0, 0)
        expected = shift.cut(images, choices, pads)
        x, _ = data.train_batch(step)
        mean, std = (torch.tensor(t).view(-1, 1, 1) for t in (data.mean, data.std))
        assert torch.equal(((x * std + mean) * 255).round().to(torch.uint8), expected)


# ---- against torchvision


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("rand_augment", v2.RandAugment()), ("trivial_augment", v2.TrivialAugmentWide())],
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_operations_are_torchvisions(name, theirs, interpolation):
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    images[0, 0], images[1] = 9, images[1] // 4 + 60
    space = theirs._AUGMENTATION_SPACE
    assert list(space) == list(OPERATIONS[name])
    for number, (operation, (levels, signed)) in enumerate(space.items()):
        strengths = levels(31, 16, 24)
        for level, negative in ((0, 0), (9, 1), (17, 0), (30, 1)):
            strength = 0.0 if strengths is None else float(strengths[level])
            strength *= -1 if signed and negative else 1
            draws = torch.tensor([[[number, level, negative]]] * 3)
            found = operate(images, draws, name, interpolation)
            for own, image in zip(found, images, strict=True):
                expected = theirs._apply_image_or_video_transform(
                    image, operation, strength, v2.InterpolationMode(interpolation), theirs._fill
                )
                assert torch.equal(own, expected), (operation, level)


def test_operations_follow_one_another_and_groups_do_not_mix():
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    draws = draw_operations("rand_augment", 2, 40, 0, 0)
    draws[..., 1] = 9
    found = operate(images, draws, "rand_augment", "nearest")
    operations = list(OPERATIONS["rand_augment"].values())
    for own, image, choices in zip(found, images, draws.tolist(), strict=True):
        for number, level, negative in choices:
            strength = operations[number].strengths(8, 8)[level][negative]
            image = operations[number].kernel(image[None], strength, "nearest")[0]
        assert torch.equal(own, image)


def test_every_operation_strength_and_sign_is_as_likely_as_any_other():
    draws = draw_operations("trivial_augment", 1, 62_000, 0, 0).view(-1, 3)
    for column, count in enumerate((14, 31, 2)):
        seen = torch.bincount(draws[:, column], minlength=count).double()
        expected = 62_000 / count
        assert len(seen) == count
        # chi-squared: mean count - 1, deviation sqrt(2 (count - 1))
        chi = float(((seen - expected) ** 2 / expected).sum())
        assert chi < count - 1 + 5 * math.sqrt(2 * (count - 1))


def slow_rectangle(row, scale, ratio, size, *, erase):
    """torchvision's loop over ten tries, fed with our numbers."""
    height, width = size
    low, high = (math.log(one) for one in ratio)
    for area, shape in zip(row[:10], row[10:20], strict=True):
        pixels = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(low + (high - low) * shape)
        one, other = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        h, w = (one, other) if erase else (other, one)
        fits = h < height and w < width if erase else 0 < w <= width and 0 < h <= height
        if fits:
            return int(row[20] * (height - h + 1)), int(row[21] * (width - w + 1)), h, w
    if erase:
        return None
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(0.08, 1.0), (0.9, 1.0), (0.02, 0.1)]),
    st.sampled_from([(3 / 4, 4 / 3), (0.3, 3.3), (1.0, 1.0)]),
    st.integers(0, 1000),
)
def test_rectangles_are_those_of_torchvisions_loop(height, width, scale, ratio, seed):
    config = RandomResizedCrop(scale=scale, ratio=ratio)
    draws = draw_resized_crop(6, seed, 0)
    found = crop_rectangles(draws, config, (height, width)).tolist()
    for own, row in zip(found, draws.tolist(), strict=True):
        assert tuple(own) == slow_rectangle(row, scale, ratio, (height, width), erase=False)
    erased = RandomErasing(scale=scale, ratio=ratio, probability=0.5)
    draws = draw_erasing(6, seed, 0)
    found = erased_rectangles(draws, erased, (height, width)).tolist()
    for own, (chance, *row, _) in zip(found, draws.tolist(), strict=True):
        expected = slow_rectangle(row, scale, ratio, (height, width), erase=True)
        happens = chance < 0.5 and expected is not None
        assert tuple(own) == (expected if happens else (0, 0, 0, 0))


def test_rectangles_are_spread_as_torchvisions():
    size, config = (24, 32), RandomResizedCrop()
    own = crop_rectangles(draw_resized_crop(3000, 0, 0), config, size).double()
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(24)
    image = torch.zeros(3, *size)
    rows = [[*theirs.make_params([image]).values()] for _ in range(3000)]
    other = torch.tensor(rows, dtype=torch.float64)
    for a, b in zip(own.T, other.T, strict=True):
        assert abs(a.mean() - b.mean()) < 5 * (a.var() / 3000 + b.var() / 3000).sqrt()
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_resized_crop_is_torchvisions(interpolation):
    images = torch.randint(0, 256, (5, 3, 20, 13), dtype=torch.uint8)
    config = RandomResizedCrop(interpolation=interpolation)
    draws = draw_resized_crop(5, 0, 0)
    found = crop_and_resize(images, draws, config, (9, 12))
    theirs = v2.RandomResizedCrop((9, 12), interpolation=v2.InterpolationMode(interpolation))
    places = crop_rectangles(draws, config, (20, 13)).tolist()
    for own, image, place in zip(found, images, places, strict=True):
        params = dict(zip(("top", "left", "height", "width"), place, strict=True))
        assert torch.equal(own, theirs.transform(image, params))


def test_colours_are_torchvisions_in_the_order_that_was_drawn():
    images = torch.randint(0, 256, (8, 3, 9, 7), dtype=torch.uint8)
    config = ColorJitter(hue=0.3, contrast=0.9, saturation=0.0)
    draws = draw_colours(config, 8, 1, 2)
    found, theirs = change_colours(images, draws, config), v2.ColorJitter()
    orders = set()
    for own, image, row in zip(found, images, draws, strict=True):
        brightness, contrast, _, hue = (float(value) for value in row[:4])
        assert 0.6 <= brightness <= 1.4
        assert 0.1 <= contrast <= 1.9
        assert -0.3 <= hue <= 0.3
        params = {
            "fn_idx": row[4:].argsort(),
            "brightness_factor": brightness,
            "contrast_factor": contrast,
            "saturation_factor": None,
            "hue_factor": hue,
        }
        orders.add(tuple(row[4:].argsort().tolist()))
        assert torch.equal(own, theirs.transform(image, params))
    assert len(orders) > 3


def test_erasing_puts_the_mean_or_noise_into_its_rectangle_alone():
    for value in ("mean", "noise"):
        config = RandomErasing(probability=0.5, value=value)
        inputs = torch.full((400, 2, 10, 12), 7.0)
        draws = draw_erasing(400, 0, 0)
        found = erase(inputs.clone(), draws, config)
        places = erased_rectangles(draws, config, (10, 12)).tolist()
        inside = torch.zeros(400, 2, 10, 12, dtype=torch.bool)
        for i, (top, left, tall, wide) in enumerate(places):
            inside[i, :, top : top + tall, left : left + wide] = True
        assert torch.equal(found[~inside], inputs[~inside])
        erased = inside.flatten(1).any(1)
        assert 0.4 < erased.double().mean() < 0.6
        if value == "mean":
            assert not found[inside].any()
        else:
            assert abs(found[inside].mean()) < 0.05
            assert found[inside].std().item() == pytest.approx(1, abs=0.03)


def test_mixing_is_torchvisions_for_each_pair():
    images, labels = torch.randn(40, 3, 9, 12), torch.randint(0, 5, (40,))
    draws = draw_mixing(MixUp(), CutMix(probability=0.8), 40, 0, 3)
    assert {*draws[:, 0].tolist()} == {0.0, 1.0, 2.0}
    assert torch.equal(draws[0::2], draws[1::2])
    found, targets = mix(images, labels, draws, 5)
    assert targets.dtype == torch.float32
    for i in range(0, 40, 2):
        kind, share, down, across = draws[i].tolist()
        pair, own = images[i : i + 2], labels[i : i + 2]
        params = {"labels": own, "batch_size": 2, "lam": share}
        theirs = v2.MixUp(num_classes=5)
        if kind == CUT:
            theirs, half = v2.CutMix(num_classes=5), 0.5 * math.sqrt(1 - share)
            x, y = int(across * 12), int(down * 9)
            wide, tall = int(half * 12), int(half * 9)
            left, right = max(x - wide, 0), min(x + wide, 12)
            top, bottom = max(y - tall, 0), min(y + tall, 9)
            params |= {"box": (left, top, right, bottom)}
            params |= {"lam_adjusted": 1 - (right - left) * (bottom - top) / 108}
        elif kind == PLAIN:
            params["lam"] = 1.0
        torch.testing.assert_close(found[i : i + 2], theirs.transform(pair, params))
        torch.testing.assert_close(targets[i : i + 2], theirs.transform(own, params))


def test_shares_are_beta_and_a_pair_is_mixed_as_often_as_asked():
    draws = draw_mixing(MixUp(alpha=0.4, probability=0.3), None, 40_000, 0, 0)[::2]
    assert (draws[:, 0] == MIXED).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert draws[:, 1].mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws[:, 1].var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)
    both = draw_mixing(MixUp(), CutMix(), 40_000, 0, 0)[::2]
    assert (both[:, 0] == CUT).double().mean().item() == pytest.approx(0.5, abs=0.02)


# ---- what they do to a batch


def test_labels_of_mixed_images_are_shares_of_classes():
    data = noise(batch_size=12, augment=("mixup", "cutmix"))
    plain = noise(batch_size=12).train_batch(2)
    x, y = data.train_batch(2)
    assert y.shape == (12, 4)
    torch.testing.assert_close(y.sum(1), torch.ones(12))
    for i in range(0, 12, 2):
        classes = {*plain[1][i : i + 2].tolist()}
        assert {*y[i].nonzero().flatten().tolist()} <= classes
    assert not torch.equal(x, plain[0])
    for _, labels in [*data.eval_batches("test"), *data.calibration(9)]:
        assert labels.dtype == torch.int64


def test_repeated_images_are_far_from_their_like_and_augmented_each_time():
    assert places_in_epoch(0, 8, 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert places_in_epoch(2, 8, 3).tolist() == [6, 7, 8, 6, 7, 8, 6, 7]
    assert places_in_epoch(3, 4, 1).tolist() == [12, 13, 14, 15]
    data = noise(samples=60, batch_size=12, augment=({"name": "repeated", "times": 3}, "flip"))
    assert data.steps_per_epoch == 5
    x, y = data.train_batch(1)
    assert y[:4].tolist() == y[4:8].tolist() == y[8:].tolist()
    ways = {tuple(torch.equal(x[i], x[i + 4 * k]) for k in (1, 2)) for i in range(4)}
    assert len(ways) > 1
    assert all(
        torch.equal(x[i], x[i + 4]) or torch.equal(x[i], x[i + 4].flip(-1)) for i in range(4)
    )


def test_the_samples_of_a_repeated_epoch_are_all_different():
    data = noise(samples=300, batch_size=12, augment=({"name": "repeated", "times": 2},))
    pixels = [data.train_batch(step)[0][:6] for step in range(25)]
    assert len({row.numpy().tobytes() for batch in pixels for row in batch}) == 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augment": ("mixup",), "batch_size": 9},
            "mixup mixes samples 2i .* data.batch_size .*not 9",
        ),
        ({"augment": ("cutmix",), "micro_batch": 3}, "cutmix mixes .* data.micro_batch .* not 3"),
        ({"augment": ("crop", "random_resized_crop")}, "random_resized_crop takes the place of cr"),
        ({"augment": ("rand_augment", "trivial_augment")}, "trivial_augment takes the place of"),
        ({"augment": ("mixup", {"name": "mixup", "alpha": 0.2})}, "mixup is there twice"),
        ({"augment": ("mixup", {"name": "repeated", "times": 8})}, "all one image, repeated 8"),
        ({"augment": ({"name": "random_erasing", "scale": (0.5, 0.1)},)}, "must rise"),
        ({"mean": (120.0, 110.0, 100.0)}, "pixel values of 0 .. 1: .* over 255, not 120.0"),
        ({"std": (0.2, 0.0, 0.2)}, "is divided by: must be more than 0"),
        ({"eval_resize": 10}, "set data.image_size"),
        ({"eval_resize": 10, "image_size": 12}, "at least image_size, 12"),
    ],
)
def test_what_does_not_fit_is_an_error_of_its_key(settings, message):
    with pytest.raises(ValidationError, match=message):
        noise(**settings)


def test_what_only_the_data_or_the_ranks_show_is_told_too():
    with pytest.raises(RecipeError, match=r"data\.augment: rand_augment takes gray or RGB .* 2 ch"):
        noise(channels=2, augment=("rand_augment",))
    with pytest.raises(RecipeError, match=r"data\.batch_size: 18 over 2 .* 9 samples .* of 4"):
        noise(world=2, batch_size=18, augment=("mixup",))
    with pytest.raises(RecipeError, match=r"data\.mean: 1 values for images of 3 channels"):
        noise(mean=(0.5,))


# ---- evaluation and normalisation


def test_a_given_mean_and_deviation_are_used_and_remembered():
    given = noise(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    raw = NoiseConfig().load("test").images
    x = torch.cat([x for x, _ in given.eval_batches("test")])
    mean, std = (torch.tensor(t).view(-1, 1, 1) for t in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5)))
    torch.testing.assert_close(x, (raw.float() / 255 - mean) / std)
    torch.testing.assert_close(given.preprocessing(raw), x)
    assert given.preprocessing.mean == pytest.approx((127.5, 102, 76.5))
    half = noise(mean=(0.5, 0.4, 0.3))
    assert half.std == noise().std
    assert half.mean == pytest.approx((0.5, 0.4, 0.3))


@pytest.mark.parametrize("size", [(20, 20), (20, 31), (40, 22)])
@pytest.mark.parametrize("shorter", [16, 20, 33])
def test_evaluation_resizes_and_crops_as_torchvision_does(size, shorter):
    height, width = size
    data = noise(height=height, width=width, image_size=15, eval_resize=shorter, tests=5)
    raw = NoiseConfig(height=height, width=width, tests=5).load("test").images
    mean, std = (torch.tensor(t).view(-1, 1, 1) for t in (data.mean, data.std))
    normalised = (raw.float() / 255 - mean) / std
    theirs = v2.Compose([v2.Resize(shorter, antialias=True), v2.CenterCrop(15)])
    x = torch.cat([x for x, _ in data.eval_batches("test")])
    assert x.shape == (5, 3, 15, 15)
    torch.testing.assert_close(x, theirs(normalised), rtol=1e-4, atol=1e-4)
    assert torch.equal(data.preprocessing(raw), x)
    assert data.train_batch(0)[0].shape == (8, 3, 15, 15)


def test_augmentations_without_settings_stay_words():
    config = NoiseConfig(augment=({"name": "flip"}, "crop", "rand_augment"))
    assert config.augment == ("flip", "crop", RandAugment())
    written = config.model_dump(mode="json")["augment"]
    assert written[:2] == ["flip", "crop"]
    assert written[2]["name"] == "rand_augment"
    assert NoiseConfig(augment=tuple(written)).augment == config.augment


def test_no_random_state_is_read_or_moved():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is the subject
    before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    every = tuple(value for key, value in ALL.items() if key not in ("crop", "trivial_augment"))
    first = noise(batch_size=12, augment=every).train_batch(3)
    after = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    torch.manual_seed(2)
    assert equal(first, noise(batch_size=12, augment=every).train_batch(3))


def test_a_contact_sheet_has_the_images_of_the_batch_in_rows():
    data = noise(batch_size=8, augment=("flip",))
    sheet = torch.from_numpy(np.array(contact_sheet(data, 2, images=5, columns=3)))
    assert tuple(sheet.shape) == (18, 28, 3)
    x, _ = data.train_batch(2)
    mean, std = (torch.tensor(t).view(-1, 1, 1) for t in (data.mean, data.std))
    pixels = ((x * std + mean) * 255).round().to(torch.uint8)
    assert torch.equal(sheet[10:18, 10:18].permute(2, 0, 1), pixels[4])
    assert sheet[8:10].min() == sheet[10:, 20:].min() == 255
    gray = contact_sheet(noise(channels=1), images=2)
    assert np.array(gray).shape == (8, 78, 3)


@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    scale=st.sampled_from([(0.08, 1.0), (0.5, 0.6), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.1, 9.0)]),
)
def test_the_rectangle_of_one_image_is_that_of_a_batch(seed, size, scale, ratio):
    config = RandomResizedCrop(scale=scale, ratio=ratio)
    draws = torch.rand(5, 22, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    want = crop_rectangles(draws, config, size).tolist()
    assert [list(crop_rectangle(row, config, size)) for row in draws] == want


@pytest.mark.parametrize("width", [8, 16, 12])
def test_a_flip_is_the_same_eight_bytes_at_a_time(width):
    images = torch.arange(6 * 3 * 5 * width).to(torch.uint8).view(6, 3, 5, width)
    flips = torch.tensor([[1, 0, 1, 1, 0, 0], [0] * 6, [0] * 6])
    want = [image.flip(-1) if flip else image for image, flip in zip(images, flips[0], strict=True)]
    assert torch.equal(shift.cut(images, flips, (0, 0)), torch.stack(want))
    narrow = images.transpose(2, 3)
    want = [image.flip(-1) if flip else image for image, flip in zip(narrow, flips[0], strict=True)]
    assert torch.equal(shift.cut(narrow, flips, (0, 0)), torch.stack(want))
