"""What mapping a country takes: GPU hours, storage, requests, and where it will be slow first.

    python -m examples.cluster.country --worker 120 --client 10 --workers 16

Put in what you measured: `--worker` is "whole predict" of `pfmap bench` on a worker's GPU or cores, and
`--client` what one machine that runs pfmap predict --cluster keeps up with (see README.md here). Of the
defaults some were measured, on examples/banepa.tif and on two CPU cores, and some are assumptions, marked so.
"""

import argparse
from dataclasses import dataclass

STRIDE, WINDOW = 336, 384  # of the default model: windows overlap by 48
RUN_ROWS = 32  # window rows per run of swaths; the one above it is computed twice


@dataclass(frozen=True)
class Country:
    """What goes in.

    Attributes:
        area: square kilometres.
        gsd: metres per pixel.
        worker: megapixels a second of one worker.
        client: megapixels a second that one client reads back, traces, writes and assembles.
        workers: how many.
        side: pixels along a side of the scenes that the country is cut into.
        scene: bytes of the scenes per pixel.
        outputs: bytes of class raster, confidence and objects per pixel.
        block: pixels along a side of the scenes' own tiles.
    """

    area: float
    gsd: float
    worker: float
    client: float
    workers: int
    side: int
    scene: float
    outputs: tuple[float, float, float]
    block: int


def reckon(c: Country) -> dict[str, float]:
    """Work it out."""
    pixels = c.area * 1e6 / c.gsd**2
    computed = pixels * (1 + 1 / RUN_ROWS)
    scenes = max(1.0, pixels / c.side**2)
    rows = -(-c.side // STRIDE)
    written = pixels * sum(c.outputs)
    clients = c.workers * c.worker / c.client
    return {
        "pixels": pixels,
        "scenes": scenes,
        "worker hours": computed / (c.worker * 1e6) / 3600,
        "days": computed / (c.worker * 1e6) / c.workers / 86400,
        "clients at a time": clients,
        "client hours": pixels / (c.client * 1e6) / 3600,
        "scenes TB": pixels * c.scene / 1e12,
        "outputs TB": written / 1e12,
        "read requests": computed / c.block**2,
        "read MB/s": c.workers * c.worker * c.scene,
        "written MB/s": 2 * c.workers * c.worker * sum(c.outputs[:2]) + c.workers * c.worker * c.outputs[2],
        "Dask tasks": scenes * -(-rows // RUN_ROWS),
        "tasks a second": c.workers * c.worker * 1e6 / (RUN_ROWS * STRIDE * c.side),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--area", type=float, default=500_000, help="km2")
    add("--gsd", type=float, default=0.1, help="metres per pixel")
    add("--worker", type=float, default=120, help="Mpx/s of a worker; the default is an assumption for a GPU")
    add("--client", type=float, default=CLIENT, help="Mpx/s of a client; measured on two CPU cores")
    add("--workers", type=int, default=16)
    add("--side", type=int, default=100_000, help="pixels of a scene along a side")
    add(
        "--scene",
        type=float,
        default=0.41,
        help="bytes per pixel of the scenes; measured on one in JPEG",
    )
    add(
        "--outputs",
        type=float,
        nargs=3,
        default=OUTPUTS,
        help="bytes per pixel: classes, confidence, objects",
    )
    add("--block", type=int, default=512, help="pixels of the scenes' tiles along a side")
    args = vars(parser.parse_args())
    found = reckon(Country(**{**args, "outputs": tuple(args["outputs"])}))
    for name, value in found.items():
        print(f"{name:<20}{value:>20,.0f}" if value >= 100 else f"{name:<20}{value:>20,.2f}")


CLIENT = 10.0
OUTPUTS = (0.06, 0.64, 0.55)  # examples/banepa.tif, 1,150 objects per megapixel

if __name__ == "__main__":
    main()
