"""Measure the networks that `run` trained, and put the figures side by side.

    python -m examples.ablation.table DATA OUT

Adds to `results.csv` what is new (a line per run and data set), and prints two tables: mean and standard
deviation over the seeds, and the differences to the plain network.
"""

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.ablation.run import HERE, SEEDS, VARIANTS
from pfmap.evaluation.metrics import BOUNDARY_DISTANCES
from pfmap.train.evaluate_model import evaluate_model

RESULTS = HERE / "results.csv"
FIGURES = ("mean_iou", *(f"boundary_f1_{distance}px" for distance in BOUNDARY_DISTANCES))
FIELDS = ("config", "source", "flow", "seed", *FIGURES)
TITLES = {
    "none": "Semantic FPN + PPM",
    "salient": "salient flow only",
    "boundary": "boundary flow only",
    "both": "both: PFNet",
}
Row = dict[str, str]


def measure(config: Path, folder: Path, data: Path, flow: str, seed: int, device: str) -> list[Row]:
    """Measure one trained network on every source of its configuration."""
    rows = []
    for source in evaluate_model(folder, config, data, device=device).sources:
        values = [source.figures.mean.iou, *(match.f1 for match in source.figures.boundary)]
        texts = [config.stem, source.name, flow, str(seed), *(f"{value:.4f}" for value in values)]
        rows.append(dict(zip(FIELDS, texts, strict=True)))
    return rows


def summary(rows: list[Row]) -> list[str]:
    """Return two Markdown tables: means over the seeds, and differences to the plain network of a seed.

    Both with standard deviations. Runs of one seed see the same crops in the same order, so their
    differences vary less than the runs do.
    """
    return [
        *_table(rows, VARIANTS, lambda row: [100 * float(row[name]) for name in FIGURES], "{:.1f}"),
        "",
        *_table(rows, VARIANTS[1:], lambda row: _gain(row, rows), "{:+.1f}"),
    ]


def _gain(row: Row, rows: list[Row]) -> list[float]:
    """Return what a run has over the plain network of its seed."""
    same = {(r["source"], r["seed"]): r for r in rows if r["flow"] == VARIANTS[0]}
    plain = same.get((row["source"], row["seed"]))
    return [100 * (float(row[name]) - float(plain[name])) for name in FIGURES] if plain else []


def _table(
    rows: list[Row], flows: Sequence[str], values: Callable[[Row], list[float]], style: str
) -> list[str]:
    lines = [f"| data | network | seeds | {' | '.join(FIGURES)} |", "|---" * (3 + len(FIGURES)) + "|"]
    for source in dict.fromkeys(row["source"] for row in rows):
        for flow in flows:
            found = [values(row) for row in rows if (row["source"], row["flow"]) == (source, flow)]
            mine = [figures for figures in found if figures]
            if mine:
                cells = [_cell(list(column), style) for column in zip(*mine, strict=True)]
                lines.append(f"| {source} | {TITLES[flow]} | {len(mine)} | {' | '.join(cells)} |")
    return lines


def _cell(values: list[float], style: str) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return style.format(statistics.mean(values)) + spread


def write(rows: list[Row]) -> None:
    """Keep the figures so far."""
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure what is new, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    rows: list[Row] = []
    if RESULTS.is_file():
        with RESULTS.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["config"], row["flow"], row["seed"]) for row in rows}
    for config in sorted(HERE.glob("*.toml")):
        for flow in VARIANTS:
            for seed in SEEDS:
                folder = options.out / f"{config.stem}-{flow}-{seed}"
                if (folder / "model.toml").is_file() and (config.stem, flow, str(seed)) not in done:
                    rows += measure(config, folder, options.data, flow, seed, options.device)
                    rows.sort(key=lambda row: (row["source"], VARIANTS.index(row["flow"]), row["seed"]))
                    write(rows)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
