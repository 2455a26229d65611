"""How one piece of ground may look to another camera, on another day, in another place: random changes.

Images are ``(3, n, n)`` float32 tensors in 0..1; what is drawn depends on the generator alone.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfmap.report.picture import through_jpeg

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
    wide, long = side * rng.uniform(0.15, 0.7, 2)
    field = where & (across.abs() < wide) & (along.abs() < long)
    period = math.exp(rng.uniform(math.log(4.5), math.log(18)))
    phase = across / period + 0.12 * _clouds(side, 6, rng)
    gaps = 1.5 * rng.random() * _clouds(side, max(4, round(side / period)), rng)
    wave = torch.cos(2 * math.pi * phase) + gaps - float(rng.uniform(-0.3, 0.7))
    plants = torch.sigmoid(wave * 6)
    beside = torch.cos(2 * math.pi * (phase - 0.2)) + gaps - 0.5
    shade = torch.sigmoid(beside * 6) * float(rng.uniform(0, 0.5))
    earth = np.array([1.12, 1.0, 0.82])[:, None, None] ** rng.uniform(0, 1.2) * rng.uniform(0.8, 1.3)
    soil = image.mean(dim=0, keepdim=True) * torch.tensor(earth, dtype=torch.float32)
    ground = image.lerp(soil, float(rng.uniform(0, 1))) * (1 - shade)
    leaf = np.array([rng.uniform(0.75, 1.1), 1.0, rng.uniform(0.5, 0.85)]) * rng.uniform(0.12, 0.42)
    leaves = torch.tensor(leaf[:, None, None], dtype=torch.float32)
    leaves = leaves * (1 + 0.25 * _clouds(side, side // 3, rng))
    soft = blur(field.float()[None], 0.7)
    return image.lerp(ground.lerp(leaves, plants).clamp(0, 1), soft), field


def pave(image: Tensor, where: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint a paved road over a part of the ground, straight or winding, and return its mask."""
    side = image.shape[1]
    time = torch.linspace(-1, 1, 160)
    much, often, phase = rng.uniform((0, 0.5, 0), (3, 6, 6.3)).tolist()
    bend = much * torch.sin(time * often + phase)
    heading = float(rng.uniform(0, 6.3)) + bend + float(rng.uniform(-1, 1)) * time
    line = (torch.stack((heading.sin(), heading.cos()), 1) * 1.7 * side / 160).cumsum(0)
    line = line - line[80] + torch.tensor(rng.uniform(0, side, 2), dtype=torch.float32)
    half = torch.arange(0.5, side, 2)  # of the pixels, every other one
    away, nearest = torch.cdist(torch.cartesian_prod(half, half), line).min(1)
    away = _enlarged(away.view(len(half), -1), side)
    width = math.exp(rng.uniform(math.log(3), math.log(28)))
    road = where & (away < width)
    wear = 1 + float(rng.uniform(-0.15, 0.15)) * torch.cos(away / width * 3) + _grain(side, rng)
    surface = _color(math.exp(rng.uniform(math.log(0.12), math.log(0.65))), 0.05, rng) * wear
    if rng.random() < 0.4:
        dashes = _enlarged((nearest.view(len(half), -1) // int(rng.integers(2, 6)) % 2).float(), side) > 0.5
        lines = ((away - 0.85 * width).abs() < 0.8) | ((away < 0.8) & dashes)
        surface = torch.where(lines, surface.clamp(min=float(rng.uniform(0.5, 0.95))), surface)
    return image.lerp(surface.clamp(0, 1), blur(road.float()[None], 0.6)), road


def roof(image: Tensor, where: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint up to three parallel roofs of metal, glass, tiles or solar panels, with their shadows."""
    side = image.shape[1]
    wide = math.exp(rng.uniform(math.log(8), math.log(60)))
    long = wide * math.exp(rng.uniform(0, 1.6))
    along, across = _axes(side, rng)
    apart = wide * float(rng.uniform(1.15, 2.2))
    count = int(rng.integers(1, 4)) if wide < 30 else 1
    row = (across / apart).round().clamp(0, count - 1)
    across = across - row * apart
    inside = (along.abs() < long / 2) & (across.abs() < wide / 2)
    sun, length = rng.uniform(0, 6.3), float(rng.uniform(2, 14))
    fall = [(round(length * k / 4 * math.sin(sun)), round(length * k / 4 * math.cos(sun))) for k in range(5)]
    shade = torch.stack([inside.roll(shift, (0, 1)) for shift in fall]).any(0) & ~inside & where
    image = image * (1 - float(rng.uniform(0.3, 0.65)) * blur(shade.float()[None], 0.8))
    surface = _color(rng.uniform(0.15, 0.9), 0.25, rng) * (1 + _grain(side, rng))
    kind = rng.random()
    if kind < 0.35:  # panels of dark glass in bright frames, or of glass houses
        frames = torch.zeros_like(inside)
        for place, least in ((along, 4), (across, 3)):
            frames |= place % float(rng.uniform(least, 14)) < float(rng.uniform(0.7, 1.5))
        glass = _color(rng.uniform(0.12, 0.45), 0.08, rng) * torch.tensor([0.85, 0.95, 1.2])[:, None, None]
        surface = torch.where(frames, surface.clamp(min=0.45), glass * (1 + _grain(side, rng)))
    elif kind < 0.8:  # ribs or tiles
        place = along if rng.integers(2) else across
        surface = surface * (1 + float(rng.uniform(0, 0.25)) * torch.cos(place * float(rng.uniform(0.8, 3))))
    if rng.random() < 0.5:  # a ridge
        surface = surface * torch.where(across > 0, float(rng.uniform(0.7, 1.3)), 1.0)
    if rng.random() < 0.25:  # skylights
        lights = (along % float(rng.uniform(12, 40)) < 4) & (across % float(rng.uniform(8, 25)) < 3)
        surface = torch.where(lights, float(rng.uniform(0.1, 0.95)), surface)
    inside &= where
    return image.lerp(surface.clamp(0, 1), blur(inside.float()[None], 0.6)), inside


def pool(image: Tensor, where: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paint a swimming pool with a pale border, or a small pond, and return the mask of its water."""
    side = image.shape[1]
    wide = math.exp(rng.uniform(math.log(6), math.log(40)))
    long = wide * float(rng.uniform(1, 2.8))
    along, across = _axes(side, rng)
    power = float(rng.choice([2, 4, 12]))
    out = ((2 * along / long).abs() ** power + (2 * across / wide).abs() ** power) ** (1 / power)
    water = where & (out < 1)
    if rng.random() < 0.7:
        tone = rng.uniform((0.05, 0.4, 0.45), (0.6, 0.8, 0.9))
        border = blur((where & (out < 1 + rng.uniform(0.05, 0.8))).float()[None], 0.6)
        image = image.lerp(_color(rng.uniform(0.55, 0.9), 0.08, rng).expand_as(image), border)
    else:
        tone = rng.uniform((0.05, 0.1, 0.08), (0.25, 0.32, 0.25))
    depth = 1 + float(rng.uniform(-0.25, 0.25)) * along / long + _grain(side, rng)
    surface = torch.tensor(tone[:, None, None], dtype=torch.float32) * depth
    return image.lerp(surface.clamp(0, 1), blur(water.float()[None], 0.6)), water


PAINTERS: dict[str, Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]] = {
    "rows": plant_rows,
    "roads": pave,
    "roofs": roof,
    "pools": pool,
}
"""What can be painted over the ground of a mask ``(n, n)``; each returns the image, and where it is that."""


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


def _axes(side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return pixels along and across a random line through a random place, ``(side, side)`` each."""
    angle, (y, x) = rng.uniform(0, math.pi), rng.uniform(0, side, 2)
    line = torch.arange(side, dtype=torch.float32)
    down, right = line[:, None] - y, line[None] - x
    return down * math.cos(angle) + right * math.sin(angle), right * math.cos(angle) - down * math.sin(angle)


def _color(brightness: float, much: float, rng: np.random.Generator) -> Tensor:
    """Return a ``(3, 1, 1)`` colour whose channels differ by a factor of up to exp(`much`) from grey."""
    return torch.tensor(brightness * np.exp(rng.uniform(-much, much, (3, 1, 1))), dtype=torch.float32)


def _grain(side: int, rng: np.random.Generator) -> Tensor:
    """Return fine and coarse noise around 0, as dirt and texture have it."""
    much = rng.uniform(0, 0.12)
    return float(much) * (_clouds(side, side // 2, rng) + _clouds(side, 8, rng))


def _enlarged(field: Tensor, side: int) -> Tensor:
    return F.interpolate(field[None, None], size=(side, side), mode="bilinear")[0, 0]
