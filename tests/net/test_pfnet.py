"""PFNet against its reference tensors, its published sizes, and every window it has to take."""

import copy

import numpy as np
import pytest
import torch
from conftest import shared
from golden import golden_state
from torch.utils.flop_counter import FlopCounterMode

from pfmap.core.card import Architecture
from pfmap.core.errors import ModelError
from pfmap.model.store import misfits
from pfmap.model.upstream import rename
from pfmap.net.fast import factor_head, for_inference
from pfmap.net.pfnet import PFNet


@pytest.fixture(scope="module")
def golden_network() -> PFNet:
    network = PFNet(Architecture("resnet50", 16)).eval()
    state = {rename(key): value for key, value in golden_state().items()}
    assert misfits(network, state) == []
    network.load_state_dict(state)
    return network


@pytest.mark.golden
@pytest.mark.parametrize("way", ["published", "factored", "for inference"])
def test_the_network_reproduces_the_golden_tensors(golden_network: PFNet, way: str) -> None:
    golden = np.load(shared("golden/pfnet_r50_16c_256.npz"))
    network = copy.deepcopy(golden_network)
    if way == "factored":
        factor_head(network)
    if way == "for inference":
        network = for_inference(network, torch.device("cpu"), torch.float32)
    contexts: list[torch.Tensor] = []
    network.ppm.register_forward_hook(lambda _module, _top, context: contexts.append(context))
    with torch.inference_mode():
        image = torch.from_numpy(golden["image"])
        output = network.compute(image)
        logits = network(image)
    np.testing.assert_allclose(contexts[0], golden["ppm"], atol=1e-3)
    for edges, name in zip(output.edges, ("edge2", "edge1", "edge0"), strict=True):
        np.testing.assert_allclose(edges, golden[name], atol=5e-3)
    for flow, name in zip(output.flows, ("pfm2", "pfm1"), strict=False):
        # Stored as float16, whose steps are 2 ** -10 of the value.
        np.testing.assert_allclose(flow, golden[name].astype(np.float32), atol=1e-2, rtol=2e-3)
    np.testing.assert_allclose(output.logits, golden["logits4"], atol=2e-2)
    np.testing.assert_allclose(logits[:, :, ::37, ::41], golden["logits_sample"], atol=2e-2)
    assert (logits.argmax(1).numpy() == golden["argmax"]).mean() >= 0.9999


def test_parameters_and_multiply_adds_are_the_published_ones() -> None:
    sizes = {
        "resnet50": (32.99e6, 85.7e9),
        "resnet101": (51.99e6, None),
    }
    for encoder, (parameters, multiply_adds) in sizes.items():
        with torch.device("meta"):
            network = PFNet(Architecture(encoder, 19)).eval()
        count = sum(p.numel() for p in network.parameters())
        assert count == pytest.approx(parameters, rel=5e-3)
        if multiply_adds is not None:
            network = network.to_empty(device="cpu")
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                network(torch.zeros(1, 3, 512, 512))
            assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=5e-3)


def test_the_light_network_has_about_five_million_parameters() -> None:
    with torch.device("meta"):
        network = PFNet(Architecture("efficientnet_lite0", 5, width=128))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(5e6, rel=0.1)


@pytest.fixture(scope="module")
def light() -> PFNet:
    torch.manual_seed(0)
    return PFNet(Architecture("efficientnet_lite0", 3, width=32, embedding=16)).eval()


@pytest.mark.parametrize("height", [64, 96, 224])
@pytest.mark.parametrize("width", [64, 160, 320])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_window_of_multiples_of_32_works(light: PFNet, height: int, width: int, batch: int) -> None:
    image = torch.randn(batch, 3, height, width)
    with torch.inference_mode():
        logits = light(image)
        alone = light(image[:1])
    assert logits.shape == (batch, 3, height, width)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[:1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 64), (64, 100), (0, 64)])
def test_other_windows_are_refused(light: PFNet, size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="multiples of 32"):
        light(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "resnet50"])
@pytest.mark.parametrize("factored", [False, True])
def test_low_precision_agrees_with_float32(dtype: torch.dtype, encoder: str, factored: bool) -> None:
    torch.manual_seed(1)
    network = PFNet(Architecture(encoder, 4, width=32, embedding=16)).eval()
    if factored:
        factor_head(network)
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        full = network(image)
        with torch.autocast("cpu", dtype):
            low = network(image)
    assert low.shape == full.shape
    error = (low.float() - full).abs().mean() / full.abs().mean()
    assert error < 0.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_reaches_every_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    network = PFNet(Architecture("efficientnet_lite0", 3, width=16, embedding=8)).train()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = network.compute(torch.randn(2, 3, 96, 64))
    (output.logits.float().square().mean() + sum(e.float().square().mean() for e in output.edges)).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_the_factored_head_is_the_plain_head() -> None:
    torch.manual_seed(3)
    network = PFNet(Architecture("efficientnet_lite0", 3, width=32, embedding=16)).eval().double()
    levels = [torch.randn(2, 32, 96 // s, 160 // s, dtype=torch.float64) for s in (1, 2, 4, 8)]
    plain = network.head(levels)
    factor_head(network)
    # The matrices are made in float32, like the resize itself in a float32 network.
    torch.testing.assert_close(network.head(levels), plain, atol=2e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_the_cpu(light: PFNet, dtype: torch.dtype) -> None:
    image = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        here = light(image)
        network = copy.deepcopy(light).cuda()
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            there = network(image.cuda()).float().cpu()
    assert (here - there).abs().mean() / here.abs().mean() < (1e-2 if dtype == torch.float32 else 0.15)
