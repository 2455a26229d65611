"""Small pictures of mapped scenes: the scene, and beside it the same with its classes laid over."""

import io
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from pfmap.core.arrays import Bools, Bytes
from pfmap.core.classes import ClassSpec
from pfmap.core.errors import PfmapError
from pfmap.core.grid import GeoBox
from pfmap.raster.location import Location
from pfmap.raster.preview import read_preview
from pfmap.raster.scaling import EIGHT_BIT, Scaling

SIDE = 320
"""Pixels of the longer side of each of the two panels, at most."""

_LIMIT, _ALL = 15_000, 16_000_000  # bytes
_LAID = 0.62  # how much of a class's colour hides what lies under it
_BETWEEN = 8  # pixels between the two panels
_QUALITIES = (18, 30, 44, 58, 72)


def thumbnail_limit(scenes: int) -> int:
    """Return how many bytes the picture of one of so many scenes may have: all of them have 16 MB at most."""
    return min(_LIMIT, _ALL // max(1, scenes))


def thumbnail(
    scene: Location,
    classes_path: Path,
    classes: Sequence[ClassSpec],
    *,
    scaling: Scaling = EIGHT_BIT,
    bands: tuple[int, ...] | None = None,
    part: GeoBox | None = None,
    limit: int = _LIMIT,
) -> bytes:
    """Draw a scene, and beside it the same with its classes laid over, as a small WebP file.

    Background and nodata are transparent. A large scene without overviews is not read again: its classes
    stand alone. Where the class raster is that of many scenes, `part` is the scene's grid. It has at most
    `limit` bytes; none where the scene or its class raster cannot be read any more: a report is no place to
    fail for want of a picture.
    """
    try:
        shown = read_preview(scene, classes_path, SIDE, scaling, bands, part)
    except (PfmapError, OSError):
        return b""
    colors = {value: spec.rgb for value, spec in enumerate(classes) if not spec.background}
    return class_picture(*shown, colors, limit)


def class_picture(
    pixels: Bytes | None, seen: Bools, classes: Bytes, colors: Mapping[int, tuple[int, int, int]], limit: int
) -> bytes:
    """Draw an image and, to its right, the same with classes laid over it, as a small WebP file.

    Pixels are ``(3, h, w)``, or None for the classes alone; what is not `seen`, ``(h, w)``, is transparent. A
    picture that needs more bytes than the limit is drawn worse, then smaller.
    """
    table = np.zeros((256, 4), dtype=np.float32)
    for value, color in colors.items():
        table[value] = (*color, 1)
    laid, drawn = np.split(table[classes], [3], axis=-1)
    if pixels is None:
        panels = [np.dstack([laid, 255 * drawn])]
    else:
        image, data = pixels.transpose(1, 2, 0), seen[..., None]
        mixed = np.where(drawn > 0, image + _LAID * (laid - image), image)
        # Pixels that are mapped but have no data in few pixels keep their class: it is there in the raster.
        panels = [np.dstack([image, 255 * data]), np.dstack([mixed.round(), 255 * (data | (drawn > 0))])]
        panels.insert(1, np.zeros((len(image), _BETWEEN, 4)))
    return _small_webp(Image.fromarray(np.concatenate(panels, axis=1).astype(np.uint8)), limit)


def scene_alone(content: bytes, shape: tuple[int, int], side: int, limit: int) -> bytes:
    """Return the scene of a thumbnail without what lies beside it, in `side` pixels at most, likewise.

    `shape` is the height and the width of the scene, of any unit.
    """
    with Image.open(io.BytesIO(content)) as image:
        wide = max(1, round(image.height * shape[1] / shape[0]))
        alone = image.crop((0, 0, min(image.width, wide), image.height))
    alone.thumbnail((side, side))
    return _small_webp(alone, limit)


def _small_webp(image: Image.Image, limit: int) -> bytes:
    """Encode a picture in at most so many bytes; nothing where not even a tiny one has as few."""
    while not (content := _best_webp(image, limit)) and max(image.size) > 64:
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))
    return content


def _best_webp(image: Image.Image, limit: int) -> bytes:
    """Encode a picture as well as so many bytes allow; nothing if they do not."""

    @cache
    def encoded(quality: int) -> bytes:
        content = io.BytesIO()
        image.save(content, "WEBP", quality=quality, method=4, alpha_quality=60)
        return content.getvalue()

    fitting = bisect_left(_QUALITIES, limit + 1, key=lambda quality: len(encoded(quality)))
    return encoded(_QUALITIES[fitting - 1]) if fitting else b""
