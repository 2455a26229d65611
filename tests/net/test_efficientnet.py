"""The EfficientNet-Lite0 encoder and its ImageNet weights."""

import pytest
import torch
import torch.nn.functional as F
from conftest import shared

from pfmap.core.errors import TrainingError
from pfmap.model.store import load_imagenet_lite0
from pfmap.net.layers import EfficientNetLite0, SameConv2d


def test_maps_have_the_strides_and_channels_the_decoder_expects() -> None:
    maps = EfficientNetLite0().eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_padding_is_tensorflows_same(kernel: int, stride: int) -> None:
    conv = SameConv2d(2, 3, kernel, stride)
    image = torch.randn(1, 2, 16, 24)
    # TensorFlow pads (out - 1) * stride + kernel - in pixels, the odd one at the bottom and right.
    pads = []
    for size in (24, 16):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(image, pads), conv.weight, stride=stride)
    torch.testing.assert_close(conv(image), expected)


@pytest.mark.golden
def test_the_imagenet_file_loads_without_a_missing_key() -> None:
    encoder = EfficientNetLite0()
    path = shared("weights/efficientnet-lite0-57934424.pth")
    load_imagenet_lite0(encoder, path)
    published = torch.load(path, weights_only=True)
    assert torch.equal(encoder.stem[0].weight, published["_conv_stem.weight"])
    assert torch.equal(encoder.stages[6][0].project[1].running_var, published["_blocks.15._bn2.running_var"])
    other, first = EfficientNetLite0(4), published["_conv_stem.weight"]
    load_imagenet_lite0(other, path, ("nir", "blue", "red", "dsm"))
    known = [first.mean(1), first[:, 2], first[:, 0], first.mean(1)]
    assert torch.equal(other.stem[0].weight, torch.stack(known, dim=1))


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"layer": torch.zeros(3)}, path)
    with pytest.raises(TrainingError, match="do not fit"):
        load_imagenet_lite0(EfficientNetLite0(), path)
