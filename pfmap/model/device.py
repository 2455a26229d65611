"""Choose the device that the network runs on, the precision of its arithmetic, and windows per pass."""

import torch

from pfmap.core.errors import DeviceError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that is there.

    Raises:
        DeviceError: the device does not exist on this machine.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceError(f"device {wanted!r} is unknown: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            built = "this torch was built without CUDA" if torch.version.cuda is None else "none answers"
            found = f"{count} CUDA devices are here" if count else f"no CUDA device is here ({built})"
            raise DeviceError(f"device {wanted!r} is asked for, but {found}: use device='cpu' or auto")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device 'mps' is asked for, but is not here: use device='cpu' or auto")
    elif device.type != "cpu":
        raise DeviceError(f"device {wanted!r} is not supported: use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Turn ``auto`` or a type's name into the type of the heavy arithmetic.

    ``auto`` takes bfloat16 where the device computes in it natively, and float32 elsewhere: emulated,
    it is several times slower.

    Raises:
        DeviceError: the name is unknown.
    """
    if wanted != "auto":
        if wanted not in PRECISIONS:
            raise DeviceError(f"precision {wanted!r} is unknown: use auto, {', '.join(PRECISIONS)}")
        return PRECISIONS[wanted]
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def default_batch_size(device: torch.device) -> int:
    """Windows per pass: enough to fill a GPU; a CPU gains nothing from more than one."""
    return 8 if device.type == "cuda" else 1


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Name device and precision for people."""
    name = str(device)
    if device.type == "cuda" and torch.cuda.is_available():  # else it is a worker's
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        name = f"cpu ({torch.get_num_threads()} threads)"
    return f"{name}, {str(precision).removeprefix('torch.')}"


def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)
