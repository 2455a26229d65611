"""The points of a window: where they are, what they are counted on, and their picture."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import Write, blobs, shared, stand_in
from PIL import Image

from pfmap.cli.main import cli
from pfmap.core.card import Architecture
from pfmap.core.errors import DeviceError, ModelError, PfmapError, SourceError, TargetError, UsageError
from pfmap.core.grid import Span
from pfmap.measure.flow_points import WindowPoints, draw_points, find_points
from pfmap.model.store import Model, user_models, write_model
from pfmap.net.pfnet import PFNet

SIDE = 64


def model(background: bool = True, **variant: Any) -> Model:
    """A real PFNet with random weights; class_0 is its background."""
    torch.manual_seed(0)
    architecture = Architecture("efficientnet_lite0", 3, **{"width": 16, "embedding": 8, **variant})
    card = stand_in(window=SIDE).card
    first, *others = card.classes
    classes = (dataclasses.replace(first, background=background), *others)
    card = dataclasses.replace(card, architecture=architecture, classes=classes)
    network = PFNet(architecture).eval()
    return Model(card, network, Path("nowhere"))


def test_points_are_those_of_the_network_at_their_pixels_centres(write_scene: Write) -> None:
    image = blobs(200, 200)
    chosen = model()
    found = find_points(write_scene(image), (30, 50), model=chosen)
    crop = image[:, 50 : 50 + SIDE, 30 : 30 + SIDE]
    assert np.array_equal(found.pixels, crop)
    with torch.inference_mode():
        seen = torch.from_numpy(crop).float()[None] / 255
        output = chosen.network.compute(seen)
        classes = chosen.network(seen).argmax(dim=1)[0].numpy()
    assert np.array_equal(found.on_foreground, classes > 0)
    assert found.pixel_share == pytest.approx((classes > 0).mean())
    assert [(level.source, level.target) for level in found.levels] == [(32, 16), (16, 8), (8, 4)]
    every = []
    for level, points in zip(found.levels, output.points, strict=True):
        for kind, flat in (("salient", points.salient), ("boundary", points.boundary)):
            mine, width = level.flows[kind], SIDE // level.source
            wanted = {((int(i) // width + 0.5) * level.source, (int(i) % width + 0.5) * level.source)
                      for i in flat[0]}  # fmt: skip
            assert {tuple(point) for point in mine.tolist()} == wanted
            assert len(mine) == len(wanted)
            every += [classes[int(y), int(x)] > 0 for y, x in mine]
    table = found.table()
    assert table["foreground_points"] == pytest.approx(np.mean(every))
    assert table["foreground"] == ["class_1", "class_2"]


def test_points_on_nodata_and_beyond_the_scene_are_left_out(write_scene: Write) -> None:
    image = np.clip(blobs(90, 80), 1, None)
    image[:, 70:] = 0
    every = ["class_0", "class_1", "class_2"]
    found = find_points(write_scene(image, nodata=0), (50, 40), model=model(), foreground=every)
    assert (found.rows, found.cols) == (Span(40, 90), Span(50, 80))
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[:30, :30] = True
    assert np.array_equal(found.seen, expected)
    assert np.array_equal(found.on_foreground, expected)
    assert found.pixel_share == 1
    assert len(found.all_points)
    assert (found.all_points < 30).all()


def test_sixteen_bits_and_resolution_are_handled_as_when_mapping(write_scene: Write) -> None:
    chosen = model()
    card = dataclasses.replace(chosen.card, input=dataclasses.replace(chosen.card.input, gsd=(1.0, 2.0)))
    image = blobs(260, 260).astype(np.uint16) * 200
    found = find_points(
        write_scene(image), (64, 20), model=dataclasses.replace(chosen, card=card), gsd=0.5, scale=(0, 51000)
    )
    assert (found.rows, found.cols) == (Span(20, 20 + 2 * SIDE), Span(64, 64 + 2 * SIDE))
    mean = (image / 200).reshape(3, 130, 2, 130, 2).mean(axis=(2, 4))
    assert np.abs(found.pixels - mean[:, 10 : 10 + SIDE, 32 : 32 + SIDE]).max() <= 1
    assert found.gsd == pytest.approx(1.0)
    assert "finer than model" in found.notes[-1]


def test_a_flow_that_is_off_has_no_points(write_scene: Write, tmp_path: Path) -> None:
    scene = write_scene(blobs(100, 100))
    found = find_points(scene, (0, 0), model=model(flow="boundary", flow_levels=(8,)))
    (level,) = found.levels
    assert (level.source, level.target) == (16, 8)
    assert len(level.flows["salient"]) == 0
    assert len(level.flows["boundary"]) == 16
    assert found.table()["levels"][0]["salient"] == {"points": 0, "on_foreground": None}
    draw_points(found, tmp_path / "one.png")
    up = find_points(scene, (0, 0), model=model(direction="both"))
    assert [(x.source, x.target) for x in up.levels[3:]] == [(4, 8), (8, 16), (16, 32)]
    draw_points(up, tmp_path / "six.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "six.png") as six:
        assert one.width * 2 < six.width
        assert one.height < six.height


def test_foreground_is_what_is_named_or_no_background_or_building(write_scene: Write) -> None:
    scene = write_scene(blobs(80, 80))
    chosen = model(background=False)
    assert find_points(scene, (0, 0), model=chosen, foreground=["class_2"]).foreground == ("class_2",)
    with pytest.raises(ModelError, match=r"no background class.*foreground= \(class_0, class_1, class_2\)"):
        find_points(scene, (0, 0), model=chosen)
    named = tuple(
        dataclasses.replace(spec, name=name)
        for spec, name in zip(chosen.card.classes, ("road", "building", "tree"), strict=True)
    )
    urban = dataclasses.replace(chosen, card=dataclasses.replace(chosen.card, classes=named))
    assert find_points(scene, (0, 0), model=urban).foreground == ("building",)


@pytest.mark.parametrize(
    ("window", "options", "kind", "words"),
    [
        ((100, 0), {}, UsageError, "100,0 is outside .*100 x 90 pixels: give COL,ROW between 0,0 and 99,89"),
        ((0, 90), {}, UsageError, "is outside"),
        ((-1, 0), {}, UsageError, "is outside"),
        ((0, 0), {}, SourceError, "no valid pixel in the window at column 0, row 0"),
        ((80, 0), {"model": model(flow="none")}, ModelError, "no PointFlow module"),
        ((80, 0), {"model": stand_in(window=SIDE)}, ModelError, "no PointFlow module"),
        ((80, 0), {"foreground": ["lawn"]}, ModelError, "class 'lawn' is unknown"),
        ((80, 0), {"foreground": []}, UsageError, "foreground="),
        ((80, 0), {"bands": (1, 2, 9)}, UsageError, "bands="),
    ],
)
def test_bad_input_is_refused(
    write_scene: Write, window: tuple[int, int], options: dict[str, Any], kind: type[PfmapError], words: str
) -> None:
    image = np.clip(blobs(90, 100), 1, None)
    image[:, :, :70] = 0
    scene = write_scene(image, nodata=0)
    with pytest.raises(kind, match=words) as error:
        find_points(scene, window, **{"model": model(), **options})
    assert "\n" not in str(error.value)


def _drawn(path: Path, color: tuple[int, int, int]) -> set[tuple[int, int]]:
    """Pixels of nearly one colour."""
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    close = np.abs(rgb - np.array(color)).max(axis=-1) <= 12
    return {(int(y), int(x)) for y, x in zip(*close.nonzero(), strict=True)}


def test_the_picture_shows_every_point_in_its_place(tmp_path: Path) -> None:
    seen = np.ones((SIDE, SIDE), dtype=bool)
    from pfmap.measure.flow_points import LevelPoints

    salient, boundary = np.array([[8.0, 24.0], [40.0, 56.0]]), np.array([[56.0, 8.0]])
    found = WindowPoints(
        scene="a/scene.tif",
        model="stand_in",
        rows=Span(0, SIDE),
        cols=Span(0, SIDE),
        gsd=None,
        pixels=np.full((3, SIDE, SIDE), 90, dtype=np.uint8),
        seen=seen,
        foreground=("class_1",),
        on_foreground=~seen,
        levels=(LevelPoints(16, 8, {"salient": salient, "boundary": boundary}),),
        notes=(),
    )
    draw_points(found, tmp_path / "p.png")
    scale = 560 / SIDE
    for points, color in ((salient, (86, 180, 233)), (boundary, (240, 228, 66))):
        drawn = _drawn(tmp_path / "p.png", color)
        centres = [(58 + y * scale, 20 + x * scale) for y, x in points]
        for y, x in centres:
            assert (round(y), round(x)) in drawn
        in_panel = {(y, x) for y, x in drawn if y < 58 + 560}
        assert all(any(abs(y - cy) + abs(x - cx) < 9 for cy, cx in centres) for y, x in in_panel)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["points", *map(str, arguments)])


def test_the_command_draws_and_tells(write_scene: Write) -> None:
    chosen = model()
    write_model(user_models() / "small", chosen.card, chosen.network)
    scene = write_scene(blobs(100, 100))
    done = run(scene, "--window", "8,4", "-m", "small")
    assert done.exit_code == 0, done.output
    path = scene.with_name("scene_points_8_4.png")
    assert f"wrote {path}" in done.stdout
    assert "of the pixels on class_1, class_2" in done.stdout
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    done = run(scene, "--window", "8,4", "-m", "small", "-o", scene.with_name("x.png"), "--json")
    table = json.loads(done.stdout)
    assert table["output"] == str(scene.with_name("x.png"))
    assert [level["from_stride"] for level in table["levels"]] == [32, 16, 8]
    assert 0 <= table["foreground_points"] <= 1
    for output in (scene, scene.with_name("missing") / "x.png"):
        refused = run(scene, "--window", "8,4", "-m", "small", "-o", output)
        assert isinstance(refused.exception, UsageError)
        assert "is no name for the picture" in str(refused.exception)
    itself = write_scene(blobs(100, 100), name="scene.png")
    assert "is no name for the picture" in str(run(itself, "--window", "8,4", "-o", itself).exception)
    assert run(scene, "-m", "small").exit_code == 2
    assert run(scene, "--window", "8", "-m", "small").exit_code == 2


def test_the_default_models_boundary_points_lie_on_boundaries() -> None:
    """On real pixels: fine boundary points are nearer to a change of class than pixels are."""
    from scipy.ndimage import distance_transform_edt

    found = find_points(shared("data/banepa/scene.tif"), (1000, 2500))
    mask = found.on_foreground
    edge = np.zeros_like(mask)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    away = distance_transform_edt(~edge)
    rows, cols = found.levels[2].flows["boundary"].astype(int).T
    assert np.median(away[rows, cols]) < np.median(away) / 2


def test_numbers_that_are_none_and_a_full_disk_are_said(
    write_scene: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = model()
    with torch.no_grad():
        chosen.network.classify.bias.fill_(float("inf"))
    scene = write_scene(blobs(100, 100))
    with pytest.raises(DeviceError, match="gives NaN or infinite numbers for the window"):
        find_points(scene, (8, 4), model=chosen)

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    found = find_points(scene, (8, 4), model=model())
    with pytest.raises(TargetError, match=r"x\.png cannot be written \(.*No space left.*\): choose"):
        draw_points(found, scene.with_name("x.png"))
