"""A figure of points over an image, in panels side by side with a legend; and pixels as PNG and JPEG files.

Drawn at twice the size and then halved, which smooths every edge. Blue circles and yellow diamonds differ in
shape, in lightness, and in hue for every kind of colour vision (Okabe and Ito, 2008).
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pfmap.core.arrays import Bools, Bytes, Floats
from pfmap.core.errors import TargetError, reason
from pfmap.core.files import draft

_DRAWN = 2  # times the final size
_SIDE, _GAP, _TITLE, _FOOT = 560, 20, 58, 108  # final pixels
_ACROSS = 3
_INK, _PAPER, _EMPTY = (20, 20, 20), (255, 255, 255), (214, 214, 214)
_CIRCLE, _DIAMOND, _LINE = (86, 180, 233), (240, 228, 66), (255, 255, 255)
_CIRCLE_RADIUS, _DIAMOND_RADIUS = 4.2, 7.8  # a circle on a diamond leaves a ring of it in sight
_FADED = 0.35  # how much of an image's colour is taken back, so that the points stand out

Points = Floats
"""``(P, 2)``: rows and columns of points in an image, pixels."""

Panel = tuple[str, str, Points, Points]
"""Title, a smaller line under it, and which points on the image are circles and diamonds."""


def write_picture(
    path: Path,
    pixels: Bytes,
    seen: Bools,
    outlined: Bools,
    panels: Sequence[Panel],
    legend: tuple[str, str, str],
    captions: Sequence[str],
) -> None:
    """Draw panels, three in a row, over the same square image, and write them as a PNG.

    Pixels are ``(3, side, side)``; those not `seen` are drawn as empty, around `outlined` a line is drawn.
    The legend says what circles and diamonds are, and what the outline surrounds, each unless it is empty. A
    `TargetError` says that the file cannot be written.
    """
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    width = _DRAWN * (across * (_SIDE + _GAP) + _GAP)
    height = _DRAWN * (down * (_SIDE + _TITLE) + _FOOT)
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    image = _image(pixels, seen, outlined)
    scale = image.width / pixels.shape[-1]
    for index, (title, subtitle, circles, diamonds) in enumerate(panels):
        row, col = divmod(index, across)
        left = _DRAWN * (_GAP + col * (_SIDE + _GAP))
        top = _DRAWN * (_TITLE + row * (_SIDE + _TITLE))
        canvas.paste(image, (left, top))
        draw.text((left, top - _DRAWN * 30), title, _INK, _font(19), anchor="ls")
        draw.text((left, top - _DRAWN * 10), subtitle, _INK, _font(15), anchor="ls")
        for y, x in diamonds * scale:
            _diamond(draw, left + x, top + y)
        for y, x in circles * scale:
            _circle(draw, left + x, top + y)
    x, y = float(_DRAWN * (_GAP + 8)), float(height - _DRAWN * (_FOOT - 24))
    for sign, text in zip((_circle, _diamond, _outline), legend, strict=True):
        if text:
            sign(draw, x, y)
            draw.text((x + _DRAWN * 16, y), text, _INK, _font(16), anchor="lm")
            x += _DRAWN * 44 + draw.textlength(text, _font(16))
    for line, caption in enumerate(captions):  # smaller where it is too long for the picture
        share = (width - 2 * _DRAWN * _GAP) / draw.textlength(caption, _font(16))
        y = height - _DRAWN * (_FOOT - 56 - 26 * line)
        draw.text((_DRAWN * _GAP, y), caption, _INK, _font(16 * min(1.0, share)), anchor="lm")
    final = canvas.resize((width // _DRAWN, height // _DRAWN), Image.Resampling.LANCZOS)
    try:
        with draft(path) as part:
            final.save(part, "PNG", optimize=True)
    except OSError as error:
        raise TargetError(
            f"{path} cannot be written ({reason(error)}): choose another file with output="
        ) from error


def _image(pixels: Bytes, seen: Bools, outlined: Bools) -> Image.Image:
    """Return the image under the points, at the size in which it is drawn."""
    color = pixels.transpose(1, 2, 0).astype(np.float32)
    faded = color + _FADED * (color.mean(axis=-1, keepdims=True) - color)
    shown = np.where(seen[..., None], faded, np.array(_EMPTY, dtype=np.float32)).round().astype(np.uint8)
    size = (_DRAWN * _SIDE, _DRAWN * _SIDE)
    drawn = np.array(Image.fromarray(shown).resize(size, Image.Resampling.BICUBIC))
    inside = np.asarray(Image.fromarray(outlined).resize(size, Image.Resampling.NEAREST), dtype=bool)
    drawn[_edge(inside, 2 * _DRAWN)] = _INK
    drawn[_edge(inside, _DRAWN)] = _LINE
    return Image.fromarray(drawn)


def _edge(inside: Bools, reach: int) -> Bools:
    """Return the pixels of a mask from which one outside it is at most `reach` steps away."""
    core = inside.copy()
    for _ in range(reach):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    r = _DRAWN * _CIRCLE_RADIUS
    draw.ellipse((x - r, y - r, x + r, y + r), _CIRCLE, _INK, _DRAWN)


def _diamond(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    r = _DRAWN * _DIAMOND_RADIUS
    draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], _DIAMOND, _INK, _DRAWN)


def _outline(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    draw.rectangle((x - _DRAWN * 9, y - _DRAWN * 6, x + _DRAWN * 9, y + _DRAWN * 6), _LINE, _INK, 2 * _DRAWN)


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_DRAWN * size)


def png(pixels: Bytes) -> bytes:
    """Encode ``(height, width, 3)`` uint8 red, green and blue as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def through_jpeg(pixels: Bytes, quality: int) -> Bytes:
    """Return ``(3, height, width)`` uint8 colours as a JPEG of a quality of 1 to 100 keeps them."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).transpose(2, 0, 1)
