"""The QGIS project of a mapped scene, or of a survey."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfmap.core import bucket
from pfmap.core.classes import (
    ClassSpec,
    class_raster_style,
    confidence_raster_style,
    objects_style,
    scene_style,
)
from pfmap.core.grid import GeoBox
from pfmap.mapping.options import ShapeOptions
from pfmap.mapping.plan import Plan
from pfmap.raster.gdal import Location
from pfmap.report.qgis import Layer, qgis_project
from pfmap.vector.formats import LAYER

_PREFERRED = ("gpkg", "fgb", "shp", "geojson", "parquet")
"""QGIS is quickest with the first; not every build of it opens the last."""

_OPACITY = 0.3
"""Of the class raster: the scene below it and the polygons above it stay in sight."""


@dataclass(frozen=True, slots=True)
class Map:
    """What was made of a scene or a survey.

    Attributes:
        stem: what the layers' names begin with.
        files: by kind, as `Mapped` has them.
        geobox: the grid of its rasters.
        classes: of the model.
        wanted: indices of those that become polygons.
        shapes: what the polygons are like.
    """

    stem: str
    files: Mapping[str, Sequence[Path]]
    geobox: GeoBox
    classes: Sequence[ClassSpec]
    wanted: Sequence[int]
    shapes: ShapeOptions


def scene_project(plan: Plan, files: Mapping[str, Sequence[Path]], output_dir: Path) -> bytes:
    """Make the content of the `.qgz` file that opens a scene and what was made of it.

    Args:
        plan: how the scene was mapped.
        files: what was made of it by kind, as `Mapped` has them.
        output_dir: where they are going to lie, and the project.
    """
    location = plan.scene.location
    made = Map(location.stem, files, plan.geobox, plan.card.classes, plan.wanted, plan.options.shapes)
    below = Layer(location.stem, _source(location, output_dir), _scene(plan), plan.scene.geobox.crs_wkt)
    return map_project(made, [below])


def map_project(made: Map, below: Sequence[Layer] = ()) -> bytes:
    """Make the content of the `.qgz` file that opens what was made.

    Args:
        made: the map; its files lie beside the project.
        below: layers under it.
    """
    stem, crs = made.stem, made.geobox.crs_wkt
    layers = list(_objects(made))
    if "confidence" in made.files:
        source = f"./{made.files['confidence'][0].name}"
        layers.append(Layer(f"{stem} confidence", source, confidence_raster_style(), crs, shown=False))
    source = f"./{made.files['classes'][0].name}"
    layers.append(Layer(f"{stem} classes", source, class_raster_style(made.classes, _OPACITY), crs))
    return qgis_project(stem, [*layers, *below], crs, made.geobox.bounds)


def _objects(made: Map) -> Iterator[Layer]:
    """Yield the layers of one vector format: one for each file."""
    wanted = [made.classes[index] for index in made.wanted]
    kind = next(kind for kind in _PREFERRED if kind in made.shapes.formats)
    crs = "EPSG:4326" if kind == "geojson" and made.geobox.crs_wkt else made.geobox.crs_wkt
    groups = [("objects", kind, wanted)]
    if made.shapes.split_by_class:
        groups = [(spec.name, f"{kind}.{spec.name}", [spec]) for spec in wanted]
    for name, key, classes in groups:
        for number, path in enumerate(made.files[key], 1):
            further = f" {number}" if number > 1 else ""
            inside = f"|layername={LAYER}" if kind == "gpkg" else ""
            yield Layer(
                f"{made.stem} {name}{further}",
                f"./{path.name}{inside}",
                objects_style(classes),
                crs,
                vector=True,
            )


def _scene(plan: Plan) -> str:
    """Show the scene as the network sees it; a palette is QGIS's own matter."""
    scene, scaling = plan.scene, plan.scaling
    if scene.palette:
        return ""
    return scene_style(scene.bands[:3], scene.alpha, scaling.low, scaling.high)


def _source(location: Location, output_dir: Path) -> str:
    """Say where the scene lies from the project's folder, so that both can be moved together."""
    if location.local is None or location.gdal.startswith("/vsi"):
        return location.vsi
    if bucket.is_inside(output_dir):
        return os.fspath(location.local.resolve())
    try:
        path = Path(os.path.relpath(location.local.resolve(), output_dir.resolve())).as_posix()
    except ValueError:  # on another drive
        return os.fspath(location.local.resolve())
    return path if path.startswith("../") else f"./{path}"
