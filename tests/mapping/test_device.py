"""Choosing device and precision."""

import pytest
import torch

from pfmap.core.errors import DeviceError
from pfmap.mapping.runtime import choose_device, choose_precision


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cuda:99", "tpu", "meta", "cuda:x"])
def test_devices_that_are_not_here_are_refused(wanted: str) -> None:
    with pytest.raises(DeviceError, match=wanted):
        choose_device(wanted)


def test_precision_auto_is_native() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert choose_precision("float16", cpu) == torch.float16
    with pytest.raises(DeviceError, match="float64"):
        choose_precision("float64", cpu)
