"""A survey as a STAC catalogue: a collection, an item per mapped scene, and one for the model.

All links are relative, so that the output folder can move. Paths of files stand as they are on disk:
programs that read catalogues open them as paths. Only #, ? and %, which cut an address short, are encoded.
"""

import base64
import itertools
import re
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import pystac
from pystac.extensions import mlm
from pystac.extensions.classification import Classification, ClassificationExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import DataType

from pfmap.core.card import Card
from pfmap.core.classes import NODATA, ClassSpec
from pfmap.core.errors import SourceError, json_text, visible
from pfmap.report.survey_figures import SceneFigures, SurveyFigures
from pfmap.report.wording import fact, parse_time
from pfmap.vector.footprints import footprint_geometry, ring_around
from pfmap.vector.formats import FORMATS
from pfmap.vector.geodesy import crs_names

_FOLDER = "stac"  # of the catalogue in the survey's output folder
_PROCESSING = "https://stac-extensions.github.io/processing/v1.1.0/schema.json"
"""The one extension here for which pystac has no class."""

_MODEL_ID = "model"
_ROOT = "https://pfmap.invalid/"
"""Where pystac takes the catalogue to lie: it makes relative links of absolute ones only."""

_WORLD = [-180.0, -90.0, 180.0, 90.0]

_MEDIA = {
    ".tif": pystac.MediaType.COG,
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".geojson": pystac.MediaType.GEOJSON,
    ".fgb": pystac.MediaType.FLATGEOBUF,
    ".parquet": "application/vnd.apache.parquet",
    ".pmtiles": "application/vnd.pmtiles",
    ".shp": "application/vnd.shp",
    ".json": pystac.MediaType.JSON,
    ".html": pystac.MediaType.HTML,
    ".csv": "text/csv",
    ".qgz": "application/zip",
    ".vrt": pystac.MediaType.XML,
}
_ROLES = {"html": "overview", **dict.fromkeys(("report", "json", "csv", "project"), "metadata")}
_TITLES = {
    "classes": "Class raster",
    "confidence": "Confidence in percent",
    "contact": "Where objects touch, in percent",
    "probabilities": "Probability of each class in percent",
    "project": "QGIS project",
    "report": "Report",
    "html": "Report for people",
    "json": "Report for machines",
    "csv": "Report as a table",
}


def survey_catalogue(figures: SurveyFigures, outputs: Mapping[str, str]) -> dict[str, str]:
    """Describe a survey, of whose own files `outputs` has those of `figures` and its reports.

    Returns the files' content by their paths relative to the output folder, the collection last: it names the
    others.
    """
    when = parse_time(figures.finished) or datetime.now(UTC)
    taken = {_MODEL_ID, "collection"}
    items: list[pystac.Item] = []
    for scene in figures.scenes:
        if scene.state != "failed":
            name = safe_id(scene.name, taken)
            taken.add(name)
            items.append(_scene_item(scene, name, figures, when))
    geometry, bbox = footprint_geometry(ring_around([item.bbox for item in items if item.bbox]))
    model = _model_item(figures, when, geometry, bbox)
    collection = _collection(figures, outputs, bbox or _WORLD, when)
    collection.add_items([model, *items])
    collection.normalize_hrefs(f"{_ROOT}{_FOLDER}", skip_unresolved=True)
    collection.catalog_type = pystac.CatalogType.SELF_CONTAINED
    for item in items:
        item.add_link(pystac.Link("derived_from", model, pystac.MediaType.GEOJSON, "Model"))
    return {
        str(one.get_self_href()).removeprefix(_ROOT): json_text(one.to_dict(include_self_link=False)) + "\n"
        for one in (model, *items, collection)
    }


def _collection(
    figures: SurveyFigures, outputs: Mapping[str, str], bbox: list[float], when: datetime
) -> pystac.Collection:
    start = parse_time(figures.started) or when
    collection = pystac.Collection(
        id=safe_id(figures.title, otherwise="survey"),
        title=visible(figures.title),
        description=(
            f"Classes and objects that pfmap {figures.version} mapped from {len(figures.scenes)} scenes. "
            f"Times are those of the mapping where an image does not say when it was taken. "
            f"Whoever publishes these maps has to name: {fact(figures.model.provenance.attribution)}."
        ),
        extent=pystac.Extent(
            pystac.SpatialExtent([bbox]), pystac.TemporalExtent([[min(start, when), max(start, when)]])
        ),
        license="other",
        keywords=[item.name for item in figures.classes],
    )
    for kind, path in outputs.items():
        collection.add_asset(kind, _asset(kind, f"../{path}"))
    return collection


def _scene_item(scene: SceneFigures, name: str, figures: SurveyFigures, when: datetime) -> pystac.Item:
    mapped = parse_time(scene.finished) or when
    taken = parse_time(scene.taken)
    said = "" if taken else " The time is that of the mapping: the image does not say when it was taken."
    geometry, bbox = footprint_geometry(scene.footprint)
    source = visible(scene.scene)
    item = pystac.Item(
        id=name,
        geometry=geometry,
        bbox=bbox,
        datetime=taken or mapped,
        properties={
            "processing:software": {"pfmap": figures.version},
            "processing:lineage": f"{source}, mapped by model {fact(figures.model.name)}",
        },
        stac_extensions=[_PROCESSING],
    )
    common = item.common_metadata
    common.title = visible(scene.name)
    common.description = f"Classes and objects mapped from {source}.{said}"
    common.created = mapped
    common.gsd = scene.gsd or None
    _apply_grid(item, scene)
    for kind, path in scene.outputs.items():
        item.add_asset(kind, _asset(kind, f"../../{path}"))
    if "classes" in item.assets and scene.classes:
        nodata = Classification.create(NODATA, "no data", "nodata", title="no data", nodata=True)
        classes = [_class(value, spec, spec.name) for value, spec in enumerate(figures.model.classes)]
        ClassificationExtension.ext(item.assets["classes"], add_if_missing=True).apply([*classes, nodata])
    return item


