"""What a model loses on a place that it did not learn from: leave each place out of a short training in turn.

    python -m examples.leave_out DATA OUT --places dubai zanzibar,nairobi flair

The default model's recipe, from an ImageNet encoder, once with all sources and once without each of the
places, which are sources of `models/landcover/train.toml`, some several. What each then holds out is mapped,
and the table has mean IoU, the share of pixels that are right, and the expected calibration error. Every
finished run is kept, so that the command can be stopped and called again. With `torchrun --nproc-per-node 2`
in place of `python` two processes share a training, the next one at each call.
"""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from examples.ablation.run import train_missing
from pfmap.evaluation.figures import Evaluation
from pfmap.train.config import TrainingConfig, read_config
from pfmap.train.evaluate_model import evaluate_model

CONFIG = Path(__file__).parents[1] / "models" / "landcover" / "train.toml"


def without(config: TrainingConfig, place: Sequence[str], steps: int, encoder: str) -> TrainingConfig:
    """Return the configuration of one run: the crops of a place that is left out are made of the others."""
    training = dataclasses.replace(
        config.training,
        steps=steps,
        encoder_weights=encoder,
        encoder_rate=3e-4,
        decoder_rate=1e-3,
        validations=1,
    )
    kept = [source for source in config.sources if source.name not in place]
    for index in range(sum(source.per_batch for source in config.sources if source.name in place)):
        at = index % len(kept)
        kept[at] = dataclasses.replace(kept[at], per_batch=kept[at].per_batch + 1)
    return dataclasses.replace(config, training=training, sources=tuple(kept))


def figures_of(folder: Path, config: Path, data: Path) -> dict[str, Evaluation]:
    """Measure a trained network on what every source holds out."""
    return {source.name: source.figures for source in evaluate_model(folder, config, data).sources}


def row(name: str, known: Evaluation, unknown: Evaluation) -> str:
    """Return one place's line of the table."""
    cells = [name]
    for one in (known, unknown):
        error = f"{one.calibration.error:.3f}" if one.calibration else "-"
        cells += [f"{one.mean.iou:.3f}", f"{one.accuracy:.3f}", error]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--places", nargs="+", default=["dubai", "zanzibar,nairobi", "flair"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--encoder", default="../weights/efficientnet-lite0-57934424.pth")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    for place in ("", *options.places):
        chosen = without(config, place.split(","), options.steps, options.encoder)
        if train_missing(chosen, options.data, options.out / (place or "all")) is not None:
            print(f"{place or 'nothing'} left out: trained", flush=True)
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # what has met once is not to meet again
                return
    known = figures_of(options.out / "all", options.config, options.data)
    print("| left out | learned: mean IoU | right | ECE | left out: mean IoU | right | ECE |")
    print("|---" * 7 + "|")
    for place in options.places:
        unknown = figures_of(options.out / place, options.config, options.data)
        for name in place.split(","):
            if name in known:
                print(row(name, known[name], unknown[name]))


if __name__ == "__main__":
    main()
