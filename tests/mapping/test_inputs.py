"""Every kind of raster a survey delivers, against a per-pixel reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import UTM, Write, blobs, pointwise_reference, stand_in
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

import pfmap
from pfmap.core.errors import SourceError, UsageError
from pfmap.mapping.job import Result

NODATA = 255


def run(scene: Path | str, tmp_path: Path, **options: Any) -> Result:
    return pfmap.predict(scene, tmp_path / "out", model=stand_in(), device="cpu", **options)


def mapped(scene: Path | str, tmp_path: Path, **options: Any) -> Any:
    with rasterio.open(run(scene, tmp_path, **options).outputs["classes"]) as src:
        return src.read(1)


def stretched(values: Any, low: float, high: float) -> Any:
    """Values as 8 bits, one by one."""
    return np.clip(np.round((values.astype(np.float64) - low) / (high - low) * 255), 0, 255)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("uint16", 300, 51_000),
        ("int16", -2_000, 9_000),
        ("int32", -70_000, 90_000),
        ("float32", -0.2, 0.9),
        ("float64", 1e-3, 4e-3),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_values_of_every_type_are_scaled_once_for_the_whole_scene(
    dtype: str, low: float, high: float, given: bool, write_scene: Write, tmp_path: Path
) -> None:
    values = (blobs(150, 200).astype(np.float64) / 255 * (high - low) + low).astype(dtype)
    values[:, :64] = (
        values[:, 64:128].mean().astype(dtype)
    )  # windows of their own would stretch this otherwise
    scene = write_scene(values)
    scale = (low, high) if given else None
    result = run(scene, tmp_path, scale=scale)
    if scale is None and dtype == "uint8":
        scale = 0, 255
    elif scale is None:
        scale = tuple(np.percentile(values.astype(np.float64), [2, 98]))
    report = result.report["scene"]["scale"]
    assert (report["min"], report["max"]) == pytest.approx(scale)
    assert report["from"] == ("--scale" if given else "model card" if dtype == "uint8" else report["from"])
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1), pointwise_reference(stretched(values, *scale)))


def test_two_percent_of_the_values_are_cut_off_at_either_end(write_scene: Write, tmp_path: Path) -> None:
    """Of values that are all as frequent; those of other tests lie in a few heaps."""
    values = np.random.default_rng(0).permutation(30_000).reshape(3, 100, 100).astype(np.uint16) + 500
    scale = run(write_scene(values), tmp_path).report["scene"]["scale"]
    assert (scale["min"], scale["max"]) == pytest.approx((500 + 600, 500 + 29_400), abs=1)


def test_the_scaling_comes_from_the_overviews_of_a_large_scene(write_scene: Write, tmp_path: Path) -> None:
    """Also where the scene is sampled, windows full of one value do not get a scaling of their own."""
    values = (blobs(700, 900).astype(np.uint16) * 100 + 50).astype(np.uint16)
    scene = write_scene(values, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(scene, "r+") as dst:
        dst.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    low, high = np.percentile(values, [2, 98])
    classes = mapped(scene, tmp_path)
    assert np.array_equal(classes, pointwise_reference(stretched(values, low, high)))


def test_bands_of_different_types_share_one_scaling(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(90, 100)
    kinds = [("uint8", "Byte"), ("uint16", "UInt16"), ("float32", "Float32")]
    bands = ""
    for index, (dtype, name) in enumerate(kinds):
        write_scene(image[index : index + 1].astype(dtype), f"band{index}.tif")
        bands += (
            f'<VRTRasterBand dataType="{name}" band="{index + 1}"><SimpleSource><SourceFilename '
            f'relativeToVRT="1">band{index}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    scene = tmp_path / "scene.vrt"
    place = f"<SRS>{UTM}</SRS><GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>"
    scene.write_text(f'<VRTDataset rasterXSize="100" rasterYSize="90">{place}{bands}</VRTDataset>')
    assert np.array_equal(mapped(scene, tmp_path, scale=(0, 255)), pointwise_reference(image))


def test_a_mostly_empty_scene_is_scaled_by_what_it_has(tmp_path: Path) -> None:
    """A large one is sampled at spots; its data may lie between them."""
    scene = tmp_path / "scene.tif"
    values = (blobs(120, 120).astype(np.uint16) * 40 + 100).astype(np.uint16)
    with rasterio.open(
        scene, "w", driver="GTiff", width=5000, height=5000, count=3, dtype="uint16", tiled=True, nodata=0,
        crs=UTM, transform=Affine(0.5, 0, 300000, 0, -0.5, 3000000), sparse_ok=True, compress="deflate",
    ) as dst:  # fmt: skip
        dst.write(values, window=((50, 170), (50, 170)))
    bbox = (300025.0, 2999915.0, 300085.0, 2999975.0)
    result = run(scene, tmp_path, bbox=bbox)
    scale = result.report["scene"]["scale"]
    assert (scale["min"], scale["max"]) == pytest.approx(tuple(np.percentile(values, [2, 98])), rel=0.05)
    with rasterio.open(result.outputs["classes"]) as src:
        expected = pointwise_reference(stretched(values, scale["min"], scale["max"]))
        assert np.array_equal(src.read(1), expected)


@pytest.mark.parametrize("tagged", [True, False])
def test_nan_is_nodata(tagged: bool, write_scene: Write, tmp_path: Path) -> None:
    values = blobs(90, 130).astype(np.float32)
    valid = np.ones((90, 130), dtype=bool)
    valid[20:50, 30:110] = False
    values[:, ~valid] = np.nan
    values[1, 5, 5] = np.nan  # in one band only
    valid[5, 5] = False
    scene = write_scene(values, nodata=np.nan if tagged else None)
    classes = mapped(scene, tmp_path, scale=(0, 255))
    assert np.array_equal(classes, np.where(valid, pointwise_reference(np.nan_to_num(values)), NODATA))


def test_negative_nodata_and_nodata_of_single_bands(write_scene: Write, tmp_path: Path) -> None:
    values = blobs(90, 130).astype(np.int16)
    values[:, 10:40, 20:60] = -9999
    values[0, 60:70, :] = -9999  # one band alone says nothing against the others
    classes = mapped(write_scene(values, nodata=-9999), tmp_path, scale=(0, 255))
    valid = (values != -9999).any(axis=0)
    assert np.array_equal(classes == NODATA, ~valid)
    expected = pointwise_reference(np.clip(values, 0, 255))
    assert np.array_equal(classes[valid], expected[valid])


def test_each_band_may_have_a_nodata_value_of_its_own(write_scene: Write, tmp_path: Path) -> None:
    """A pixel has no data where all bands say so, each in its own way."""
    image = np.random.default_rng(0).integers(100, 256, (3, 90, 100), dtype=np.uint8)
    values = (7, 8, 9)
    image[:, 20:40, 30:60] = np.array(values, dtype=np.uint8)[:, None, None]
    image[1, 60:70] = 8
    write_scene(image, "sheet.tif", nodata=None)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>{value}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">sheet.tif</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band, value in enumerate(values, 1)
    )
    scene = tmp_path / "scene.vrt"
    place = f"<SRS>{UTM}</SRS><GeoTransform>300000, 0.5, 0, 3000000, 0, -0.5</GeoTransform>"
    scene.write_text(f'<VRTDataset rasterXSize="100" rasterYSize="90">{place}{bands}</VRTDataset>')
    classes = mapped(scene, tmp_path)
    expected = np.zeros((90, 100), dtype=bool)
    expected[20:40, 30:60] = True
    assert np.array_equal(classes == NODATA, expected)


C = ColorInterp


@pytest.mark.parametrize(
    ("interpretation", "order"),
    [
        ((C.red, C.green, C.blue), (0, 1, 2)),
        ((C.blue, C.green, C.red), (2, 1, 0)),
        ((C.red, C.green, C.blue, C.nir), (0, 1, 2)),
        ((C.nir, C.red, C.green, C.blue), (1, 2, 3)),
        ((C.red, C.green, C.blue, C.undefined), (0, 1, 2)),
        ((C.gray, C.undefined, C.undefined, C.undefined, C.undefined), (0, 1, 2)),
    ],
)
def test_bands_are_chosen_by_colour(
    interpretation: tuple[ColorInterp, ...], order: tuple[int, ...], write_scene: Write, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (len(interpretation), 70, 80), dtype=np.uint8)
    scene = write_scene(image, photometric="minisblack")
    with rasterio.open(scene, "r+") as dst:
        dst.colorinterp = interpretation
    result = run(scene, tmp_path)
    assert result.report["scene"]["bands"] == [index + 1 for index in order]
    with rasterio.open(result.outputs["classes"]) as src:
        difference = src.read(1) != pointwise_reference(image[list(order)])
    assert difference.mean() < 0.002  # noise: a few pixels are ties
    reversed_order = tuple(index + 1 for index in order[::-1])
    assert run(scene, tmp_path, bands=reversed_order, overwrite=True).report["scene"]["bands"] == list(
        reversed_order
    )


def test_descriptions_name_bands_too(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(70, 70)
    scene = write_scene(image, photometric="minisblack")
    with rasterio.open(scene, "r+") as dst:
        dst.descriptions = ("Blue", "Green", "Red band")
    assert run(scene, tmp_path).report["scene"]["bands"] == [3, 2, 1]


def test_grey_scenes_are_mapped_as_grey(write_scene: Write, tmp_path: Path) -> None:
    image = blobs(100, 120)
    assert np.array_equal(mapped(write_scene(image[:1]), tmp_path), pointwise_reference(image))


def test_palettes_are_expanded(write_scene: Write, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 7, (1, 80, 90), dtype=np.uint8)
    colors = {i: (int(r), int(r), int(r), 255) for i, r in enumerate([250, 5, 120, 130, 245, 0, 255])}
    scene = write_scene(index, photometric="palette")
    with rasterio.open(scene, "r+") as dst:
        dst.write_colormap(1, colors)
    table = np.array([colors[i][:3] for i in range(7)], dtype=np.uint8).T
    assert np.array_equal(mapped(scene, tmp_path), pointwise_reference(table[:, index[0]]))


LAYOUTS: dict[str, dict[str, Any]] = {
    "striped": {"interleave": "pixel"},
    "one strip": {"interleave": "pixel", "blockysize": 150},
    "band-interleaved": {"interleave": "band"},
    "tiled": {"tiled": True, "blockxsize": 64, "blockysize": 48, "interleave": "pixel"},
    "tiled bands": {"tiled": True, "blockxsize": 64, "blockysize": 48, "interleave": "band"},
    "deflate": {"compress": "deflate", "predictor": 2, "tiled": True},
    "lzw": {"compress": "lzw"},
    "zstd": {"compress": "zstd", "tiled": True},
    "lerc": {"compress": "lerc"},
    "lerc_deflate": {"compress": "lerc_deflate", "tiled": True},
    "webp": {"compress": "webp", "webp_lossless": True, "tiled": True, "interleave": "pixel"},
    "packbits": {"compress": "packbits"},
    "bigtiff": {"bigtiff": "yes", "compress": "deflate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_lossless_compression(layout: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(150, 200)
    scene = write_scene(image, **LAYOUTS[layout])
    with rasterio.open(scene, "r+") as dst:
        dst.build_overviews([2], rasterio.enums.Resampling.average)
    assert np.array_equal(mapped(scene, tmp_path), pointwise_reference(image))


LOSSY: dict[str, dict[str, Any]] = {
    "JPEG YCbCr": {"driver": "GTiff", "compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel"},
    "JPEG RGB": {"driver": "GTiff", "compress": "jpeg", "jpeg_quality": 90},
    "WebP": {"driver": "GTiff", "compress": "webp", "webp_level": 80, "interleave": "pixel"},
    "JPEG 2000": {"driver": "JP2OpenJPEG", "quality": 50},
}


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_compression_is_read_as_gdal_decodes_it(kind: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(150, 200)
    if kind == "JPEG 2000":
        with rasterio.MemoryFile() as memory, memory.open(
            driver="GTiff", width=200, height=150, count=3, dtype="uint8", crs=UTM,
            transform=Affine(0.5, 0, 300000, 0, -0.5, 3000000),
        ) as src:  # fmt: skip
            src.write(image)
            scene = tmp_path / "scene.jp2"
            rasterio.shutil.copy(src, scene, **LOSSY[kind])
    else:
        scene = write_scene(image, **LOSSY[kind])
    with rasterio.open(scene) as src:
        decoded = src.read([1, 2, 3])
    assert np.array_equal(mapped(scene, tmp_path), pointwise_reference(decoded))


@pytest.mark.parametrize(
    ("internal", "nbits"), [(True, 1), (True, 8), (False, 1)], ids=["internal 1-bit", "internal", "external"]
)
def test_masks_inside_and_beside_the_file(
    internal: bool, nbits: int, write_scene: Write, tmp_path: Path
) -> None:
    image = blobs(150, 200)
    valid = np.ones((150, 200), dtype=bool)
    valid[30:90, 50:130] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal, GDAL_TIFF_INTERNAL_MASK_TO_8BIT=nbits == 8):
        scene = write_scene(image, mask=valid)
    assert scene.with_name("scene.tif.msk").exists() != internal
    classes = mapped(scene, tmp_path)
    assert np.array_equal(classes, np.where(valid, pointwise_reference(image), NODATA))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_of_any_depth_masks(dtype: str, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(90, 120).astype(dtype)
    valid = np.ones((90, 120), dtype=bool)
    valid[:, :50] = False
    alpha = valid.astype(dtype) * np.iinfo(dtype).max
    scene = write_scene(np.concatenate([image, alpha[None]]), photometric="rgb", alpha="non-premultiplied")
    classes = mapped(scene, tmp_path, scale=(0, 255))
    assert np.array_equal(classes, np.where(valid, pointwise_reference(image), NODATA))


def test_compound_crs_keeps_its_place(write_scene: Write, tmp_path: Path) -> None:
    import geopandas as gpd

    image = blobs(90, 120)
    result = run(write_scene(image, crs="EPSG:25832+7837"), tmp_path)
    with rasterio.open(result.outputs["classes"]) as src:
        assert np.array_equal(src.read(1), pointwise_reference(image))
        assert "ETRS89" in src.crs.to_wkt()
    frame = gpd.read_file(result.outputs["gpkg"], layer="objects")
    assert frame.crs.to_2d().to_epsg() == 25832 or "UTM zone 32N" in frame.crs.name
    assert frame["area_m2"].sum() == pytest.approx(90 * 120 * 0.25)


def test_ground_control_points_are_refused_with_the_command(write_scene: Write, tmp_path: Path) -> None:
    points = [
        GroundControlPoint(row, col, 85.5 + col / 1e5, 27.6 - row / 1e5) for row in (0, 70) for col in (0, 70)
    ]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        scene = write_scene(blobs(70, 70), crs=None, transform=None)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(scene, "r+") as dst:
        dst.gcps = points, rasterio.CRS.from_epsg(4326)
    with pytest.raises(SourceError, match=r"4 ground control points.*gdalwarp -tps .*-t_srs EPSG:4326"):
        run(scene, tmp_path)


def test_camera_models_are_refused_with_the_command(write_scene: Write, tmp_path: Path) -> None:
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        scene = write_scene(blobs(70, 70), crs=None, transform=None)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(scene, "r+") as dst:
        dst.rpcs = RPC(
            height_off=100, height_scale=100, lat_off=27, lat_scale=1, line_den_coeff=[1.0] * 20,
            line_num_coeff=[1.0] * 20, line_off=35, line_scale=35, long_off=85, long_scale=1,
            samp_den_coeff=[1.0] * 20, samp_num_coeff=[1.0] * 20, samp_off=35, samp_scale=35,
        )  # fmt: skip
    with pytest.raises(SourceError, match=r"camera model.*gdalwarp -rpc -to RPC_DEM"):
        run(scene, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": (5.0, 5.0)}, "MIN below MAX"),
        ({"scale": (float("nan"), 1.0)}, "MIN below MAX"),
        ({"gsd": 0.0}, "above 0"),
        ({"grid": "mine"}, "scene or model"),
        ({"on_read_error": "ignore"}, "fail or nodata"),
    ],
)
def test_impossible_options_are_usage_errors(
    options: dict[str, Any], words: str, write_scene: Write, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run(write_scene(blobs(70, 70)), tmp_path, **options)
