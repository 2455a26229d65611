"""Outputs in a bucket: the same files as in a folder, whole or not at all, and a run that goes on."""

import os
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import geopandas as gpd
import pytest
import rasterio
import torch
from affine import Affine
from commands import forked as command
from conftest import NORTH_UP, Write, blobs, server_settings, stand_in
from runs import SWATHS, TWO_FORMATS, PowerError, breaking, equal_outputs, noise, small_model, stop

import pfmap
from pfmap.cluster import opened_cluster
from pfmap.cluster.coordinator import Cluster
from pfmap.cluster.handover import Handover
from pfmap.cluster.link import local_cluster
from pfmap.core import bucket
from pfmap.core.errors import SourceError, TargetError
from pfmap.core.grid import Span
from pfmap.core.resources import claimed
from pfmap.mapping import work
from pfmap.survey.campaign import SurveyResult
from pfmap.vector.layer import open_layer


def brought(folder: Path, here: Path) -> Path:
    """Bring a folder of a bucket onto this machine."""
    for path in bucket.walk(folder):
        target = here / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        bucket.download(path, target)
    return here


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in bucket.walk(folder)]


def nothing_left(cache: Path) -> bool:
    return not [path for path in cache.rglob("*") if path.is_file()]


def test_the_outputs_are_those_of_a_folder(store: Path, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(300, 170))
    pfmap.predict(scene, tmp_path / "disk", model=stand_in(), **TWO_FORMATS)
    result = pfmap.predict(scene, f"s3://{store.name}/maps", model=stand_in(), **TWO_FORMATS)
    assert result.outputs["classes"] == store / "maps/scene_classes.tif"
    equal_outputs(tmp_path / "disk", brought(store / "maps", tmp_path / "brought"), bucket=True)
    with rasterio.open(str(result.outputs["classes"])) as src:  # as QGIS would
        assert src.count == 1
    assert nothing_left(tmp_path / "cache")


def test_the_same_again_is_left_alone_and_another_is_refused(store: Path, write_scene: Write) -> None:
    scene, out = write_scene(blobs(100, 100)), store / "maps"
    pfmap.predict(scene, out, model=stand_in(), **TWO_FORMATS)
    before = bucket._client().list_objects_v2(Bucket=store.name)["Contents"]
    assert pfmap.predict(scene, out, model=stand_in(), **TWO_FORMATS).skipped
    with pytest.raises(TargetError, match=r"scene_classes.tif, .* exist already \(of other options\)"):
        pfmap.predict(scene, out, model=stand_in(), overlap=16, **TWO_FORMATS)
    after = bucket._client().list_objects_v2(Bucket=store.name)["Contents"]
    assert [item["LastModified"] for item in before] == [item["LastModified"] for item in after]
    assert not pfmap.predict(scene, out, model=stand_in(), overlap=16, overwrite=True, **TWO_FORMATS).skipped


