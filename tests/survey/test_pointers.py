"""A folder that is searched cannot have other files read, or servers asked: such files fail by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, stand_in
from range_server import listening

import pfmap
from pfmap.core.errors import PfmapError, UsageError
from pfmap.survey.find import find_sheets
from pfmap.train.quick import QuickOptions, quick_tables

SIDE = 600
PLACE = f"<SRS>{UTM}</SRS><GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>"


def write(path: Path, value: int = 120, side: int = SIDE, count: int = 3) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=count, dtype="uint8", crs=UTM,
        transform=NORTH_UP,
    ) as dst:  # fmt: skip
        dst.write(np.full((count, side, side), value, np.uint8))
    return path


def showing(name: str, side: int = SIDE, bands: int = 3) -> str:
    shown = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="0">{name}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    return f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{PLACE}{shown}</VRTDataset>'


def hostile(folder: Path, secret: Path, url: str) -> set[str]:
    """Write files that point elsewhere, and return their names."""
    raw = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}" subClass="VRTRawRasterBand"><SourceFilename>{secret}'
        "</SourceFilename><ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>60</LineOffset>"
        "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    texts = {
        "raw.tif": f'<VRTDataset rasterXSize="60" rasterYSize="60">{PLACE}{raw}</VRTDataset>',
        "local.tif": showing(str(secret)),
        "local.png": showing(str(secret)),
        "web.tif": showing(f"/vsicurl/{url}/web.tif"),
        "wms.tif": f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}.png</ServerUrl></Service>'
        "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>9</UpperLeftY><LowerRightX>9</LowerRightX>"
        "<LowerRightY>0</LowerRightY><TileLevel>2</TileLevel></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>",
        "index.tif": f"<GDALTileIndexDataset><IndexDataset>/vsicurl/{url}/i.gpkg</IndexDataset>"
        "</GDALTileIndexDataset>",
        "stac.tif": json.dumps(
            {"type": "FeatureCollection", "stac_version": "1.0.0", "features": [{"type": "Feature",
             "stac_version": "1.0.0", "id": "x", "bbox": [0, 0, 1, 1], "geometry": None, "links": [],
             "properties": {"proj:epsg": 32645, "proj:transform": [0.5, 0, 300000, 0, -0.5, 3000000],
                            "proj:shape": [60, 60]}, "assets": {"a": {"href": f"{url}/s.tif"}}}]}
        ),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "local.pgw").write_text("0.5\n0\n0\n-0.5\n300000\n3000000\n")
    beside = {
        "o.tif.ovr": showing(str(secret), SIDE // 2),
        "m.tif.msk": showing(str(secret), bands=1),
        "n.tif.MsK": showing(f"/vsicurl/{url}/n.tif", bands=1),
        "p.tif.msk.ovr": showing(f"/vsicurl/{url}/p.tif", SIDE // 2, 1),
        "a.tif.aux.xml": '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
        f"{folder.parent}/o.vrt</MDI></Metadata></PAMDataset>",
    }
    (folder.parent / "o.vrt").write_text(showing(f"/vsicurl/{url}/o.tif", SIDE // 2))
    for name, text in beside.items():
        write(folder / f"{name[0]}.tif")
        (folder / name).write_text(text)
    write(folder / "p.tif.msk", count=1)
    with rasterio.open(write(folder / "t.tif"), "r+") as dst:
        dst.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(folder.parent / "o.vrt"))
    write(folder / "l.tif")
    (folder / "l.tif.ovr").symlink_to(secret)
    (folder / "link.tif").symlink_to(secret)
    write(folder / "y.dat?y.tif")
    (folder / "y.dat?y.tif.ovr").write_text(showing(f"/vsicurl/{url}/y.tif", SIDE // 2))
    write(folder / "x.tif")
    pointer = '<Metadata domain="HFA"><MDI key="HFA_DEPENDENT_FILE">x.tif</MDI></Metadata>'
    aux = showing(f"/vsicurl/{url}/x.tif").replace("<VRTRasterBand", f"{pointer}<VRTRasterBand", 1)
    (folder / "x.aux").write_text(f"EHFA_HEADER_TAG{aux}")
    return {
        *texts,
        *(f"{name[0]}.tif" for name in beside),
        "t.tif",
        "l.tif",
        "link.tif",
        "y.dat?y.tif",
        "x.tif",
    }


@pytest.mark.parametrize("mosaic", [False, True])
def test_files_that_point_elsewhere_fail_by_name(mosaic: bool, tmp_path: Path) -> None:
    survey, private = tmp_path / "survey", tmp_path / "private"
    survey.mkdir()
    private.mkdir()
    secret = write(private / "secret.tif", 7)
    with listening() as (url, asked):
        wrong = hostile(survey, secret, url)
        write(survey / "good.tif")
        made = pfmap.batch(survey, tmp_path / "out", model=stand_in(), device="cpu", mosaic=mosaic)
        assert asked == []
    failed = {Path(one.sheet.location.text).name for one in made.scenes if one.reason}
    assert failed == wrong
    assert all(Path(one.sheet.location.text).name in one.reason for one in made.scenes if one.reason)
    names = {path.name for path in (tmp_path / "out").rglob("*_classes.tif")}
    assert names == ({"survey_mosaic_classes.tif"} if mosaic else {"good_classes.tif"})


def test_a_link_within_the_folder_and_what_the_user_names_are_read(tmp_path: Path) -> None:
    survey = tmp_path / "survey"
    (survey / "real").mkdir(parents=True)
    write(survey / "real" / "a.tif")
    (survey / "again").symlink_to(survey / "real")
    (survey / "up").symlink_to(tmp_path / "survey")
    assert [sheet.location.name for sheet in find_sheets([survey])] == ["a.tif"]
    (tmp_path / "named.vrt").write_text(showing(str(survey / "real" / "a.tif")))
    (tmp_path / "link.tif").symlink_to(survey / "real" / "a.tif")
    for name in ("named.vrt", "link.tif"):
        pfmap.predict(tmp_path / name, tmp_path / "out", model=stand_in(), device="cpu")
    (survey / "b.vrt").write_text(showing(str(survey / "real" / "a.tif")))
    made = pfmap.predict_all(survey, tmp_path / "virtual", model=stand_in(), device="cpu", pattern="*.vrt")
    assert [one.reason for one in made] == [""]
    (one,) = pfmap.predict_all(survey, tmp_path / "any", model=stand_in(), device="cpu", pattern="b.*")
    assert "b.vrt may show other files" in one.reason


def test_outputs_do_not_go_through_a_link_out_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "survey" / "north").mkdir(parents=True)
    write(tmp_path / "survey" / "north" / "a.tif")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "north").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of"):
        pfmap.predict_all(tmp_path / "survey", tmp_path / "out", model=stand_in(), device="cpu")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_training_and_evaluation_read_no_pointers_either(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif", 1, count=1)
    for name in ("maps", "truth"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.tif", 1, count=1)
    (tmp_path / "truth" / "a.tif").write_text(showing(str(secret), bands=1))
    with pytest.raises(PfmapError, match=r"truth/a\.tif is not a raster that GDAL can open as GTiff"):
        pfmap.evaluate(tmp_path / "maps", tmp_path / "truth")
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "a.tif")
    with pytest.raises(PfmapError, match=r"truth/a\.tif is not a raster that GDAL can open as GTiff"):
        quick_tables(QuickOptions(tmp_path / "images", str(tmp_path / "truth")), stand_in(), "new")


def test_what_a_killed_survey_left_goes_with_the_next(tmp_path: Path) -> None:
    write(tmp_path / "a.tif")
    left = tmp_path / "out" / ".pfmap-abcd1234"
    left.mkdir(parents=True)
    (left / "survey_objects.gpkg").write_text("half")
    pfmap.batch(tmp_path / "a.tif", tmp_path / "out", model=stand_in(), device="cpu")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
