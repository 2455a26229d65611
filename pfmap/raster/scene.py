"""What a scene is, apart from its pixels: its place, its type of values, and which bands the network sees."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags

from pfmap.core.classes import RGB
from pfmap.core.errors import SourceError, UsageError, worded
from pfmap.core.grid import GeoBox
from pfmap.raster.gdal import Validity, alpha_bands, color_table, geobox_of
from pfmap.raster.location import Location

GUESSES = "PFMAP_GUESSES"
"""Metadata of a mosaic: what was guessed of its sheets, a line each."""
_VAGUE = ("gray", "undefined", "palette")  # interpretations that are those of no one colour
_WORDS = {  # of band names, those of a model's that are not named otherwise
    "other": "aerosol|cirrus|coastal|dem|dsm|dtm|elevation|height|mask|mid|ndvi|pan|re|(?:red)?edge|[lms]wir"
    "|short(?:wave)?|thermal|yellow",
    "nir": "nir|(?:near)?infra ?red",
    "red": r"red|r(?!\d)",
    "green": r"green|g(?!\d)",
    "blue": r"blue|b(?![\W_]*\d)",
}
_NANOMETRES = {"blue": (445, 516), "green": (516, 600), "red": (625, 690), "nir": (785, 900)}
_CACHE_MIN, _CACHE_TILED = 32 << 20, 256 << 20
_KINDS = "uif"  # numpy's letters: unsigned, signed, floating point


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What is known of a scene without reading its pixels."""

    location: Location
    geobox: GeoBox
    bands: tuple[int, ...]
    """1-based numbers of the file's bands that are read, in the model's order."""
    count: int
    """Bands in the file."""
    dtype: str
    """Of the bands that are read, such as uint16; the widest where they differ."""
    validity: Validity
    palette: bool
    """Whether the band holds indices into a colour table."""
    bits: int
    """Of whole numbers that have fewer bits than their type; else 0."""
    white_is_zero: bool
    """Whether low values are bright."""
    guesses: tuple[str, ...]
    """What was taken for true of its place and its bands, for the user to check."""
    block: tuple[int, int]
    """Height and width of the file's own blocks."""
    band_interleaved: bool
    """Whether each band has blocks of its own."""
    driver: str
    """GDAL's name of the format."""
    compression: str
    """GDAL's name of it, or "none"."""
    overviews: tuple[int, ...]
    """How many times as coarse those are that may stand for its pixels, if they are averages of them."""
    files: tuple[Path, ...]
    """All files of this machine that it consists of."""

    @property
    def name(self) -> str:
        """The scene as the user named it."""
        return self.location.text

    @property
    def block_bytes(self) -> int:
        """Bytes of one decoded block."""
        bands = 1 if self.band_interleaved else self.count
        return self.block[0] * self.block[1] * bands * np.dtype(self.dtype).itemsize

    def cache_bytes(self, rows: int) -> int:
        """Return how much of GDAL's block cache reading windows of this many rows wants.

        A file in strips is decoded once per window row only if all of that stays in the cache; of a file in
        tiles that is too wide for that, what the next window shares. Scenes of any height want the same.
        """
        down, across = self.block
        strip = self.geobox.width * self.count * np.dtype(self.dtype).itemsize
        wanted = strip * (rows + 2 * down)
        limit = wanted if across >= self.geobox.width else _CACHE_TILED
        if strip * down * (1 + -(-rows // down)) > limit:  # the blocks that a window row lies in
            wanted = wanted * (rows + 2 * across) // self.geobox.width
        return max(_CACHE_MIN, min(wanted, limit), 2 * self.block_bytes)


def describe(
    src: rasterio.DatasetReader, location: Location, chosen: tuple[int, ...], guesses: Sequence[str] = ()
) -> SceneInfo:
    """Gather what is known of an opened scene, of which the bands of these numbers, from 1, are read.

    `guesses` are those that chose them. A `SourceError` refuses values that are no real numbers, and
    georeferencing that cannot be used.
    """
    colors, structure = src.colorinterp, src.tags(ns="IMAGE_STRUCTURE")
    dtype, geobox = _dtype(src, location, chosen), geobox_of(src, location)
    indices = chosen == chosen[:1] * len(RGB) and colors[chosen[0] - 1] == ColorInterp.palette
    palette = indices and bool(color_table(src, chosen[0]))
    name, inverted = location.text, structure.get("MINISWHITE") == "YES"
    said = [f"{name} {about}" for about in _about_place(geobox, named=bool(src.crs))]
    if {(src.scales[n - 1], src.offsets[n - 1]) for n in chosen} != {(1, 0)}:
        said.append(
            f"{name} has scales and offsets of its values: they are read as stored, and scale= counts them so"
        )
    if len(chosen) > len(set(chosen)) == 1 and not palette:
        said.append(f"{name} is grey: all bands of the model see the same; expect poorer results")
    if location.unfit:
        said.append(f"{name} is left out of the QGIS project: {location.unfit}")
    files = {Path(file) for file in src.files} if not location.remote else set()
    files |= {location.local} if location.local is not None else set()
    validity = Validity.of(src, chosen)
    if len(set(alpha_bands(src)) - set(chosen)) > 1:
        said.append(f"{name} has several alpha bands: the last, band {validity.alpha}, says what is valid")
    if inverted:
        said.append(f"{name} says that its low values are bright (MINISWHITE): they are read so")
    return SceneInfo(
        location=location,
        dtype=dtype,
        geobox=geobox,
        bands=chosen,
        count=src.count,
        validity=validity,
        palette=palette,
        bits=_bits(src, chosen, dtype),
        white_is_zero=inverted,
        guesses=(*said, *guesses, *src.tags().get(GUESSES, "").splitlines()),
        block=max(src.block_shapes[band - 1] for band in chosen),
        band_interleaved=structure.get("INTERLEAVE", "BAND") == "BAND",
        driver=src.driver,
        compression=structure.get("COMPRESSION", "none").lower(),
        overviews=_averages(src, validity, chosen),
        files=tuple(sorted(filter(os.path.isfile, files))),  # a raster may name what no file can be called
    )


def _averages(src: rasterio.DatasetReader, validity: Validity, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """Return the factors of overviews that may be averages, if what is valid is read without the pixels."""
    # An overview does not show what is: GDAL calls a pixel valid there if any below it is.
    band = chosen[0]  # a VRT asked for its overviews opens its files, and shows black for what is broken
    found = src.overviews(band) if src.driver == "GTiff" else []
    alike = found and {(src.dtypes[n - 1], *src.overviews(n)) for n in chosen} == {("uint8", *found)}
    apart = validity.alpha is None or src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "BAND"
    quick = apart and (not validity.masks or src.mask_flag_enums[band - 1] == [MaskFlags.per_dataset])
    said = [src.get_tag_item("RESAMPLING", None, band, level) for level in range(len(found))]
    return tuple(compress(found, [alike and quick and kind in (None, "AVERAGE") for kind in said]))


def _about_place(box: GeoBox, *, named: bool) -> list[str]:
    """Say what a scene lacks of a place; `named` if its file has a CRS."""
    remedy = "say where it lies with gdal_edit.py -a_ullr"
    if named and box.crs_wkt is None:
        return [f"has a CRS but no transform: mapped in pixels, without a CRS; {remedy}"]
    if not box.georeferenced:
        return ["has no georeferencing: mapped in pixels, without a CRS"]
    if box.crs_wkt is None:
        return ["has no CRS: areas and lengths are in pixels"]
    if box.transform[2] == 0 and 0 in (box.bounds[1], box.bounds[3]):
        about = "has a corner at exactly 0, 0 of its CRS, as scenes have that lost their place"
        return [f"{about}: if it does not lie there, {remedy}"]
    return []


def _bits(src: rasterio.DatasetReader, chosen: Sequence[int], dtype: str) -> int:
    """Return how many bits the values of bands have where that is less than their type holds, else 0."""
    said = [{**src.tags(ns="IMAGE_STRUCTURE"), **src.tags(band, ns="IMAGE_STRUCTURE")} for band in chosen]
    whole = 8 * np.dtype(dtype).itemsize
    most = max(int(tags["NBITS"]) if tags.get("NBITS", "").isdecimal() else whole for tags in said)
    return most if 0 < most < whole and np.dtype(dtype).kind == "u" else 0


def _dtype(src: rasterio.DatasetReader, location: Location, chosen: tuple[int, ...]) -> str:
    """Return the type that holds the values of all chosen bands."""
    kinds = {src.dtypes[band - 1] for band in chosen}
    if any(kind.startswith("complex") for kind in kinds) or np.result_type(*kinds).kind not in _KINDS:
        raise SourceError(
            f"{location.text} holds {', '.join(sorted(kinds))} values; whole or floating-point numbers are "
            "needed: convert it with gdal_translate -ot Float32"
        )
    return str(np.result_type(*kinds))


def choose_bands(
    src: rasterio.DatasetReader, scene: str, names: tuple[str, ...], bands: Sequence[int] | None, model: str
) -> tuple[tuple[int, ...], list[str]]:
    """Choose bands by number, or by what the file says they are: colour interpretation, then names.

    Red, green and blue in this order is the interpretation of any file that was written without one, so that
    names count more there. A grey scene serves a model for red, green and blue with the same band three
    times; a palette has one band, whose colours are expanded when it is read. The only band of a file of
    which nothing says what it is serves a model of one band. `names` are what the model needs, in its order;
    `bands` 1-based numbers given by the user.

    Returns 1-based band numbers, as many as `names`, and what was guessed. A `UsageError` refuses too few
    bands, bands that do not exist, and one that only the user can name.
    """
    wanted = f"model {model!r} needs {len(names)} ({', '.join(names)})"
    if bands is not None:
        if len(bands) != len(names):
            raise UsageError(f"bands= names {len(bands)} bands; {wanted}")
        if absent := ", ".join(str(band) for band in bands if band not in src.indexes):
            raise UsageError(f"{scene} has bands 1 to {src.count}, not {absent}: correct bands=")
        return tuple(bands), []
    said = _said(src, names)
    for labels, about in said:
        if all(labels.count(name) == 1 for name in names):
            chosen = tuple(labels.index(name) + 1 for name in names)
            return chosen, _noted(scene, about, names, chosen)
    return _guessed(src, scene, names, said[-1][0], wanted)


def _said(src: rasterio.DatasetReader, names: Sequence[str]) -> list[tuple[list[str], str]]:
    """Return what the file says that its bands are: by interpretation, by name, by both.

    With each goes what believing it guesses, or "".
    """
    kinds, (called, about), unsure = [color.name for color in src.colorinterp], _called(src, names), ""
    texts = ", ".join(text or "-" for text in src.descriptions)
    pairs, default = list(zip(kinds, called, strict=True)), tuple(kinds[:3]) == RGB
    if any(name and kind in (*RGB, "nir") and name != kind for kind, name in pairs):
        unsure = about = f"are called {texts} but tagged {', '.join(kinds)}"
        if default:
            kinds = ["undefined" if kind in RGB else kind for kind in kinds]
    elif default and not all(map(_counts, src.descriptions[:3], called, (1, 2, 3))):
        unsure = f"are called {texts}, which is not understood, but tagged {', '.join(kinds)}"
    both = [name if kind in _VAGUE else kind for kind, name in zip(kinds, called, strict=True)]
    return [(kinds, unsure), (called, about), (both, about)]


def _counts(text: str | None, color: str, number: int) -> bool:
    """Whether a band's name says no more than its number, or has a colour."""
    return bool(color) or not text or bool(re.fullmatch(rf"(?i:band|layer|channel)?[\W_]*0*{number}", text))


def _guessed(
    src: rasterio.DatasetReader, scene: str, names: tuple[str, ...], labels: Sequence[str], wanted: str
) -> tuple[tuple[int, ...], list[str]]:
    """Choose bands by their order, of those that are not known to be others."""
    colors = sorted({*src.indexes} - {*alpha_bands(src)})
    kinds = [color.name for color in src.colorinterp]
    if len(colors) == 1 and _serves(kinds[colors[0] - 1], labels[colors[0] - 1], names):
        return (colors[0],) * len(names), []
    lacking = [name for name in names if labels.count(name) != 1][-1]
    extra = f"give a file of its own with extra={{{lacking!r}: 'FILE'}}"
    if len(colors) < len(names):
        raise UsageError(
            f"{scene} has {len(colors)} band{'s' * (len(colors) != 1)}; {wanted}: choose them with bands=, "
            f"or {extra}"
        )
    free = tuple(n for n, label in enumerate(labels, 1) if label in ("", *names))[: len(names)]
    if names != RGB or tuple(labels[n - 1] or name for n, name in zip(free, names, strict=False)) != names:
        said = ", ".join(text or kind for text, kind in zip(src.descriptions, kinds, strict=True))
        raise UsageError(
            f"{scene} does not say which of its {len(colors)} bands are {', '.join(names)}, but {said}; "
            f"{wanted}: name them with bands=, such as bands={tuple(range(1, len(names) + 1))} for this "
            f"order, or {extra}"
        )
    return free, _noted(scene, "do not say which colours they are", names, free)


def _serves(kind: str, label: str, names: tuple[str, ...]) -> bool:
    """Whether the only band of a file serves as grey, or a model of one band: nothing calls it otherwise."""
    return kind in _VAGUE and (names == RGB or (len(names) == 1 and kind != "palette" and not label))


def _noted(scene: str, about: str, names: Sequence[str], chosen: Sequence[int]) -> list[str]:
    """Say which bands are taken for what, if there is anything to say about them."""
    taken = f"{', '.join(map(str, chosen))} are taken for {', '.join(names)}"
    return [worded(f"the bands of {scene} {about}: {taken}; state others with bands=")] if about else []


def _called(src: rasterio.DatasetReader, names: Sequence[str]) -> tuple[list[str], str]:
    """Return what bands are by their names and wavelengths, and what was guessed about that, or "".

    Each is one of the model's `names`, "other" for what no model takes, or "" where nothing is said. A band
    that the model calls its own way, such as rededge, is one whose name has this: Red Edge (717 nm).
    """
    texts = [re.sub("(?<=[a-z])(?=[A-Z])", " ", text or "").lower() for text in src.descriptions]
    called = [_color(text, src.tags(n) | src.tags(n, ns="IMAGERY")) for n, text in enumerate(texts, 1)]
    found, about = (called, "") if any(called) else _numbered(texts)
    names = sorted({*names} - _WORDS.keys(), key=len)
    words = {name: r"[\W_]*".join(re.findall(r"[^\W_]", name.lower())) for name in names}
    for name, letters in words.items():  # the longest last
        said = [re.search(rf"(?<![^\W_]){letters}(?![^\W_])", text) for text in texts]
        found = [name if one else label for one, label in zip(said, found, strict=True)]
    return found, about


def _numbered(texts: Sequence[str]) -> tuple[list[str], str]:
    """Read numbers in names of bands, such as B04, as those of the satellite that they fit, if of one."""
    found = [re.search(r"(?:^|[^a-z])(sr_)?b(?:and)?[ _]?0*(\d+a?)(?![a-z\d])", text) for text in texts]
    numbers = [match[2] if match else "" for match in found]
    landsat = any(match and match[1] for match in found)
    counted = not landsat and all(number in ("", str(n)) for n, number in enumerate(numbers, 1))
    if counted or not {"2", "3", "4"} <= set(numbers) or ("1" in numbers and "6" not in numbers):
        return [""] * len(texts), ""  # mere numbers, or those of another sensor
    meant = {"2": "blue", "3": "green", "4": "red", "5" if landsat else "8": "nir", "": ""}
    about = f"have numbers, which are read as those of {'Landsat 8 or 9' if landsat else 'Sentinel-2'}"
    return [meant.get(number, "other") for number in numbers], about


def _color(text: str, tags: Mapping[str, str]) -> str:
    """Find a colour in a band's name, such as "near infrared (b8)", or a wavelength there or in metadata."""
    said = [name for name, words in _WORDS.items() if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", text)]
    if said:
        return said[0] if len(said) == 1 or said[0] in ("other", "nir") else ""
    lengths = re.findall(r"(\d+(?:\.\d+)?) ?(?:nm|nanom|um|µm|microm)", text)
    lengths += [v for k, v in tags.items() if "wavelength" in k.lower() and re.fullmatch(r"\d+(\.\d+)?", v)]
    if not lengths:
        return ""
    length = float(lengths[0]) * (1 if float(lengths[0]) > 100 else 1000)
    return next((name for name, (low, high) in _NANOMETRES.items() if low <= length < high), "other")