def test_a_run_that_broke_off_leaves_nothing_in_the_bucket_and_goes_on(
    store: Path, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(blobs(300, 170))
    pfmap.predict(scene, tmp_path / "disk", model=breaking(None), **TWO_FORMATS)
    with pytest.raises(PowerError):
        pfmap.predict(scene, store / "maps", model=breaking(12), **TWO_FORMATS)
    assert names(store) == []
    resumed = pfmap.predict(scene, store / "maps", model=breaking(None), **TWO_FORMATS)
    assert resumed.report["swaths"]["from_earlier_runs"] > 0
    equal_outputs(tmp_path / "disk", brought(store / "maps", tmp_path / "brought"), bucket=True)


@pytest.mark.parametrize("uploads", [0, 1, 3])
def test_a_run_that_broke_off_while_its_files_went_up_ends_well(
    uploads: int, store: Path, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report goes up last: without it nothing counts as done."""
    scene = write_scene(blobs(300, 170))
    pfmap.predict(scene, tmp_path / "disk", model=breaking(None), **TWO_FORMATS)
    upload, left = bucket.upload, [uploads]

    def breaks(file: Path, path: Path) -> None:
        if not left[0]:
            raise OSError(5, "the network is gone", str(path))
        left[0] -= 1
        upload(file, path)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "upload", breaks)
        with pytest.raises(TargetError, match="the network is gone"):
            pfmap.predict(scene, store / "maps", model=breaking(None), **TWO_FORMATS)
    assert len(names(store)) == uploads
    assert "maps/scene_report.json" not in names(store)
    calls = breaking(None)
    pfmap.predict(scene, store / "maps", model=calls, **TWO_FORMATS)
    assert calls.network.passes == 0
    equal_outputs(tmp_path / "disk", brought(store / "maps", tmp_path / "brought"), bucket=True)
    assert nothing_left(tmp_path / "cache")


def test_two_machines_do_not_map_one_scene_at_a_time(
    store: Path, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_scene(blobs(100, 100))
    with claimed(work.work_path(store, "scene"), store, "this scene"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
        monkeypatch.setattr("platform.node", lambda: "other")
        with pytest.raises(TargetError, match=r"another pfmap maps this scene into .* now \(held by "):
            pfmap.predict(scene, store, model=stand_in(), **TWO_FORMATS)
    pfmap.predict(scene, store, model=stand_in(), **TWO_FORMATS)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://no-such-bucket/maps", "no-such-bucket/maps cannot be written (the server says NoSuchBucket"),
        ("gs://maps", "outputs go into a folder, or into a bucket as s3://bucket/folder"),
    ],
)
def test_what_cannot_be_written_ends_before_anything_is_computed(
    out: str, said: str, write_scene: Write, small: str
) -> None:
    scene = write_scene(blobs(100, 100))
    done = command("predict", scene, "-o", out, "-m", small)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_polygons_of_a_raster_in_a_bucket_go_into_it(store: Path, write_scene: Write, tmp_path: Path) -> None:
    pfmap.predict(write_scene(blobs(200, 200)), store, model=stand_in(), **TWO_FORMATS)
    raster = store / "scene_classes.tif"
    pfmap.vectorize(raster, f"s3://{store.name}/polygons")
    assert "polygons/scene_objects.gpkg" in names(store)
    total = command("summary", f"s3://{store.name}/polygons/scene_objects.gpkg")
    assert total.returncode == 0, total.stderr
    assert "class_1" in total.stdout
    with pytest.raises(SourceError, match="does not exist"):
        open_layer(f"s3://{store.name}/none.gpkg", "objects")
    brought(store, tmp_path / "here")
    assert len(gpd.read_file(tmp_path / "here/polygons/scene_objects.gpkg", layer="objects"))


@pytest.fixture(scope="module")
def cluster(s3_server: str) -> Iterator[Cluster]:
    """A running cluster as others see it: two processes that share nothing but the buckets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server_settings(s3_server).items():
            patch.setenv(name, value)
        running = local_cluster(2, torch.device("cpu"))
        scheduler = running.__enter__()
    try:
        with opened_cluster(scheduler.scheduler_address, None, "cpu", lambda _line: None) as opened:
            assert opened is not None
            yield opened
    finally:
        running.__exit__(None, None, None)


@pytest.mark.slow
def test_workers_hand_swaths_over_in_the_bucket(
    store: Path, cluster: Cluster, write_scene: Write, tmp_path: Path
) -> None:
    model = small_model(tmp_path / "model")
    scene = write_scene(noise(600, 170))
    bucket.upload(scene, store / "in/scene.tif")
    pfmap.predict(store / "in/scene.tif", tmp_path / "disk", model=model, **SWATHS)
    seen: set[str] = set()
    result = pfmap.predict(
        store / "in/scene.tif", store / "maps", model=model, cluster=cluster,
        on_progress=lambda _done, _total: seen.update(names(store / "maps")), **SWATHS,
    )  # fmt: skip
    assert result.report["swaths"]["all"] > 4
    assert sum(name.endswith(".zip") for name in seen) > 2
    assert not [name for name in names(store / "maps") if "/" in name or name.startswith(".")]
    equal_outputs(tmp_path / "disk", brought(store / "maps", tmp_path / "brought"), bucket=True)
    assert nothing_left(tmp_path / "cache")


@pytest.mark.slow
def test_workers_of_this_machine_need_no_detour(store: Path, write_scene: Write, tmp_path: Path) -> None:
    model, scene = small_model(tmp_path / "model"), write_scene(noise(600, 170))
    pfmap.predict(scene, tmp_path / "disk", model=model, **SWATHS)
    seen: set[str] = set()
    pfmap.predict(
        scene, store, model=model, workers=2, on_progress=lambda _done, _total: seen.update(names(store)),
        **SWATHS,
    )  # fmt: skip
    assert not [name for name in seen if name.endswith(".zip")]
    equal_outputs(tmp_path / "disk", brought(store, tmp_path / "brought"), bucket=True)


def test_a_stopped_run_goes_on_from_what_is_in_the_bucket_on_another_machine(
    store: Path, cluster: Cluster, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(tmp_path / "model")
    scene = write_scene(noise(600, 170))
    pfmap.predict(scene, tmp_path / "disk", model=model, **SWATHS)

    with pytest.raises(KeyboardInterrupt):
        pfmap.predict(scene, store, model=model, cluster=cluster, on_progress=stop, **SWATHS)
    before = {
        item["Key"]: item["LastModified"]
        for item in bucket._client().list_objects_v2(Bucket=store.name)["Contents"]
        if item["Key"].endswith(".zip")
    }
    assert before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    kept: dict[str, Any] = {}

    def look(_done: int, _total: int) -> None:
        for item in bucket._client().list_objects_v2(Bucket=store.name).get("Contents", ()):
            kept[item["Key"]] = item["LastModified"]

    pfmap.predict(scene, store, model=model, cluster=cluster, on_progress=look, **SWATHS)
    assert {key: kept[key] for key in before} == before  # never computed again
    equal_outputs(tmp_path / "disk", brought(store, tmp_path / "brought"), bucket=True)


@pytest.mark.slow
def test_swaths_of_another_run_in_the_bucket_are_not_taken(
    store: Path, cluster: Cluster, write_scene: Write, tmp_path: Path
) -> None:
    one, other = small_model(tmp_path / "one"), small_model(tmp_path / "other", seed=1)
    scene = write_scene(noise(600, 170))

    with pytest.raises(KeyboardInterrupt):
        pfmap.predict(scene, store, model=one, cluster=cluster, on_progress=stop, **SWATHS)
    pfmap.predict(scene, tmp_path / "disk", model=other, **SWATHS)
    pfmap.predict(scene, store, model=other, cluster=cluster, **SWATHS)
    equal_outputs(tmp_path / "disk", brought(store, tmp_path / "brought"), bucket=True)


def test_workers_without_the_keys_are_refused_before_the_start(
    store: Path, cluster: Cluster, write_scene: Write, tmp_path: Path
) -> None:
    model = small_model(tmp_path / "model")

    def make(server: str) -> Callable[[], None]:
        def patch() -> None:
            import os

            from pfmap.core import bucket

            os.environ["AWS_S3_ENDPOINT"] = server
            bucket._client.cache_clear()

        return patch

    client = cluster._link._client
    client.run(make("127.0.0.1:9"))
    try:
        with pytest.raises(pfmap.PfmapError) as caught:
            pfmap.predict(write_scene(noise(100, 100)), store, model=model, cluster=cluster, **SWATHS)
    finally:
        client.run(make(os.environ["AWS_S3_ENDPOINT"]))
    text = str(caught.value)
    assert "worker tcp://127.0.0.1:" in text
    assert "does not see the folder that the run writes into" in text
    assert "\n" not in text
    assert [name for name in names(store) if not name.startswith(".")] == []


def survey(sources: Path | str, out: Path | str, **options: Any) -> SurveyResult:
    return pfmap.batch(sources, out, model=stand_in(), device="cpu", **options)


@pytest.mark.slow
def test_a_survey_in_a_bucket_is_that_on_a_disk(store: Path, write_scene: Write, tmp_path: Path) -> None:
    image = blobs(150, 300)
    for number, col in enumerate((0, 150)):
        place = NORTH_UP @ Affine.translation(col, 0)
        path = write_scene(image[:, :, col : col + 150], f"s{number}.tif", transform=place)
        bucket.upload(path, store / f"in/part{number}/s{number}.tif")
    bucket.write(store / "in/broken.tif", b"nothing")
    brought(store / "in", tmp_path / "in")
    survey(tmp_path / "in", tmp_path / "disk")
    made = survey(f"s3://{store.name}/in", f"s3://{store.name}/maps")
    assert [bool(scene.reason) for scene in made.scenes] == [True, False, False]
    assert made.outputs["classes"] == store / "maps/survey_classes.vrt"
    found = brought(store / "maps", tmp_path / "brought")
    same = {path.relative_to(tmp_path / "disk") for path in (tmp_path / "disk").rglob("*") if path.is_file()}
    assert {path.relative_to(found) for path in found.rglob("*") if path.is_file()} == same
    for folder in (tmp_path / "disk", found):
        with rasterio.open(folder / "survey_classes.vrt") as src:  # wherever the folder is copied to
            assert src.shape == (150, 300)
            assert (src.read(1) < 3).all()
    files = [folder / "survey_objects.gpkg" for folder in (tmp_path / "disk", found)]
    frames = [gpd.read_file(file, layer="objects") for file in files]
    assert frames[0].drop(columns="geometry").equals(frames[1].drop(columns="geometry"))
    again = survey(f"s3://{store.name}/in", f"s3://{store.name}/maps", retry_failed=True)
    assert [scene.result.skipped for scene in again.scenes if scene.result] == [True, True]
    assert nothing_left(tmp_path / "cache")


def test_a_mosaic_in_a_bucket(store: Path, write_scene: Write, tmp_path: Path) -> None:
    """Its VRT lies in the bucket, and so does a sheet that has to be warped onto its grid."""
    image = blobs(150, 300)
    coarser = NORTH_UP @ Affine.translation(150, 0) @ Affine.scale(2)
    (tmp_path / "in").mkdir()
    write_scene(image[:, :, :150], "in/a.tif")
    write_scene(image[:, ::2, 150::2], "in/b.tif", transform=coarser)
    for name in ("a.tif", "b.tif"):
        bucket.upload(tmp_path / "in" / name, store / "in" / name)
    for source, out in ((tmp_path / "in", tmp_path / "disk"), (store / "in", store / "maps")):
        survey(source, out, mosaic=True)
    found = brought(store / "maps", tmp_path / "brought")
    for name in ("survey_mosaic_classes.tif", "survey_mosaic_confidence.tif"):
        with rasterio.open(found / name) as one, rasterio.open(tmp_path / "disk" / name) as other:
            assert (one.read() == other.read()).all()


@contextmanager
def stalling(server: str, after: int) -> Iterator[str]:
    """Give the address of a way to a server on which nothing moves after so many bytes of requests."""
    host, port = server.rsplit(":", 1)
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as opened:

        def carry(source: socket.socket, target: socket.socket, *, counted: bool) -> None:
            nonlocal sent
            with suppress(OSError):
                while content := source.recv(65536):
                    sent += len(content) * counted
                    if sent > after:
                        return  # both ends stay open, and wait
                    target.sendall(content)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    near = opened.enter_context(listening.accept()[0])
                    far = opened.enter_context(socket.create_connection((host, int(port))))
                    for ends, counted in (((near, far), True), ((far, near), False)):
                        Thread(target=carry, args=ends, kwargs={"counted": counted}, daemon=True).start()

        Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
def test_a_bucket_that_stops_answering_in_mid_upload_ends_the_run_and_the_same_again_goes_on(
    s3_server: str, store: Path, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waits a second here; what was uploaded of a file in parts goes with the next try."""
    scene = write_scene(blobs(300, 170))
    whole = pfmap.predict(scene, tmp_path / "disk", model=breaking(None), **TWO_FORMATS)
    staged = store / "maps" / whole.outputs["classes"].name
    place = {"Bucket": store.name, "Key": staged.relative_to(store).as_posix()}
    client = bucket._client()
    begun = client.create_multipart_upload(**place)  # as one that broke off leaves it
    client.upload_part(**place, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * (5 << 20))
    other = client.create_multipart_upload(Bucket=store.name, Key=f"{place['Key']}.of another")
    with stalling(s3_server, 60_000) as slow, monkeypatch.context() as patch:
        patch.setenv("AWS_S3_ENDPOINT", slow)
        bucket._client.cache_clear()
        stuck = bucket._client()
        patch.setattr(stuck._endpoint.http_session, "_timeout", 1)
        stuck._endpoint.http_session._manager.connection_pool_kw["timeout"] = 1
        with pytest.raises(TargetError, match=r"[Tt]imeout|timed out|[Cc]onnect") as caught:
            pfmap.predict(scene, store / "maps", model=breaking(None), **TWO_FORMATS)
    assert "\n" not in str(caught.value)
    bucket._client.cache_clear()
    assert "maps/scene_report.json" not in names(store)
    calls = breaking(None)
    pfmap.predict(scene, store / "maps", model=calls, **TWO_FORMATS)
    assert calls.network.passes == 0
    equal_outputs(tmp_path / "disk", brought(store / "maps", tmp_path / "brought"), bucket=True)
    left = bucket._client().list_multipart_uploads(Bucket=store.name).get("Uploads", [])
    assert [upload["UploadId"] for upload in left] == [other["UploadId"]]


@pytest.mark.parametrize("damage", ["another swath's", "other content", "more"])
def test_an_archive_of_a_swath_is_believed_only_with_its_seal(
    damage: str, store: Path, tmp_path: Path
) -> None:
    handover, (first, second) = Handover(store / ".scene.pfmap", "run"), Span(0, 18).cut(9)
    for rows in (first, second):
        with handover.writing(rows) as folder:
            (folder / "classes").write_text(f"from {rows.start}")
    here, mine = work.Work(tmp_path / "work", tmp_path, "run"), tmp_path / "swath.zip"
    here.path.mkdir()
    bucket.download(handover._archive(first if damage == "another swath's" else second), mine)
    with zipfile.ZipFile(mine, "a") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name stands twice
        if damage != "another swath's":
            packed.writestr("classes" if damage == "other content" else "more", "evil")
    bucket.upload(mine, handover._archive(second))
    handover.fetch(first, here)
    with pytest.raises(SourceError, match="of a worker cannot be read"):
        handover.fetch(second, here)
    assert (here.swath(first) / "classes").read_text() == "from 0"
    assert not here.swath(second).exists()