def _apply_grid(item: pystac.Item, scene: SceneFigures) -> None:
    """Say on which grid a scene's map lies, as far as that is known."""
    found = ProjectionExtension.ext(item, add_if_missing=True)
    grid = scene.grid
    size = grid or scene
    found.apply(shape=[size.height, size.width] if size.width else None)
    if grid is not None and grid.crs_wkt:
        found.transform = [float(value) for value in grid.transform]
        with suppress(SourceError):  # a CRS that PROJ does not know
            found.code, wkt2 = crs_names(grid.crs_wkt)
            found.wkt2 = wkt2 if found.code is None else None


def _asset(kind: str, href: str) -> pystac.Asset:
    """Describe an output by its kind and its name's ending; what would cut its address short is encoded."""
    base = re.split("[_.]", kind, maxsplit=1)[0]
    media = _MEDIA.get(PurePath(href).suffix.lower())
    return pystac.Asset(
        href=re.sub("[#?%]", lambda mark: f"%{ord(mark[0]):02X}", href),
        title=_TITLES.get(kind, f"Objects, {kind}" if base in FORMATS else kind),
        media_type=None if media is None else str(media),
        roles=[_ROLES.get(base, "data")],
    )


def _class(value: int, spec: ClassSpec, title: str | None = None) -> Classification:
    """Return a class in the terms of the classification extension."""
    name = re.sub(r"[^0-9A-Za-z_-]+", "_", spec.name)
    return Classification.create(value, spec.name, name, title=title, color_hint=spec.color[1:].upper())


def _model_item(
    figures: SurveyFigures, when: datetime, geometry: dict[str, Any] | None, bbox: list[float] | None
) -> pystac.Item:
    """Describe the model that mapped a survey, where and when it was used.

    The weights are no part of a survey's files: the asset that the extension asks for names them by their
    SHA-256 (RFC 6920), which says exactly which ones they are, wherever a copy lies.
    """
    card = figures.model
    digest = base64.urlsafe_b64encode(bytes.fromhex(figures.model_sha256)).decode().rstrip("=")
    item = pystac.Item(_MODEL_ID, geometry, bbox, when, properties={})
    item.common_metadata.title = fact(card.title)
    item.common_metadata.description = (
        "The model that mapped the survey. Time and place are those of its use here."
        + f" Licence: {card.provenance.licence}." * bool(card.provenance.licence)
    )
    item.common_metadata.license = "other" if card.provenance.licence else None
    _apply_model(item, card)
    weights = pystac.Asset(
        href=f"ni:///sha-256;{digest}",
        title=f"Weights of {card.name}, named by their SHA-256",
        description="The survey does not carry the weights: pfmap models list shows those at hand.",
        media_type="application/octet-stream; application=pytorch",
        roles=["mlm:model", "mlm:weights"],
        extra_fields={"bands": [{"name": name} for name in card.input.bands]},
    )
    item.add_asset("weights", weights)
    mlm.AssetGeneralMLMExtension.ext(weights).artifact_type = "safetensors"
    return item


def _apply_model(item: pystac.Item, card: Card) -> None:
    """Say what the network takes and what it gives, in the terms of the MLM extension."""
    bands, side = list(card.input.bands), card.input.window
    order = ["batch", "channel", "height", "width"]
    given = mlm.ModelInput.create(
        "orthophoto",
        bands,
        mlm.InputStructure.create([-1, len(bands), side, side], order, DataType.FLOAT32),
        "Orthophotos of {:g} to {:g} m per pixel, others brought there.".format(*card.input.gsd),
    )
    # A z-score per band, in units of 8-bit values. The extension has a list here, pystac's class only one.
    given.properties["value_scaling"] = [
        mlm.ValueScaling.create(mlm.ValueScalingType.Z_SCORE, mean=mean * scale, stddev=std * scale).to_dict()
        for scale, mean, std in card.input.statistics.values()
    ]
    made = mlm.ModelOutput.create(
        "logits",
        [mlm.TaskType.SEMANTIC_SEGMENTATION],
        mlm.ResultStructure.create([-1, len(card.classes), side, side], order, DataType.FLOAT32),
        classes=[_class(value, spec) for value, spec in enumerate(card.classes)],
    )
    mlm.MLMExtension.ext(item, add_if_missing=True).apply(
        name=_model_name(card.name),
        architecture=f"PFNet, {card.architecture.encoder}",
        tasks=[mlm.TaskType.SEMANTIC_SEGMENTATION],
        input=[given],
        output=[made],
        framework="PyTorch",
    )
    del item.properties["mlm:pretrained_source"]  # null would say that training began from nothing
    ClassificationExtension.add_to(item)


def _model_name(name: str) -> str:
    """Return a name as the extension wants it: a letter first, letters and digits at the ends."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("_.-")
    return plain if len(plain) > 2 and plain[0].isalpha() else f"model-{plain or 'x'}"


def safe_id(text: str, taken: Collection[str] = (), otherwise: str = "scene") -> str:
    """Make a text a name of letters, digits, dashes, dots and underscores that is not taken yet.

    Upper and lower case count as the same, as on some disks. Where nothing is left of it, it is `otherwise`.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._]+", "-", ascii_text).strip("-.")[:120] or otherwise
    lower = {item.lower() for item in taken}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(found for found in itertools.chain([name], numbered) if found.lower() not in lower)
