"""What the network gets to see."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pointwise, Write, stand_in
from torch import Tensor, nn

import pfmap
from pfmap.core.card import InputSpec
from pfmap.model.lanes import Window
from pfmap.model.predictor import Predictor
from pfmap.raster.view import pad_to

SPEC = InputSpec(("red", "green", "blue"), 255.0, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2), 64, (0.1, 1.0))


class Seen(nn.Module):
    """Remembers its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []
        self.inner = Pointwise(3)

    def forward(self, image: Tensor) -> Tensor:
        self.inputs.append(image.clone())
        return self.inner(image)


def test_pixels_are_scaled_and_normalised() -> None:
    network = Seen()
    predictor = Predictor(network, SPEC)
    window = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    valid = np.ones((64, 64), dtype=bool)
    predictor.probabilities([window], [valid])
    mean, std = np.array(SPEC.mean)[:, None, None], np.array(SPEC.std)[:, None, None]
    np.testing.assert_allclose(network.inputs[0][0], (window / 255 - mean) / std, atol=1e-5)


def test_invalid_pixels_are_shown_as_the_mean_colour() -> None:
    network = Seen()
    window = np.full((3, 64, 64), 255, dtype=np.uint8)
    valid = np.ones((64, 64), dtype=bool)
    valid[:, 20:] = False
    Predictor(network, SPEC).probabilities([window], [valid])
    assert (network.inputs[0][..., 20:] == 0).all()  # the mean, once normalised
    assert (network.inputs[0][..., :20] != 0).all()


def test_windows_past_the_edge_are_padded_by_reflection(write_scene: Write) -> None:
    network = Seen()
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 90), dtype=np.uint8)
    pfmap.predict(write_scene(image), model=stand_in(network=network), device="cpu", overlap=0)
    left, right = (x[0].numpy() * 255 for x in network.inputs)
    whole = np.concatenate([left, right], axis=2)
    np.testing.assert_allclose(whole[:, :40, :90], image, atol=1e-3)
    np.testing.assert_allclose(whole[:, 40:64, :90], image[:, 38:14:-1], atol=1e-3)
    np.testing.assert_allclose(whole[:, :40, 90:115], image[:, :, 88:63:-1], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (64, 64)])
def test_padding_repeats_as_often_as_needed(shape: tuple[int, int]) -> None:
    pixels = np.arange(3 * shape[0] * shape[1], dtype=np.uint8).reshape(3, *shape)
    padded, valid = pad_to(pixels, np.ones(shape, bool), 64, 64)
    assert padded.shape == (3, 64, 64)
    assert valid.all()
    assert np.array_equal(padded[:, : shape[0], : shape[1]], pixels)


def test_long_runs_of_empty_windows_do_not_pile_up() -> None:
    predictor = Predictor(Pointwise(3), SPEC, batch_size=8)
    alive = 0

    def windows() -> Any:
        nonlocal alive
        for index in range(1000):
            alive += 1
            valid = np.full((64, 64), index % 100 == 50)
            yield Window(0, index, np.zeros((3, 64, 64), np.uint8), valid, valid)

    order = []
    most = 0
    for batch in predictor.batches(windows()):
        most = max(most, alive)
        alive -= len(batch.windows)
        order += [window.col for window in batch.windows]
        assert batch.seen == [window.valid.any() for window in batch.windows]
        assert len(batch.made[0] if batch.made else ()) == sum(batch.seen)
    assert order == list(range(1000))
    assert most <= (predictor.workers + 2) * 4 * 8


def test_a_window_does_not_depend_on_its_company() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(requires_grad=False)
    rng = np.random.default_rng(1)
    windows = [rng.integers(0, 256, (3, 64, 64), dtype=np.uint8) for _ in range(3)]
    valid = [np.ones((64, 64), bool)] * 3
    predictor = Predictor(network, SPEC, batch_size=4)
    together = predictor.probabilities(windows, valid)
    for index in range(3):
        alone = predictor.probabilities([windows[index]], valid[:1])
        assert torch.equal(alone[0], together[index])
