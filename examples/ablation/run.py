"""Test the paper's claim: does PointFlow beat a plain FPN on small objects and boundaries?

Four networks that differ in nothing but what flows between the levels of the pyramid, on several data sets,
with several seeds each; one recipe, one budget. Every finished run is kept, so that the command can be
stopped and called again:

    python -m examples.ablation.run DATA OUT --threads 1

DATA holds vaihingen/, dubai/ and newzealand/ and the ImageNet encoder, as in `models/landcover/train.toml`.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import torch

from pfmap.model.store import CARD_NAME
from pfmap.train.config import TrainingConfig, read_config
from pfmap.train.loop import CHECKPOINT_NAME, train
from pfmap.train.validate import Validation

HERE = Path(__file__).parent
VARIANTS = ("none", "salient", "boundary", "both")
SEEDS = (0, 1, 2)


def variant(config: TrainingConfig, flow: str, seed: int) -> TrainingConfig:
    """Return the configuration of one run."""
    architecture = dataclasses.replace(config.card.architecture, flow=flow)  # type: ignore[arg-type]
    return dataclasses.replace(
        config,
        card=dataclasses.replace(config.card, architecture=architecture),
        training=dataclasses.replace(config.training, seed=seed),
    )


def train_missing(config: TrainingConfig, data: Path, folder: Path, device: str = "cpu") -> Validation | None:
    """Train what is not there yet, from where it was stopped; None if it is there."""
    if (folder / CARD_NAME).is_file():
        return None
    return train(config, data, folder, device=device, resume=(folder / CHECKPOINT_NAME).is_file())


def main() -> None:
    """Train what is missing; seeds outside, so that every stop leaves comparable runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="*", default=[p.stem for p in sorted(HERE.glob("*.toml"))])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in SEEDS:
        for name in options.sets:
            config = read_config(HERE / f"{name}.toml")
            for flow in VARIANTS:
                folder = options.out / f"{name}-{flow}-{seed}"
                started = time.monotonic()
                figures = train_missing(variant(config, flow, seed), options.data, folder, options.device)
                if figures is None:
                    continue
                scores = ", ".join(f"{source} {figure.mean_iou:.4f}" for source, figure in figures.items())
                print(f"{folder.name}: {scores} ({time.monotonic() - started:.0f} s)")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
