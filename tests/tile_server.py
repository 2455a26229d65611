"""A map server in a process of its own: `python tile_server.py FOLDER`, with scene.tif in Web Mercator there.

It has tiles at /z/x/y.png and .jpg (and from the south at /tms/z/x/y.png) down to the scene's own zoom, the
same as WMTS at /wmts.xml, and WMS at /wms?. It prints its port, and notes each request in FOLDER/asked.log.
FOLDER/mode has it answer with a status, such as 500, drop the connection, or hang, once it has answered so
many: "hang 40".
"""

import http.server
import io
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import rasterio
from PIL import Image

EDGE = 20037508.342789244
SIDE = 256
_WMTS = """<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"
 xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0"><Contents><Layer><ows:Title>Scene</ows:Title>
<ows:Identifier>scene</ows:Identifier><Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style>
<Format>image/png</Format><TileMatrixSetLink><TileMatrixSet>web</TileMatrixSet></TileMatrixSetLink>
<ResourceURL format="image/png" resourceType="tile"
 template="{url}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png"/>
</Layer><TileMatrixSet><ows:Identifier>web</ows:Identifier>
<ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>{zooms}</TileMatrixSet></Contents>
</Capabilities>"""
_ZOOM = """<TileMatrix><ows:Identifier>{zoom}</ows:Identifier><ScaleDenominator>{scale}</ScaleDenominator>
<TopLeftCorner>-20037508.342789244 20037508.342789244</TopLeftCorner><TileWidth>256</TileWidth>
<TileHeight>256</TileHeight><MatrixWidth>{count}</MatrixWidth><MatrixHeight>{count}</MatrixHeight></TileMatrix>"""


@cache
def scene_at(path: Path) -> tuple[np.ndarray, rasterio.Affine]:
    """The pixels of a scene, and their place."""
    with rasterio.open(path) as src:
        return src.read(), src.transform


def picture(path: Path, bounds: tuple[float, ...], width: int, height: int, kind: str = "png") -> bytes:
    """Cut a picture out of a scene, of its nearest pixels; nothing if it shows nothing of it."""
    image, place = scene_at(path)
    left, bottom, right, top = bounds
    cols = np.floor((left + (np.arange(width) + 0.5) * (right - left) / width - place.c) / place.a).astype(
        int
    )
    rows = np.floor((top - (np.arange(height) + 0.5) * (top - bottom) / height - place.f) / place.e).astype(
        int
    )
    inside = ((rows >= 0) & (rows < image.shape[1]))[:, None] & ((cols >= 0) & (cols < image.shape[2]))
    if not inside.any():
        return b""
    pixels = image[:, rows.clip(0, image.shape[1] - 1)][:, :, cols.clip(0, image.shape[2] - 1)] * inside
    layers = [*pixels, inside * np.uint8(255)] if kind == "png" else [*pixels]
    file = io.BytesIO()
    options = {"compress_level": 1} if kind == "png" else {"quality": 95}
    Image.fromarray(np.stack(layers, axis=-1)).save(file, "PNG" if kind == "png" else "JPEG", **options)
    return file.getvalue()


def zoom_of(path: Path) -> int:
    """The zoom whose pixels a scene has."""
    return round(math.log2(2 * EDGE / SIDE / scene_at(path)[1].a))


def tile_bounds(zoom: int, x: int, y: int) -> tuple[float, ...]:
    side = 2 * EDGE / 2**zoom
    return x * side - EDGE, EDGE - (y + 1) * side, (x + 1) * side - EDGE, EDGE - y * side


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    told, answered = "", 0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        with (self.folder / "asked.log").open("a") as log:
            log.write(f"{self.path}\n")
        mode = self.folder / "mode"
        told = mode.read_text() if mode.exists() else ""
        Handler.told, Handler.answered = told, Handler.answered + 1 if told == Handler.told else 1
        said, _, after = told.partition(" ")
        said = said if Handler.answered > int(after or 0) else ""
        if said.isdecimal():
            self.send_error(int(said))
        elif said == "drop":
            self.close_connection = True
        elif said == "hang":
            time.sleep(60)
        else:
            self._answer()

    def _answer(self) -> None:
        scene, place = self.folder / "scene.tif", urlsplit(self.path)
        content = b""
        if tile := re.fullmatch(r"/(tms/)?(\d+)/(\d+)/(\d+)\.(png|jpg)", place.path):
            zoom, x, y = map(int, tile.group(2, 3, 4))
            y = 2**zoom - 1 - y if tile[1] else y
            if zoom <= zoom_of(scene):
                content = picture(scene, tile_bounds(zoom, x, y), SIDE, SIDE, tile[5])
        elif place.path == "/wmts.xml":
            finest = zoom_of(scene)
            zooms = "".join(
                _ZOOM.format(zoom=z, scale=2 * EDGE / SIDE / 2**z / 0.00028, count=2**z)
                for z in range(finest - 2, finest + 1)
            )
            content = _WMTS.format(url=f"http://{self.headers['Host']}", zooms=zooms).encode()
        elif place.path == "/wms":
            asked = {key.lower(): value[0] for key, value in parse_qs(place.query).items()}
            bounds = tuple(map(float, asked["bbox"].split(",")))
            content = picture(scene, bounds, int(asked["width"]), int(asked["height"]))
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server:
    """A running server, as tests see it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.scene = url, folder, folder / "scene.tif"

    def asked(self) -> list[str]:
        """What it was asked since the last time."""
        log = self.folder / "asked.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def answer(self, mode: str = "") -> None:
        """Have it answer with a status, drop, or hang, once it has answered some; by default as it should."""
        (self.folder / "mode").write_text(mode)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve what is in a folder."""
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}", folder)
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
