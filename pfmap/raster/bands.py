"""Which bands of a scene the network sees."""

import re
from collections.abc import Sequence

import rasterio

from pfmap.core.errors import UsageError

RGB = ("red", "green", "blue")
_NAMES = {
    "near infrared": "nir",
    "near-infrared": "nir",
    "infrared": "nir",
    "r": "red",
    "g": "green",
    "b": "blue",
}


def choose_bands(
    src: rasterio.DatasetReader,
    scene: str,
    names: tuple[str, ...],
    bands: Sequence[int] | None,
    model: str,
) -> tuple[int, ...]:
    """Choose bands by number, or by what the file says they are: colour interpretation, then descriptions.

    A grey scene serves a model for red, green and blue with the same band three times; a palette has one
    band, whose colours are expanded when it is read.

    Args:
        src: the opened scene.
        scene: its name, for messages.
        names: what the model needs, in its order.
        bands: 1-based numbers given by the user, or None.
        model: the model's name, for messages.

    Returns:
        1-based band numbers, as many as `names`.

    Raises:
        UsageError: too few bands, bands that do not exist, or a band that only the user can name.
    """
    wanted = f"model {model!r} needs {len(names)} ({', '.join(names)})"
    if bands is not None:
        if len(bands) != len(names):
            raise UsageError(f"--bands names {len(bands)} bands; {wanted}")
        absent = [str(b) for b in bands if not 1 <= b <= src.count]
        if absent:
            raise UsageError(f"{scene} has bands 1 to {src.count}, not {', '.join(absent)}: correct --bands")
        return tuple(bands)
    for labels in ([c.name for c in src.colorinterp], [_plain(text) for text in src.descriptions]):
        if all(labels.count(name) == 1 for name in names):
            return tuple(labels.index(name) + 1 for name in names)
    kinds = [color.name for color in src.colorinterp]
    colors = [i + 1 for i, kind in enumerate(kinds) if kind != "alpha"]
    if names == RGB and len(colors) == 1 and kinds[colors[0] - 1] in ("gray", "palette"):
        return (colors[0],) * 3
    if len(colors) < len(names):
        raise UsageError(
            f"{scene} has {len(colors)} band{'s' * (len(colors) != 1)}; {wanted}: choose them with --bands"
        )
    if names != RGB:
        raise UsageError(
            f"{scene} does not say which of its {len(colors)} bands are {', '.join(names)}, as model "
            f"{model!r} needs them: name them with --bands, such as --bands 1,2,3 for this order"
        )
    return tuple(colors[: len(names)])


def _plain(description: str | None) -> str:
    """Reduce a band's description to a name of the model's language: "Near Infrared (B8)" to nir."""
    text = re.sub(r"\(.*?\)|[\d_]", " ", description or "").strip().lower()
    text = re.sub(r"\s+band$|^band\s+", "", " ".join(text.split()))
    return _NAMES.get(text, text)
