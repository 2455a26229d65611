"""Swaths on real worker processes: the same bytes as in one process; clear words about bad ones."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, Write
from runs import SWATHS, equal_outputs, noise, on_workers, small_model, stop

import pfmap
from pfmap.cluster import link, opened_cluster
from pfmap.cluster.coordinator import Cluster
from pfmap.core.errors import PfmapError, named
from pfmap.model.store import Model, write_model

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two worker processes, for several scenes."""
    with opened_cluster(None, 2, "cpu", lambda _line: None) as opened:
        assert opened is not None
        yield opened


def refusal(scene: Path, out: Path, model: Model, **options: Any) -> str:
    """What is said when nothing is done: one line, and no trace of the run."""
    with pytest.raises(PfmapError) as caught:
        pfmap.predict(scene, out, model=model, **SWATHS | options)
    assert not out.exists() or not list(out.iterdir())
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("ratio", "options"),
    [
        (1.0, {}),
        (1.0, {"separate": ("class_1",), "min_area": 0, "tta": "d4", "probabilities": True}),
        (2.37, {"overlap": 32, "sieve": "raster", "separate": ("none",)}),
        (0.6, {"overlap": 0, "grid": "model", "confidence": False}),
    ],
)
def test_two_workers_give_the_bytes_of_one_process(
    ratio: float, options: dict[str, Any], cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(noise(round(600 * min(ratio, 1.3)), round(170 * min(ratio, 1.3))))
    spec = dataclasses.replace(model.card.input, gsd=(0.5 * ratio, 0.5 * ratio))
    folder = tmp_path / "model"
    if "separate" in options:
        model = small_model(tmp_path / "apart", contact=("class_1",))
    write_model(folder, dataclasses.replace(model.card, input=spec), model.network)
    whole = pfmap.predict(scene, tmp_path / "one", model=folder, **SWATHS | options)
    done: list[int] = []
    spread = pfmap.predict(
        scene, tmp_path / "two", model=folder, cluster=cluster,
        on_progress=lambda pixels, _total: done.append(pixels), **SWATHS | options,
    )  # fmt: skip
    assert spread.report["swaths"] == whole.report["swaths"]
    assert spread.report["swaths"]["all"] > 4
    assert done == sorted(done)
    assert done[-1] == spread.report["map"]["width"] * spread.report["map"]["height"]
    if options.get("confidence", True):
        equal_outputs(tmp_path / "one", tmp_path / "two")
    else:
        for name in ("scene_classes.tif", "scene_objects.gpkg"):
            assert (tmp_path / "one" / name).exists() == (tmp_path / "two" / name).exists()
        assert (tmp_path / "one/scene_classes.tif").read_bytes() == (
            tmp_path / "two/scene_classes.tif"
        ).read_bytes()


def test_a_stopped_run_goes_on_in_one_process(
    cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    """And the other way round: what is on disk does not depend on who computed it."""
    scene = write_scene(noise(600, 170))
    pfmap.predict(scene, tmp_path / "whole", model=model, **SWATHS)

    with pytest.raises(KeyboardInterrupt):
        pfmap.predict(scene, tmp_path / "cut", model=model, cluster=cluster, on_progress=stop, **SWATHS)
    left = sorted((tmp_path / "cut/.scene.pfmap").iterdir())
    assert not [path.name for path in left if path.name.startswith("pfmap-")]
    resumed = pfmap.predict(scene, tmp_path / "cut", model=model, **SWATHS)
    assert 0 < resumed.report["swaths"]["from_earlier_runs"] < resumed.report["swaths"]["all"]
    equal_outputs(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_scene_ends_the_run_with_its_own_words(
    cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    scene = write_scene(noise(600, 170), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    content = bytearray(scene.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20_000] = bytes(20_000)
    scene.write_bytes(content)
    with pytest.raises(pfmap.PfmapError, match=r"scene.tif cannot be read at .* \(on worker tcp://"):
        pfmap.predict(scene, tmp_path / "out", model=model, cluster=cluster, **SWATHS)
    one = pfmap.predict(scene, tmp_path / "one", model=model, on_read_error="nodata", **SWATHS)
    two = pfmap.predict(
        scene, tmp_path / "two", model=model, cluster=cluster, on_read_error="nodata", **SWATHS
    )
    blocks = one.report["scene"]["unreadable_blocks"]
    assert blocks
    assert blocks == two.report["scene"]["unreadable_blocks"]
    assert (tmp_path / "one/scene_classes.tif").read_bytes() == (
        tmp_path / "two/scene_classes.tif"
    ).read_bytes()


def test_a_scheduler_that_does_not_answer_is_named(
    model: Model, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.5)
    scene = write_scene(noise(100, 100))
    for address in ("tcp://127.0.0.1:9", "nobody.invalid:8786", "foo://bar:1"):
        text = refusal(scene, tmp_path / "out", model, cluster=address)
        assert text.startswith(f"no Dask scheduler answers at {address} (")
        assert "dask scheduler" in text


def test_workers_and_a_cluster_exclude_each_other(model: Model, write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(noise(100, 100))
    assert "choose one" in refusal(scene, tmp_path / "out", model, cluster="tcp://127.0.0.1:9", workers=2)
    assert "use 1 or more" in refusal(scene, tmp_path / "out", model, workers=0)
    assert "use device='cuda'" in refusal(scene, tmp_path / "out", model, workers=1, device="cuda:0")


def test_workers_with_another_pfmap_are_refused_and_both_are_named(
    cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    def make(version: str) -> Callable[[], Callable[[], None]]:
        def patch() -> None:
            from pfmap import version as module
            from pfmap.cluster import worker

            module.__version__ = worker.__version__ = version

        return lambda: patch

    scene = write_scene(noise(100, 100))
    on_workers(cluster, make("9.9"))
    try:
        text = refusal(scene, tmp_path / "out", model, cluster=cluster)
    finally:
        on_workers(cluster, make(pfmap.__version__))
    assert "worker tcp://127.0.0.1:" in text
    assert f"has pfmap 9.9, this machine has pfmap {pfmap.__version__} (2 of 2 workers differ)" in text


def test_workers_with_another_model_are_refused_and_both_are_named(
    cluster: Cluster, write_scene: Write, tmp_path: Path
) -> None:
    """The folder is the same, the weights in it are not those that were loaded here."""
    mine, other = small_model(tmp_path / "mine"), small_model(tmp_path / "other", seed=1)
    scene = write_scene(noise(100, 100))

    def swap(_line: str) -> None:  # as soon as the plan is made here
        shutil.copy(other.folder / "weights.safetensors", mine.folder / "weights.safetensors")

    from pfmap.model.store import file_hash

    ours, theirs = (file_hash(m.folder / "weights.safetensors")[:12] for m in (mine, other))
    text = refusal(scene, tmp_path / "out", mine, cluster=cluster, on_message=swap)
    assert f"has weights {theirs} in {mine.folder}" in text
    assert f"was started with model 'stand_in' of weights {ours}" in text
    gone = dataclasses.replace(mine, folder=tmp_path / "nowhere")
    assert "is in no folder that workers could load it from" in refusal(
        scene, tmp_path / "out", gone, cluster=cluster
    )


def test_storage_that_workers_cannot_write_is_found_before_the_start(
    cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    def make(limit: int) -> Callable[[], Callable[[], None]]:
        def patch() -> None:
            import resource

            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard if limit < 0 else limit, hard))

        return lambda: patch

    scene = write_scene(noise(100, 100))
    on_workers(cluster, make(0))  # no file may have a byte
    try:
        text = refusal(scene, tmp_path / "out", model, cluster=cluster)
    finally:
        on_workers(cluster, make(-1))
    assert f"cannot write into {tmp_path / 'out'}" in text


def test_a_scene_that_only_this_process_sees_is_refused(
    cluster: Cluster, model: Model, tmp_path: Path
) -> None:
    name = "/vsimem/only_here.tif"
    with rasterio.open(
        name, "w", driver="GTiff", width=100, height=100, count=3, dtype="uint8", crs=UTM, transform=NORTH_UP
    ) as dst:
        dst.write(noise(100, 100))
    assert f"{name} is not a raster that GDAL can open" in refusal(
        Path(name), tmp_path / "out", model, cluster=cluster
    )


def test_a_missing_extra_is_named(
    model: Model, write_scene: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install 'pfmap[dask]'" in refusal(write_scene(noise(9, 9)), tmp_path / "o", model, workers=1)


def test_a_survey_on_workers_gives_the_bytes_of_one_process(
    cluster: Cluster, model: Model, write_scene: Write, tmp_path: Path
) -> None:
    """Several scenes are in work at once; the workers see one after the other."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        place = NORTH_UP @ Affine.translation(260 * number, 0)
        write_scene(noise(300, 260), f"in/s{number}.tif", transform=place)
    (tmp_path / "in/broken.tif").write_bytes(b"nothing")
    found = [
        pfmap.batch(tmp_path / "in", tmp_path / name, model=model, swath_pixels=20_000, **where)
        for name, where in (("alone", {"device": "cpu"}), ("many", {"cluster": cluster}))
    ]
    for one in found:
        assert [bool(scene.reason) for scene in one.scenes] == [True, False, False, False, False]
    for number in range(4):
        equal_outputs(tmp_path / "alone", tmp_path / "many", f"s{number}")
    assert found[0].figures.classes == found[1].figures.classes


def test_what_workers_are_sent_shows_no_secret_in_their_logs() -> None:
    sent: list[tuple] = []
    connection = link.Link.__new__(link.Link)
    connection._client = SimpleNamespace(status="running", submit=lambda *task, **_how: sent.append(task))
    address = "https://someone:passw0rdlong@example.com/a.tif?sig=0123456789abcdef"
    connection.submit(named, address, worker="tcp://127.0.0.1:1")
    call, *arguments = sent[0]
    assert "passw0rd" not in repr(arguments)
    assert "0123456789abcdef" not in repr(arguments)
    assert call(*arguments) == named(address)
