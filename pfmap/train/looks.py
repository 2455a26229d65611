"""How one piece of ground may look to another camera, on another day, in another place: random changes.

Images are ``(3, n, n)`` float32 tensors in 0..1; what is drawn depends on the generator alone.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.raster.preview import through_jpeg

_LEAST_SPREAD = 0.04  # of a channel: what is dull is not blown up


def recolor(image: Tensor, rng: np.random.Generator, *, much: float = 0.9) -> Tensor:
    """Vary gamma, brightness, contrast, saturation and white balance; now and then blur, or add noise."""
    image = image.clamp(min=1e-4) ** math.exp(much * rng.uniform(-0.5, 0.5))
    image = image * math.exp(much * rng.uniform(-0.4, 0.3))
    middle = image.mean()
    image = (image - middle) * math.exp(much * rng.uniform(-0.4, 0.35)) + middle
    grey = image.mean(dim=0, keepdim=True)
    image = grey + (image - grey) * (1 + much * rng.uniform(-0.8, 0.6))
    image = image * torch.tensor(np.exp(much * rng.uniform(-0.15, 0.15, (3, 1, 1))), dtype=torch.float32)
    if rng.random() < 0.2:
        image = blur(image, float(rng.uniform(0.4, 1.4)))
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.04))
        image = image + torch.from_numpy(noise)
    return image.clamp(0, 1)


def elsewhere(image: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
    """Recolour an image as if taken anywhere: some in colours of another, shaded, hazy, or as a JPEG."""
    if rng.random() < 0.3:
        image = _toward(image, other, float(rng.uniform(0.2, 0.9)))
    if rng.random() < 0.25:
        image = _shaded(image, rng)
    if rng.random() < 0.15:
        air = torch.tensor(rng.uniform(0.55, 0.85) + rng.uniform(-0.05, 0.05, (3, 1, 1)), dtype=torch.float32)
        image = image.lerp(air, float(rng.uniform(0.1, 0.45)))
    image = recolor(image, rng, much=float(rng.uniform(0.2, 1.0)))
    return _jpeg(image, int(rng.integers(25, 90))) if rng.random() < 0.2 else image


def tint(image: Tensor, where: Tensor, rng: np.random.Generator) -> Tensor:
    """Give what lies in the mask ``(n, n)`` another colour: of roofs and roads, it says little elsewhere."""
    soft = blur(where.float()[None], 1.0)
    change = np.exp(rng.uniform(-0.5, 0.4) + rng.uniform(-0.25, 0.25, (3, 1, 1)))
    grey = image.mean(dim=0, keepdim=True)
    changed = (grey + (image - grey) * rng.uniform(0, 1.3)) * torch.tensor(change, dtype=torch.float32)
    return image.lerp(changed.clamp(0, 1), soft)


def plant_rows(image: Tensor, where: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint rows of plants over a part of the open ground ``(n, n)``: vineyards, orchards, young crops.

    Returns the image and the mask of the field, with the soil between its rows.
    """
    side = image.shape[1]
    angle = rng.uniform(0, math.pi)
    line = torch.arange(side, dtype=torch.float32) - float(rng.uniform(0.2, 0.8)) * side
    y, x = line[:, None], line[None]
    across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    field = (
        where & (across.abs() < side * rng.uniform(0.15, 0.7)) & (along.abs() < side * rng.uniform(0.15, 0.7))
    )
    period = math.exp(rng.uniform(math.log(4.5), math.log(18)))
    phase = across / period + 0.12 * _clouds(side, 6, rng)
    gaps = 1.5 * rng.random() * _clouds(side, max(4, round(side / period)), rng)
    wave = torch.cos(2 * math.pi * phase) + gaps - float(rng.uniform(-0.3, 0.7))
    plants = torch.sigmoid(wave * 6)
    shade = torch.sigmoid((torch.cos(2 * math.pi * (phase - 0.2)) + gaps - 0.5) * 6) * float(
        rng.uniform(0, 0.5)
    )
    soil = image.mean(dim=0, keepdim=True) * torch.tensor(
        np.array([1.12, 1.0, 0.82])[:, None, None] ** rng.uniform(0, 1.2) * rng.uniform(0.8, 1.3),
        dtype=torch.float32,
    )
    ground = image.lerp(soil, float(rng.uniform(0, 1))) * (1 - shade)
    leaf = np.array([rng.uniform(0.75, 1.1), 1.0, rng.uniform(0.5, 0.85)]) * rng.uniform(0.12, 0.42)
    leaves = torch.tensor(leaf[:, None, None], dtype=torch.float32) * (
        1 + 0.25 * _clouds(side, side // 3, rng)
    )
    soft = blur(field.float()[None], 0.7)
    return image.lerp(ground.lerp(leaves, plants).clamp(0, 1), soft), field


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur channels by a Gaussian of `sigma` pixels."""
    reach = math.ceil(2.5 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / sigma) ** 2)
    bell = (bell / bell.sum()).expand(image.shape[0], 1, -1)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, bell[..., None], groups=image.shape[0])
    return F.conv2d(rows, bell[..., None, :], groups=image.shape[0])[0]


def _toward(image: Tensor, other: Tensor, share: float) -> Tensor:
    """Move the channels towards the mean and the spread of those of another image.

    Source: Reinhard et al., Color Transfer between Images, 2001, Eqs. 10 and 11, here on red, green and blue.
    """
    mean, spread = image.mean((1, 2), keepdim=True), image.std((1, 2), keepdim=True).clamp(min=_LEAST_SPREAD)
    to_mean, to_spread = other.mean((1, 2), keepdim=True), other.std((1, 2), keepdim=True)
    return image.lerp((image - mean) / spread * to_spread + to_mean, share).clamp(0, 1)


def _shaded(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Darken a part, as clouds, hills and tall buildings do; a little less in blue."""
    side = image.shape[1]
    edge = float(rng.uniform(2, 20))
    mask = torch.sigmoid((_clouds(side, int(rng.integers(2, 6)), rng) - float(rng.uniform(-0.5, 0.8))) * edge)
    depth = float(rng.uniform(0.3, 0.7)) * torch.tensor([1.0, 0.95, 0.85])[:, None, None]
    return image * (1 - mask * depth)


def _clouds(side: int, cells: int, rng: np.random.Generator) -> Tensor:
    """Return ``(side, side)`` of smooth noise, about -1 to 1, with so many bumps along a side."""
    coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 1, cells, cells)).astype(np.float32))
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0, 0]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    values = (image * 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(through_jpeg(values, quality)).float() / 255
