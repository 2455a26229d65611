"""Show objects as vector tiles on a web map in a browser, and check that each is seen in its class's colour.

    python tests/browser/open_tiles.py OBJECTS.pmtiles OBJECTS.gpkg NODE_MODULES PICTURES

`make test-browser` runs this with Chromium, and with MapLibre and PMTiles from npm in NODE_MODULES. The tiles
come from a server in ranges of bytes, as they would from a bucket.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
from open_report import PROBLEMS, expect, start
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from range_server import served

LIBRARIES = ("maplibre-gl/dist/maplibre-gl.js", "maplibre-gl/dist/maplibre-gl.css", "pmtiles/dist/pmtiles.js")
MOST = 200  # objects that are looked for, the largest
READY = "return !!window.map && map.loaded() && map.areTilesLoaded()"


def check_colors(browser, objects, colors, picture):
    """Compare the screen with the colour of each object's class, in a point inside it that is in view."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda found: found.execute_script(READY))
    points = objects.to_crs(4326).geometry
    seen = browser.execute_script(
        "return arguments[0].map(p => { const q = map.project(p); return [q.x, q.y]; })",
        [[point.x, point.y] for point in points],
    )
    content = browser.get_screenshot_as_png()
    picture.write_bytes(content)
    screen = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    wrong = looked = 0
    for (x, y), name in zip(seen, objects["class"], strict=True):
        if 2 < x < screen.shape[1] - 2 and 2 < y < screen.shape[0] - 2:
            looked += 1
            wrong += np.abs(screen[int(y), int(x)] - colors[name]).max() > 12
    expect(looked >= 5, f"{looked} objects are in view")
    expect(wrong == 0, f"{wrong} of {looked} objects do not have the colour of their class")
    print(f"{picture.name}: {looked} objects in their colours")


def main():
    tiles, objects, modules, pictures = map(Path, sys.argv[1:])
    pictures.mkdir(parents=True, exist_ok=True)
    frame = gpd.read_file(objects, layer="objects")
    frame = frame.iloc[frame.area.argsort()[::-1]][:MOST]
    own = gpd.read_file(tiles).drop_duplicates("class").set_index("class")["color"]
    colors = {name: [int(color[k : k + 2], 16) for k in (1, 3, 5)] for name, color in own.items()}
    # Well inside, so that neither smoothing nor a fraction of a pixel decides.
    frame = frame.set_geometry(frame.geometry.maximum_inscribed_circle().centroid)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as profile:
        for path in (Path(__file__).with_name("tiles.html"), *(modules / name for name in LIBRARIES)):
            shutil.copy(path, folder)
        shutil.copy(tiles, Path(folder, "objects.pmtiles"))
        with served(Path(folder)) as address:
            browser = start(profile, "--enable-unsafe-swiftshader")  # WebGL without a GPU
            try:
                browser.set_window_size(1000, 1000)
                browser.get(f"{address}/tiles.html")
                for zoom in ("", "map.getZoom() + 2"):
                    if zoom:
                        browser.execute_script(f"map.jumpTo({{zoom: {zoom}}})")
                    check_colors(browser, frame, colors, pictures / f"tiles{'_near' * bool(zoom)}.png")
                away = "map.jumpTo({center: [0, 0], zoom: 15}); return map.queryRenderedFeatures().length"
                expect(browser.execute_script(away) == 0, "there are objects off the coast of Africa")
                for entry in browser.get_log("browser"):
                    expect("favicon" in entry["message"] or entry["level"] != "SEVERE", entry["message"])
            finally:
                browser.quit()
        sent = [int(line) for line in Path(folder, "sent.log").read_text().split()]
        print(f"requests: {len(sent)}, largest {max(sent):,} bytes")
    for problem in PROBLEMS:
        print(f"wrong: {problem}", file=sys.stderr)
    sys.exit(bool(PROBLEMS))


if __name__ == "__main__":
    main()
