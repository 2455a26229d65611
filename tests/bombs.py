"""Small files that claim to be huge, or become so when they are unpacked; made in a moment.

`python bombs.py KIND FOLDER` gives one to pfmap, in a process of its own for its memory to be measured, and
prints what was said of it and how many bytes that took beyond what pfmap had before.
"""

import json
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import torch
from conftest import NORTH_UP, UTM, blobs, stand_in
from runs import small_model

import pfmap
from pfmap.core.resources import resident_memory
from pfmap.model.store import load_model
from pfmap.vector.zones import summarize

PIECE = 16 << 20  # bytes that the same compressed piece unpacks to, again and again
HUGE = 10 << 30


def pieces(head: bytes, size: int, tail: bytes = b"") -> Iterator[bytes]:
    """Give a raw deflate stream of zeros between two ends, which is tiny."""
    squeeze = zlib.compressobj(9, wbits=-15)
    yield squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    piece = squeeze.compress(bytes(PIECE)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    for _ in range(-(-size // PIECE)):
        yield piece
    yield squeeze.compress(tail) + squeeze.flush()


def archive(path: Path, name: str, head: bytes, size: int, tail: bytes = b"") -> Path:
    """Write a zip with one member of this size, which claims a checksum that nobody comes to see."""
    whole = len(head) + -(-size // PIECE) * PIECE + len(tail)
    data = b"".join(pieces(head, size, tail))
    extra = struct.pack("<HHQQ", 1, 16, whole, len(data))
    title = name.encode()
    sizes = 0xFFFFFFFF, 0xFFFFFFFF  # said in what follows
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 8, 0, 0x21, 0, *sizes, len(title), 20)
    start = local + title + extra + data
    central = struct.pack("<4sHHHHHHIII", b"PK\1\2", 45, 45, 0, 8, 0, 0x21, 0, *sizes)
    central += struct.pack("<HHHHHII", len(title), 20, 0, 0, 0, 0, 0) + title + extra
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(start), 0)
    path.write_bytes(start + central + end)
    with zipfile.ZipFile(path) as check:
        assert check.getinfo(name).file_size == whole
    return path


def tiff(width: int, height: int, rows: int, compression: int = 8, offset: int = 8) -> bytes:
    """Return the directory of a TIFF of one band whose strips are all one and the same, at its end."""
    strips = -(-height // rows)
    strip = b"".join(pieces(b"", min(PIECE, width * rows))) if compression == 8 else b""
    body = b"\x78\x01" + strip + struct.pack(">I", 0)
    at = offset + 8 + 20 * 14 + 8
    tables = at + len(body)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 16, strips, tables), (277, 3, 1, 1), (278, 4, 1, rows), (279, 16, strips, tables + 8 * strips),
    ]  # fmt: skip
    if strips == 1:
        entries[5], entries[8] = (273, 16, 1, at), (279, 16, 1, len(body))
    directory = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(entries))
    directory += b"".join(
        struct.pack("<HHQQ", tag, kind, count, value) for tag, kind, count, value in entries
    )
    directory += bytes(8)
    directory = directory.ljust(at, b"\0")
    lists = b"" if strips == 1 else struct.pack("<Q", at) * strips + struct.pack("<Q", len(body)) * strips
    return directory + body + lists


def sparse(path: Path, width: int, height: int) -> Path:
    """Write a TIFF without a single tile."""
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs=UTM,
        transform=NORTH_UP, tiled=True, blockxsize=4096, blockysize=4096, sparse_ok=True, bigtiff="yes",
        compress="deflate",
    ):  # fmt: skip
        return path


def png(path: Path, width: int, height: int, size: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = b"\x78\x01" + b"".join(pieces(b"", size)) + struct.pack(">I", 0)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def good(folder: Path) -> Path:
    path = folder / "good.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=80, count=3, dtype="uint8", crs=UTM, transform=NORTH_UP
    ) as dst:
        dst.write(blobs(80, 90, smooth=15))
    return path


def mapped(scene: Path) -> None:
    pfmap.predict(scene, scene.parent / "out", model=stand_in(), device="cpu")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zipped_scene(folder: Path) -> None:
    """Ten gigabytes of nothing, and then the directory of a scene."""
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, HUGE + 16)
    mapped(archive(folder / "scene.zip", "scene.tif", head, HUGE, b"\x05"))


def zipped_features(path: Path) -> Path:
    return archive(path, f"{path.stem}.geojson", b'{"type": "FeatureCollection", "features": [', HUGE, b"]}")


