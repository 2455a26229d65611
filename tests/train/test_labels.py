"""Labels are looked at before they are learned from: where they lie, what they say, what is left out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from range_server import listening
from rasterio import shutil
from test_data import all_labels, classes_of, config_of, noise, place, source, write_scene

import pfmap
from pfmap.core.errors import PfmapError, TrainingError
from pfmap.train.config import TrainingConfig
from pfmap.train.data import TrainingData, load_data
from pfmap.train.quick import QuickOptions, quick_tables

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

VALUES = {"0": "roof", "1": "grass", "2": "sand"}


def loaded(tmp_path: Path, layer: dict, images: str = "scene.tif") -> TrainingData:
    config: TrainingConfig = config_of([source(images, layer)])
    return load_data(config, tmp_path)


@pytest.fixture
def drawn(tmp_path: Path) -> np.ndarray:
    """Three classes in stripes and a square."""
    write_scene(tmp_path / "scene.tif", noise(120, 160))
    truth = np.zeros((1, 120, 160), np.uint8)
    truth[:, :, 70:] = 1
    truth[:, 30:80, 40:100] = 2
    return truth


def test_a_label_raster_on_another_grid_is_brought_onto_the_images(tmp_path: Path, drawn: np.ndarray) -> None:
    around = np.full((1, 160, 240), 2, np.uint8)
    around[:, 20:140, 30:190] = drawn
    write_scene(tmp_path / "labels.tif", around, col=-30, row=-20)
    data = loaded(tmp_path, {"path": "labels.tif", "values": VALUES})
    np.testing.assert_array_equal(classes_of(data, all_labels(data)[0]), drawn[0])
    assert data.notes == (
        "labels.tif lies on another grid than scene.tif: brought onto that, pixel by pixel",
    )
    same = write_scene(tmp_path / "same.tif", drawn)
    assert loaded(tmp_path, {"path": same.name, "values": VALUES}).notes == ()


def test_a_shifted_label_raster_teaches_nothing_where_it_does_not_reach(
    tmp_path: Path, drawn: np.ndarray
) -> None:
    write_scene(tmp_path / "labels.tif", drawn, col=100)  # of the image's size, 50 m to the east
    data = loaded(tmp_path, {"path": "labels.tif", "values": VALUES})
    labels = data.sources[0].train[0].scene.read(*data.sources[0].train[0].scene.box)[1]
    assert (labels[:, :100] == 0).all()
    np.testing.assert_array_equal(classes_of(data, labels)[:, 100:], drawn[0, :, :60])
    write_scene(tmp_path / "far.tif", drawn, col=160)
    write_scene(tmp_path / "town.tif", drawn, col=300_000, row=40_000)
    for name in ("far.tif", "town.tif"):
        with pytest.raises(PfmapError, match=f"{name} and .*scene.tif do not overlap"):
            loaded(tmp_path, {"path": name, "values": VALUES})


def test_what_polygons_leave_out_is_said_and_unknown(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(120, 160))
    square, line = shapely.box(10, 10, 40, 40), shapely.LineString([(0, 0), (50, 50)])
    both = shapely.GeometryCollection([shapely.box(60, 10, 90, 40), shapely.Point(1, 1)])
    bow = shapely.Polygon([(10, 60), (40, 90), (40, 60), (10, 90)])
    shapes = [square, line, both, bow, shapely.box(60, 60, 90, 90), shapely.box(100, 60, 130, 90),
              shapely.box(9000, 0, 9010, 9)]  # fmt: skip
    place(shapes, ["roof", "roof", " roof ", "roof", None, "  ", "roof"], tmp_path / "drawn.gpkg")
    data = loaded(tmp_path, {"path": "drawn.gpkg", "field": "kind", "rest": ["grass", "sand"]})
    assert data.notes == (
        "warning: 1 invalid polygons were made valid (drawn.gpkg)",
        "warning: 1 features without an area or a place were left out (drawn.gpkg)",
        "warning: 2 features have no kind: they do not count (drawn.gpkg)",
        "1 of 7 features lie outside the scene (drawn.gpkg)",
    )
    (labels,) = all_labels(data)
    classes = classes_of(data, labels)
    assert (classes[10:40, 10:40] == 0).all()
    assert (classes[10:40, 60:90] == 0).all()  # the polygon of the collection
    assert (labels[60:90, 60:90] == 0).all()  # without a class: unknown, not "no roof"
    assert (labels[60:90, 100:130] == 0).all()
    assert (labels[100:, :] > 0).all()


def test_evaluation_says_the_same_of_the_same_polygons(tmp_path: Path) -> None:
    both = shapely.GeometryCollection([shapely.box(60, 10, 90, 40), shapely.Point(1, 1)])
    shapes = [shapely.box(10, 10, 40, 40), both, shapely.LineString([(0, 0), (50, 50)]), both]
    path = place(shapes, ["roof", "roof", "roof", " "], tmp_path / "drawn.gpkg")
    write_scene(tmp_path / "map.tif", np.zeros((1, 120, 160), np.uint8))
    found = pfmap.evaluate(tmp_path / "map.tif", path, field="kind", names={0: "roof", 1: "grass"})
    assert "warning: 1 features without an area or a place were left out" in found.figures.notes
    assert "warning: 1 features have no kind: they do not count" in found.figures.notes
    assert found.figures.classes[0].truth_pixels == 900  # the last polygon hides the collection


def test_images_that_labels_say_nothing_of_are_named(tmp_path: Path, drawn: np.ndarray) -> None:
    for k in range(3):
        write_scene(tmp_path / f"image{k}.tif", noise(120, 160, k), col=1000 * k)
    squares = [shapely.box(10, 10, 40, 40), shapely.box(2010, 10, 2040, 40)]
    place(squares, ["roof", "sand"], tmp_path / "drawn.gpkg")
    layer = {"path": "drawn.gpkg", "field": "kind"}
    assert loaded(tmp_path, layer, "image*.tif").notes == (
        "warning: 1 of 3 images (image1.tif) have no labelled pixel: nothing is learned from them",
        "warning: no label to train on may be grass: the model learns nothing of that",
    )
    assert loaded(tmp_path, layer | {"rest": ["grass"]}, "image*.tif").notes == (
        "warning: 1 of 3 images (image1.tif) show no polygon of drawn.gpkg: all of them counts as grass",
    )
    for k in range(3):
        write_scene(tmp_path / f"mask{k}.tif", drawn if k else drawn * 0 + 255, col=1000 * k)
    (tmp_path / "mask2.tif").rename(tmp_path / "labels_image2.tif")
    (tmp_path / "mask1.tif").rename(tmp_path / "labels_image1.tif")
    (tmp_path / "mask0.tif").rename(tmp_path / "labels_image0.tif")
    assert loaded(tmp_path, {"path": "labels_{stem}.tif", "values": VALUES}, "image*.tif").notes == (
        "warning: 1 of 3 images (image0.tif) have no labelled pixel: nothing is learned from them",
    )


def test_values_of_no_class_and_a_nodata_that_is_one_are_said(tmp_path: Path, drawn: np.ndarray) -> None:
    write_scene(tmp_path / "labels.tif", drawn)
    values = {"0": "roof", "1": "grass"}
    assert loaded(tmp_path, {"path": "labels.tif", "values": values}).notes == (
        "labels.tif: pixels of value 2 do not count, for they name no class",
        "warning: no label to train on may be sand: the model learns nothing of that",
    )
    write_scene(tmp_path / "nodata.tif", drawn, nodata=0)
    data = loaded(tmp_path, {"path": "nodata.tif", "values": VALUES})
    assert data.notes[1] == "warning: no label to train on may be roof: the model learns nothing of that"
    assert data.notes[0].startswith("warning: nodata.tif calls 0 nodata, so none of it counts as roof")
    assert set(classes_of(data, all_labels(data)[0]).ravel()) == {-1, 1, 2}
    write_scene(tmp_path / "wide.tif", drawn.astype(np.int16) * 500)
    with pytest.raises(TrainingError, match=r"wide\.tif has the value 1000: labels go up to 255"):
        loaded(tmp_path, {"path": "wide.tif", "values": VALUES})
    write_scene(tmp_path / "colours.tif", np.repeat(drawn, 3, axis=0))
    with pytest.raises(PfmapError, match=r"has 3 bands.*gdal_translate -b 1"):
        loaded(tmp_path, {"path": "colours.tif", "values": VALUES})
    write_scene(tmp_path / "float.tif", drawn.astype(np.float32))
    with pytest.raises(PfmapError, match=r"holds float32 values.*-ot Byte"):
        loaded(tmp_path, {"path": "float.tif", "values": VALUES})


def test_integers_of_any_size_and_transparent_masks_are_labels(tmp_path: Path, drawn: np.ndarray) -> None:
    write_scene(tmp_path / "int.tif", drawn.astype(np.int16), nodata=-9999)
    data = loaded(tmp_path, {"path": "int.tif", "values": VALUES})
    np.testing.assert_array_equal(classes_of(data, all_labels(data)[0]), drawn[0])
    alpha = np.full((1, 120, 160), 255, np.uint8)
    alpha[:, :20] = 0
    with rasterio.open(
        tmp_path / "alpha.png", "w", driver="PNG", count=2, height=120, width=160, dtype="uint8"
    ) as dst:
        dst.write(np.concatenate([drawn, alpha]))
        dst.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    data = loaded(tmp_path, {"path": "alpha.png", "values": VALUES})
    labels = data.sources[0].train[0].scene.read(*data.sources[0].train[0].scene.box)[1]
    assert (labels[:20] == 0).all()
    np.testing.assert_array_equal(classes_of(data, labels)[20:], drawn[0, 20:])


def test_labels_from_the_command_are_checked_for_what_they_mean(tmp_path: Path, drawn: np.ndarray) -> None:
    model = pfmap.load_model("landcover")
    square = [shapely.box(10, 10, 40, 40), shapely.box(60, 10, 90, 40)]

    def tables(labels: Path, classes: tuple[str, ...] | None = None, field: str | None = None) -> dict:
        return quick_tables(QuickOptions(tmp_path / "scene.tif", str(labels), field, classes), model, "m")

    write_scene(tmp_path / "mask.tif", (drawn > 0).astype(np.uint8) * 255)
    with pytest.raises(TrainingError, match="holds 0 and 255 alone, and 255 is ignored"):
        tables(tmp_path / "mask.tif", ("other", "roof"))
    write_scene(tmp_path / "nodata.tif", drawn, nodata=0)
    layer = tables(tmp_path / "nodata.tif", ("a", "b", "c"))["sources"][0]["layers"][0]
    assert layer["values"] == {"0": "a", "1": "b", "2": "c"}  # so that it is said when labels are read
    alike = place(square, ["Roof", "roof "], tmp_path / "alike.gpkg")
    with pytest.raises(TrainingError, match="differ only in capital letters, Roof, roof"):
        tables(alike, field="kind")
    nameless = place(square, [None, " "], tmp_path / "nameless.gpkg")
    with pytest.raises(TrainingError, match="no feature says its class in column kind"):
        tables(nameless, field="kind")


def test_files_that_systems_leave_in_folders_are_no_images_and_no_masks(
    tmp_path: Path, drawn: np.ndarray
) -> None:
    model = pfmap.load_model("landcover")
    for folder in ("images", "masks"):
        (tmp_path / folder / "@eaDir").mkdir(parents=True)
        (tmp_path / folder / "._a.tif").write_bytes(b"\0\5\x16\7" + bytes(4000))
        (tmp_path / folder / "Thumbs.db").write_bytes(b"x")
        (tmp_path / folder / ".hidden.png").write_bytes(b"x")
    write_scene(tmp_path / "images" / "a.tif", noise(120, 160))
    write_scene(tmp_path / "masks" / "a.tif", drawn)
    options = QuickOptions(
        tmp_path / "images", str(tmp_path / "masks"), classes=("a", "b", "c"), validation=0.0
    )
    tables = quick_tables(options, model, "m")
    from pfmap.train.config import parse_config

    data = load_data(parse_config(tables, tmp_path / "train.toml"), tmp_path)
    assert [sample.scene.path.name for sample in data.sources[0].train] == ["a.tif"]
    (tmp_path / "masks" / "._b.tif").write_bytes(b"\0\5\x16\7")
    found = pfmap.evaluate(tmp_path / "masks", tmp_path / "masks")
    assert found.figures.labelled == drawn.size


SQUARE = {"type": "Polygon", "coordinates": [[[500001, 3059950], [500040, 3059950], [500040, 3059999],
                                              [500001, 3059950]]]}  # fmt: skip


def features(crs: dict | None) -> str:
    feature = {"type": "Feature", "properties": {"kind": "roof"}, "geometry": SQUARE}
    return json.dumps({"type": "FeatureCollection", "features": [feature]} | ({"crs": crs} if crs else {}))


def test_polygons_found_by_an_images_name_lead_nowhere(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", noise(120, 160))
    place([shapely.box(10, 10, 40, 40)], ["roof"], tmp_path / "real.gpkg")
    virtual = (
        "<OGRVRTDataSource><OGRVRTLayer name='real'><SrcDataSource>real.gpkg</SrcDataSource></OGRVRTLayer>"
    )
    for ending in (".gpkg", ".geojson", ".fgb", ".tif", ".parquet"):
        (tmp_path / f"scene_virtual{ending}").write_text(f"{virtual}</OGRVRTDataSource>")
    (tmp_path / "scene_link.gpkg").symlink_to(tmp_path.parent / "real.gpkg")
    (tmp_path.parent / "real.gpkg").write_bytes((tmp_path / "real.gpkg").read_bytes())
    with listening() as (url, asked):
        (tmp_path / "scene_web.gpkg").write_text(f"<OGRWFSDataSource><URL>{url}/wfs</URL></OGRWFSDataSource>")
        (tmp_path / "scene_crs.json").write_text(features({"type": "link", "properties": {"href": url}}))
        found = sorted(path.name.removeprefix("scene") for path in tmp_path.glob("scene_*"))
        assert len(found) == 8
        for name in found:
            with pytest.raises(PfmapError, match=f"scene{name.replace('.', '[.]')}"):
                loaded(tmp_path, {"path": f"{{stem}}{name}", "field": "kind", "rest": ["grass", "sand"]})
        assert asked == []
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32645"}}
    (tmp_path / "scene.geojson").write_text(features(named))
    (tmp_path / "scene.gpkg").write_bytes((tmp_path / "real.gpkg").read_bytes())
    for name in ("{stem}.geojson", "{stem}.gpkg", "{stem}.gpkg:real"):
        loaded(tmp_path, {"path": name, "field": "kind", "rest": ["grass", "sand"]})


def test_an_image_that_is_named_may_be_a_link_or_virtual(tmp_path: Path, drawn: np.ndarray) -> None:
    write_scene(tmp_path / "labels.tif", drawn)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.tif").symlink_to(tmp_path / "scene.tif")
    with rasterio.open(tmp_path / "scene.tif") as src:
        shutil.copy(src, folder / "a.vrt", driver="VRT")
    layer = {"path": "labels.tif", "values": VALUES}
    for images in ("folder/link.tif", "folder/*.vrt"):
        assert loaded(tmp_path, layer, images).notes == ()
    with pytest.raises(PfmapError, match=r"link\.tif is a link"):
        loaded(tmp_path, layer, "folder/*.tif")


@pytest.mark.parametrize("pattern", ["locked/*.tif", "*/*.tif", "**/a.tif"])
def test_a_folder_of_images_that_is_locked_is_said(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path: object = ".") -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PfmapError, match=r"/locked cannot be searched \(Permission"):
        loaded(tmp_path, {"path": "labels.tif", "values": VALUES}, pattern)


def test_images_of_one_name_do_not_share_a_mask(tmp_path: Path, drawn: np.ndarray) -> None:
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        write_scene(tmp_path / folder / "a.tif", noise(120, 160), crs=None)
    write_scene(tmp_path / "mask_a.tif", drawn, crs=None)
    with pytest.raises(
        TrainingError, match=r"north/a\.tif and .*south/a\.tif have one name.*mask_a\.tif: rename"
    ):
        loaded(tmp_path, {"path": "mask_{stem}.tif", "values": VALUES}, "*/a.tif")


def test_a_name_that_is_no_text_is_said_of_images_and_masks(tmp_path: Path, drawn: np.ndarray) -> None:
    write_scene(tmp_path / "a.tif", noise(120, 160))
    write_scene(tmp_path / "mask.tif", drawn)
    odd = os.fsdecode(b"b\xfc.tif")
    (tmp_path / odd).write_bytes((tmp_path / "a.tif").read_bytes())
    with pytest.raises(PfmapError, match="its name is not utf-8: rename it"):
        loaded(tmp_path, {"path": "mask.tif", "values": VALUES}, "*.tif")
    (tmp_path / odd).unlink()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / odd).write_bytes((tmp_path / "mask.tif").read_bytes())
    with pytest.raises(PfmapError, match="its name is not utf-8: rename it"):
        pfmap.evaluate(tmp_path / "masks", tmp_path / "masks")


@pytest.mark.parametrize(
    ("layer", "more", "words"),
    [
        ({"weight": -1.0}, {}, "weight is -1: it has to be 0 or more"),
        ({"weight": float("nan")}, {}, "weight is nan"),
        ({}, {"per_batch": 0}, "per_batch is 0: it has to be 1 or more"),
        ({}, {"coarsen": 0.5}, "coarsen is 0.5"),
        ({}, {"validation": {"columns": [5]}}, r"not \[5\]"),
        ({}, {"validation": {"rows": [9, 3]}}, r"not \[9, 3\]"),
        ({}, {"green": {"name": "grass", "above": float("nan")}}, "above is nan"),
    ],
)
def test_settings_that_would_teach_the_wrong_are_refused(layer: dict, more: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        config_of([source("scene.tif", {"path": "labels.tif", "values": VALUES, **layer}, **more)])
    with pytest.raises(TrainingError, match="decoder_rate is -1: it has to be 0 or more"):
        config_of([source("scene.tif", {"path": "l.tif", "values": VALUES})], decoder_rate=-1.0)


def test_a_validation_that_holds_nothing_out_is_said(tmp_path: Path, drawn: np.ndarray) -> None:
    write_scene(tmp_path / "labels.tif", drawn)
    here = source("scene.tif", {"path": "labels.tif", "values": VALUES}, validation={"columns": [500, 600]})
    words = "warning: source 'here' holds nothing out: no label lies where its validation says"
    assert load_data(config_of([here]), tmp_path).notes == (words,)
