"""Write objects to GIS files, chunk by chunk: GeoPackage, shapefile, GeoJSON."""

import contextlib
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely
from pyogrio.errors import DataSourceError

from pfmap.classes import ClassSpec
from pfmap.files import write_failed
from pfmap.style import objects_qml
from pfmap.vector.measure import Measurer
from pfmap.vector.stitch import Objects

Format = Literal["gpkg", "shp", "geojson"]
FORMATS: tuple[str, ...] = get_args(Format)
LAYER = "objects"

_DRIVERS = {"gpkg": "GPKG", "shp": "ESRI Shapefile", "geojson": "GeoJSON"}
_CHUNK = 20_000
_SHORT = {
    "perimeter_m": "perim_m",
    "perimeter_px": "perim_px",
    "confidence_mean": "conf_mean",
    "confidence_min": "conf_min",
}
"""Shapefile field names have at most ten characters: these are the longer ones."""


@dataclass(slots=True)
class ObjectWriter:
    """Collects finished objects and appends them to all wanted files in chunks.

    Attributes:
        folder: staging folder.
        stem: file names without their endings.
        formats: which files to write.
        classes: the model's classes.
        crs_wkt: the scene's CRS, or None.
        transform: pixel to CRS, (a, b, c, d, e, f).
        measurer: gives areas and perimeters.
        min_area: smaller objects are left out; square metres, or pixels without a CRS.
        metadata: run parameters, kept in the GeoPackage.
        counts: objects written so far, per class index.
    """

    folder: Path
    stem: str
    formats: Sequence[str]
    classes: Sequence[ClassSpec]
    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float]
    measurer: Measurer
    min_area: float
    metadata: Mapping[str, str]
    counts: npt.NDArray[np.int64] = field(init=False)
    _waiting: list[gpd.GeoDataFrame] = field(default_factory=list)
    _begun: bool = False

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.classes), dtype=np.int64)

    def add(self, objects: Objects) -> None:
        """Take finished objects.

        Raises:
            TargetError: a file cannot be written.
        """
        frame = self._frame(objects)
        if len(frame):
            self.counts += np.bincount(frame["class_id"], minlength=len(self.classes))
            self._waiting.append(frame)
        if sum(map(len, self._waiting)) >= _CHUNK:
            self._flush()

    def finish(self) -> list[Path]:
        """Write what is left and the styles, and return all files.

        A scene without objects gives empty layers.

        Raises:
            TargetError: a file cannot be written.
        """
        if self._waiting or not self._begun:
            self._flush()
        paths = []
        for form in self.formats:
            path = self._path(form)
            try:
                if form == "gpkg":
                    _add_default_style(path, objects_qml(self.classes))
                elif form == "shp":
                    path.with_suffix(".qml").write_text(objects_qml(self.classes), encoding="utf-8")
            except (sqlite3.Error, OSError) as error:
                raise write_failed(path, error) from error
            paths.append(path)
        return paths

    def _path(self, form: str) -> Path:
        return self.folder / f"{self.stem}.{form}"

    def _frame(self, objects: Objects) -> gpd.GeoDataFrame:
        a, b, c, d, e, f = self.transform
        matrix = np.array([[a, d], [b, e]])
        geometry = shapely.transform(objects.geometry, lambda xy: xy @ matrix + (c, f))
        unit = self.measurer.units
        area, perimeter = self.measurer.measure(geometry if unit == "m" else objects.geometry)
        keep = area >= self.min_area
        names = np.array([spec.name for spec in self.classes], dtype=object)
        area_name = "area_m2" if unit == "m" else "area_px"
        return gpd.GeoDataFrame(
            {
                "class_id": objects.classes[keep].astype(np.int32),
                "class": names[objects.classes[keep]],
                area_name: area[keep].round(6),
                f"perimeter_{unit}": perimeter[keep].round(6),
                "confidence_mean": objects.confidence_mean[keep].round(4),
                "confidence_min": objects.confidence_min[keep].round(4),
            },
            geometry=geometry[keep],
            crs=self.crs_wkt,
        ).rename_geometry("geom")

    def _flush(self) -> None:
        frame = pd.concat(self._waiting, ignore_index=True) if self._waiting else self._frame(_nothing())
        for form in self.formats:
            self._append(frame, form)
        self._waiting, self._begun = [], True

    def _append(self, frame: gpd.GeoDataFrame, form: str) -> None:
        path = self._path(form)
        options: dict[str, object] = {"driver": _DRIVERS[form], "append": self._begun}
        if form == "shp":
            frame = frame.rename(columns=_SHORT)
            options |= {"encoding": "UTF-8"}
        elif form == "gpkg":
            options |= {"layer": LAYER}
            if not self._begun:
                # The layer's, not the file's: of the latter GDAL leaves a copy beside the file when it reads.
                options |= {"layer_metadata": dict(self.metadata), "geometry_name": "geom"}
        elif form == "geojson":
            options |= {"layer": LAYER}
            if self.crs_wkt is not None:
                frame = frame.to_crs(4326)  # RFC 7946 knows no other
                options |= {} if self._begun else {"RFC7946": "YES"}
        try:
            with warnings.catch_warnings():
                # Scenes without a CRS are allowed, and were announced.
                warnings.filterwarnings("ignore", message="'crs' was not provided")
                pyogrio.write_dataframe(frame, path, geometry_type="Polygon", **options)
        except (DataSourceError, RuntimeError, OSError) as error:
            raise write_failed(path, error) from error


def _nothing() -> Objects:
    none = np.zeros(0)
    return Objects(none.astype(np.uint8), np.zeros(0, dtype=object), none.astype(np.int64), none, none)


def _add_default_style(path: Path, qml: str) -> None:
    """Put a QGIS style into a GeoPackage, so that the layer opens coloured and named."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(
            """CREATE TABLE layer_styles (
                id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
                f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
                f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
                useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
                update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""
        )
        db.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, "
            "styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, 'geom', 'pfmap classes', ?, '', 1, 'Classes in the model''s colours', '')",
            (LAYER, qml),
        )
        # Registered, because QGIS finds the table through GDAL, which lists registered tables.
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
