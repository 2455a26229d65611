"""How training changes what a piece of ground looks like."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pfmap.train.looks import PAINTERS, blur, elsewhere, plant_rows, recolor, tint

GREY = torch.full((3, 64, 64), 0.5)
GREY_96 = torch.full((3, 96, 96), 0.5)


@pytest.fixture
def ground() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(0.2, 0.8, (3, 64, 64)).astype(np.float32))


def test_looks_stay_images_and_depend_on_the_generator_alone(ground: Tensor) -> None:
    other = torch.stack([torch.full((96, 96), v) for v in (0.9, 0.5, 0.1)])
    shown = [elsewhere(ground, other, np.random.default_rng(seed)) for seed in range(60)]
    shown += [recolor(ground, np.random.default_rng(seed)) for seed in range(20)]
    for image in shown:
        assert image.shape == ground.shape
        assert image.isfinite().all()
        assert 0 <= image.min() <= image.max() <= 1
    assert torch.equal(shown[7], elsewhere(ground, other, np.random.default_rng(7)))
    assert not torch.equal(shown[7], shown[8])


def test_some_looks_have_the_colours_of_another_place() -> None:
    red = torch.tensor([0.9, 0.2, 0.1])[:, None, None].expand(3, 96, 96)
    redness = [
        [
            float((image[0] - image[2]).mean())
            for seed in range(80)
            for image in [elsewhere(GREY, other, np.random.default_rng(seed))]
        ]
        for other in (red, GREY)
    ]
    changed = np.subtract(*redness)
    assert 10 < (changed > 0.05).sum() < 50
    assert (changed > -0.05).all()


def test_a_tint_changes_what_lies_in_the_mask(ground: Tensor) -> None:
    where = torch.zeros(64, 64, dtype=torch.bool)
    where[20:40, 20:40] = True
    changed = (tint(ground, where, np.random.default_rng(2)) - ground).abs().amax(0)
    assert changed[24:36, 24:36].mean() > 0.05
    assert changed[~torch.nn.functional.max_pool2d(where[None].float(), 9, 1, 4)[0].bool()].max() < 1e-6


def test_rows_of_plants_are_painted_on_open_ground_alone() -> None:
    where = torch.zeros(64, 64, dtype=torch.bool)
    where[:, 16:] = True
    found = 0
    for seed in range(20):
        image, field = plant_rows(GREY, where, np.random.default_rng(seed))
        assert not field[:, :16].any()
        assert 0 <= image.min() <= image.max() <= 1
        changed = (image - GREY).abs().amax(0) > 0.02
        assert not changed[:, :12].any()
        assert changed[field].float().mean() > 0.3 or not field.any()
        found += int(field.sum() > 200)
    assert found > 10


@pytest.mark.parametrize("kind", sorted(PAINTERS))
def test_what_is_painted_lies_on_its_ground_alone_and_is_what_its_mask_says(kind: str) -> None:
    where = torch.zeros(96, 96, dtype=torch.bool)
    where[:, 24:] = True
    found, shown = 0, []
    for seed in range(30):
        image, mask = PAINTERS[kind](GREY_96, where, np.random.default_rng(seed))
        assert 0 <= image.min() <= image.max() <= 1
        assert not mask[:, :24].any()
        changed = (image - GREY_96).abs().amax(0)
        assert changed[:, :20].max() < 1e-6  # but for soft edges and shadows, which end at the ground too
        found += int(mask.sum() > 60)
        shown.append(float(changed[mask].mean()) if mask.any() else 0)
    assert found >= 12
    assert sum(change > 0.03 for change in shown) >= 12
    again, _ = PAINTERS[kind](GREY_96, where, np.random.default_rng(29))
    assert torch.equal(image, again)


def test_pools_are_blue_or_dark_and_roads_grey() -> None:
    every = torch.ones(96, 96, dtype=torch.bool)

    def colors(kind: str) -> Tensor:
        drawn = (PAINTERS[kind](GREY_96, every, np.random.default_rng(seed)) for seed in range(40))
        return torch.stack([image[:, mask].mean(1) for image, mask in drawn if mask.sum() > 60])

    assert (colors("pools")[:, 2] > colors("pools")[:, 0] - 0.2).all()
    assert (colors("pools").argmax(1) > 0).float().mean() > 0.8
    assert (colors("roads").amax(1) - colors("roads").amin(1)).max() < 0.12


@pytest.mark.parametrize("sigma", [0.5, 1.4])
def test_blurring_keeps_the_mean_and_spreads_by_sigma(sigma: float) -> None:
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    spread = blur(point, sigma)[0]
    line = torch.arange(41) - 20.0
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    assert float((spread.sum(0) * line**2).sum() ** 0.5) == pytest.approx(sigma, rel=0.1)
