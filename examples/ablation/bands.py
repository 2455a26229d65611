"""What more bands are worth: Vaihingen's chips seen in one, two and three of their bands.

    python -m examples.ablation.bands DATA OUT --threads 1

Red; red and green; near infrared, red and green: three networks by the recipe of `vaihingen.toml` that differ
in nothing but their bands. The table has the IoU of every class and their mean. Every finished run is kept,
so that the command can be stopped and called again.
"""

import argparse
import dataclasses
from pathlib import Path

import torch

from examples.ablation.run import HERE, train_missing
from pfmap.model.store import load_model
from pfmap.train.config import TrainingConfig, read_config

CHOICES = ("red",), ("red", "green"), ("nir", "red", "green")


def seeing(config: TrainingConfig, bands: tuple[str, ...], seed: int) -> TrainingConfig:
    """Return the configuration of one run, which sees some of the bands."""
    card = config.card
    count, numbers = len(bands), tuple(card.input.bands.index(name) + 1 for name in bands)
    seen = dataclasses.replace(
        card.input, bands=bands, mean=card.input.mean[:count], std=card.input.std[:count]
    )
    return dataclasses.replace(
        config,
        card=dataclasses.replace(
            card, input=seen, architecture=dataclasses.replace(card.architecture, bands=count)
        ),
        training=dataclasses.replace(config.training, seed=seed),
        sources=tuple(dataclasses.replace(source, bands=numbers) for source in config.sources),
    )


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = read_config(HERE / "vaihingen.toml")
    names = [spec.name for spec in config.card.classes]
    print(f"| bands | seed | {' | '.join(names)} | mean |")
    print("|---" * (3 + len(names)) + "|")
    for seed in options.seeds:
        for bands in CHOICES:
            folder = options.out / f"{'-'.join(bands)}-{seed}"
            train_missing(seeing(config, bands, seed), options.data, folder)
            found = load_model(str(folder)).card.accuracy
            cells = [f"{found[f'vaihingen_{name}_iou']:.3f}" for name in (*names, "mean")]
            print(f"| {', '.join(bands)} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
