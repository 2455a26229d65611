"""Pooling to cells by hand, against PyTorch's adaptive pools."""

import pytest
import torch
import torch.nn.functional as F

from pfmap.net.layers import average_by_products, max_by_gathering

SIZES = [(12, 12, 6), (12, 12, 8), (16, 24, 5), (7, 9, 9), (3, 4, 6), (1, 1, 3)]


@pytest.mark.parametrize(("height", "width", "bins"), SIZES)
def test_averages_are_those_of_adaptive_pooling(height: int, width: int, bins: int) -> None:
    features = torch.randn(2, 5, height, width)
    torch.testing.assert_close(average_by_products(features, bins), F.adaptive_avg_pool2d(features, bins))


@pytest.mark.parametrize(("height", "width", "bins"), SIZES)
def test_maxima_and_their_places_are_those_of_adaptive_pooling(height: int, width: int, bins: int) -> None:
    features = torch.randint(0, 6, (2, 1, height, width)).float()  # many equal ones: the first counts
    at, peaks = max_by_gathering(features, bins)
    wanted, places = F.adaptive_max_pool2d(features, bins, return_indices=True)
    assert torch.equal(peaks, wanted)
    assert torch.equal(at, places.flatten(1))