def zipped_text(folder: Path) -> None:
    """A polygon after ten gigabytes of nothing."""
    pfmap.predict(
        good(folder), folder / "out", model=stand_in(), device="cpu", aoi=zipped_features(folder / "area.zip")
    )


def checkpoint(folder: Path) -> None:
    """A checkpoint with a tensor of ten gigabytes, squeezed."""
    torch.save({"state_dict": {"a": torch.zeros(4)}}, folder / "small.pth")
    with zipfile.ZipFile(folder / "small.pth") as small, zipfile.ZipFile(folder / "best.pth", "w") as big:
        for name in small.namelist():
            content = small.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x04", b"\x8a\x05" + (HUGE // 4).to_bytes(5, "little"))
            if not name.endswith("data/0"):
                big.writestr(name, content)
                continue
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with big.open(entry, "w", force_zip64=True) as file:
                for _ in range(HUGE // PIECE // 4):
                    file.write(bytes(PIECE))
    pfmap.import_checkpoint(folder / "best.pth", preset="isaid", name="bomb")


def weights(folder: Path) -> None:
    """Weights whose header claims a tensor of a terabyte."""
    small_model(folder / "model")
    claims = {"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}
    header = json.dumps(claims).encode()
    (folder / "model/weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    load_model(folder / "model")


def header(folder: Path) -> None:
    """Weights whose header claims to be as large as memory can be."""
    small_model(folder / "model")
    (folder / "model/weights.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    load_model(folder / "model")


BOMBS: dict[str, Callable[[Path], None]] = {
    "tiff of 2^31 x 2^31, one strip": lambda f: mapped(
        written(f / "scene.tif", tiff(2**31 - 1, 2**31 - 1, 2**31 - 1))
    ),
    "tiff of 2^31 x 8 in strips": lambda f: mapped(written(f / "scene.tif", tiff(2**31 - 1, 8, 1))),
    "tiff of 8 x 2^31, one strip": lambda f: mapped(written(f / "scene.tif", tiff(8, 2**31 - 1, 2**31 - 1))),
    "tiff of 200,000 x 200,000, one strip": lambda f: mapped(
        written(f / "scene.tif", tiff(200_000, 200_000, 200_000))
    ),
    "sparse tiff of 1,000,000 x 1,000,000": lambda f: mapped(sparse(f / "scene.tif", 1_000_000, 1_000_000)),
    "png of 2^31 x 2^31": lambda f: mapped(png(f / "scene.png", 2**31 - 1, 2**31 - 1, 1 << 30)),
    "zip of a scene of 10 GB": zipped_scene,
    "zip of 10 GB of text": zipped_text,
    "deep GeoJSON": lambda f: pfmap.predict(
        good(f),
        f / "out",
        model=stand_in(),
        device="cpu",
        aoi=written(f / "area.geojson", b'{"type": "Polygon", "coordinates": ' + b"[" * 5_000_000),
    ),
    "weights of a terabyte": weights,
    "header of an exabyte": header,
    "checkpoint of 10 GB": checkpoint,
    "VRT of 2^31 x 2^31": lambda f: mapped(
        written(
            f / "scene.vrt",
            '<VRTDataset rasterXSize="2147483647" rasterYSize="2147483647">'
            '<VRTRasterBand dataType="Byte" band="1">'
            f"<SimpleSource><SourceFilename>{good(f)}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
            f"</VRTRasterBand></VRTDataset>".encode(),
        )
    ),
    "class raster of 2^31 x 2^31": lambda f: pfmap.vectorize(
        written(f / "classes.tif", tiff(2**31 - 1, 2**31 - 1, 2**31 - 1)), f / "out"
    ),
    "truth of 2^31 x 2^31": lambda f: pfmap.evaluate(
        good_classes(f), written(f / "truth.tif", tiff(2**31 - 1, 2**31 - 1, 2**31 - 1))
    ),
    "objects, zipped, of 10 GB": lambda f: summarize(str(zipped_features(f / "objects.zip"))),
}


def good_classes(folder: Path) -> Path:
    path = folder / "good_classes.tif"
    values = (np.arange(7200).reshape(1, 80, 90) // 1000 % 3).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=80, count=1, dtype="uint8", crs=UTM, transform=NORTH_UP
    ) as dst:
        dst.write(values)
    return path


def main(kind: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (folder / "before").mkdir()
    pfmap.predict(good(folder / "before"), folder / "before/out", model=stand_in(), device="cpu")
    had = resident_memory()
    Path("/proc/self/clear_refs").write_text("5")
    said = "ok"
    try:
        BOMBS[kind](folder)
    except pfmap.PfmapError as error:
        said = f"{type(error).__name__} {error}"
        assert "\n" not in said, said
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
    print(peak - had, said)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
