"""Train the default model on with what it is itself sure of, where labels leave open what a pixel is.

    torchrun --nproc-per-node 2 -m examples.self_train DATA OUT

This made `landcover` what it is of the weights before, in three steps; each is skipped if what it makes is in
OUT, and processes of `torchrun` do not make labels and train in one call. The model maps the images that it
learns from, over four flipped views, and what at least 85 % of their mean says becomes a label, if the
pixel's own label does not tell one class but allows this one. It trains on with these. Then its weights are
averaged with those it had, and batch norm's statistics are taken anew.
"""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from examples.ablation.run import train_missing
from pfmap.mapping.swaths import map_array
from pfmap.model.store import CARD_NAME, Model, load_model, write_model
from pfmap.net.pfnet import PFNet
from pfmap.train.augment import Batches
from pfmap.train.config import LayerSpec, Names, SourceSpec, TrainingConfig, read_config
from pfmap.train.data import TrainingData, load_data
from pfmap.train.validate import accuracy_table, measure, predictor_of, window_for

CONFIG = Path(__file__).parents[1] / "models" / "landcover" / "train.toml"
OPEN = "banepa", "kampala", "nairobi", "zanzibar", "newzealand"
"""Sources whose labels leave much open."""
EVERY = {"newzealand": 2}
"""Of the images of a source, one in so many."""
PER_BATCH = {"dubai": 3, "banepa": 2, "newzealand": 3, "obx": 2}
UNKNOWN = 255
TEMPERATURE = 1.2
"""With it the expected calibration error is below 0.05 in every source that holds something out."""
WALLS = math.log(0.85 / 0.15) - math.log(0.7 / 0.3)
"""The mean is surer of walls, and cut more houses in two: its 85 % becomes 70, from which on walls count."""


def make_labels(model: Model, data: TrainingData, config: TrainingConfig, out: Path, sure: int) -> None:
    """Write a raster of labels for every image of these sources."""
    predictor = predictor_of(model.network, model.card, torch.device("cpu"))
    table, contacts = data.sets.table(), data.sets.contacts()
    for source in data.sources:
        name = source.spec.name
        (out / name).mkdir(parents=True, exist_ok=True)
        found = {
            sample.scene.path: np.full(
                (sample.scene.geobox.height, sample.scene.geobox.width), UNKNOWN, np.uint8
            )
            for sample in (*source.train, *source.validation)
        }
        for sample in source.train[:: EVERY.get(name, 1)]:
            image, labels = sample.read()
            classes, percent, _ = map_array(
                predictor,
                image,
                len(config.card.classes),
                *window_for(sample, predictor.spec.window),
                "flips",
            )
            told = (table.sum(axis=1) == 1)[labels] | (contacts[labels] == 1)
            seen = sample.scene.seen(image, sample.rows, sample.cols, sample.hidden)
            new = seen & ~told & (percent >= sure) & table[labels, classes]
            view = found[sample.scene.path][
                sample.rows.start : sample.rows.stop, sample.cols.start : sample.cols.stop
            ]
            view[new] = classes[new]
        for path, labels in found.items():
            Image.fromarray(labels).save(out / name / f"{path.stem}.png")
        print(f"{name}: labels of {len(found)} images", flush=True)


def with_labels(source: SourceSpec, config: TrainingConfig, labels: Path) -> SourceSpec:
    """Return a source with the labels that were made over its own, and its share of a batch."""
    source = replace(source, per_batch=PER_BATCH.get(source.name, source.per_batch))
    if not (labels / source.name).is_dir():
        return source
    values = {str(k): Names((spec.name,)) for k, spec in enumerate(config.card.classes)}
    path = str((labels / source.name / "{stem}.png").absolute())
    return replace(source, layers=(*source.layers, LayerSpec(path, values, weight=0.5, apart=True)))


def averaged(before: Model, after: Model, batches: Batches, count: int) -> nn.Module:
    """Return the mean of two networks, with batch norm's statistics of so many batches."""
    old, new = before.network.state_dict(), after.network.state_dict()
    network = before.network
    assert isinstance(network, PFNet)
    mean = {k: (old[k] + new[k]) / 2 if old[k].is_floating_point() else new[k] for k in old}
    if network.contact is not None:
        mean["contact.draw.3.bias"] -= WALLS
    network.load_state_dict(mean)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
        norm.train()
    with torch.no_grad():
        for step in range(count):
            network.compute(batches[step][0].contiguous(memory_format=torch.channels_last))
    return network.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make labels, train, and average."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--model", default="landcover")
    parser.add_argument("--open", nargs="+", default=OPEN)
    parser.add_argument("--steps", type=int, default=460)
    parser.add_argument("--sure", type=int, default=85)
    parser.add_argument("--batches", type=int, default=24)
    options = parser.parse_args(arguments)
    config, labels = read_config(options.config), options.out / "labels"
    leads = os.environ.get("RANK", "0") == "0"
    if not labels.is_dir():
        if leads:
            data = load_data(
                replace(config, sources=tuple(s for s in config.sources if s.name in options.open)),
                options.data,
            )
            make_labels(load_model(options.model), data, config, labels, options.sure)
        if "RANK" in os.environ:
            return  # what has met once is not to meet again: the next call trains
    training = replace(
        config.training, steps=options.steps, start_from=options.model, encoder_weights="",
        encoder_rate=1.2e-4, decoder_rate=4e-4, warmup=30, ema=0.995, seed=41,
    )  # fmt: skip
    sources = tuple(with_labels(source, config, labels) for source in config.sources)
    train_missing(replace(config, training=training, sources=sources), options.data, options.out / "trained")
    if not leads or (options.out / "model" / CARD_NAME).is_file():
        return
    data, before = load_data(config, options.data), load_model(options.model)
    after = load_model(options.out / "trained")
    network = averaged(before, after, Batches(data, config), options.batches)
    figures = measure(network, data, before.card, torch.device("cpu"))
    card = replace(before.card, accuracy=accuracy_table(figures, None), temperature=TEMPERATURE)
    write_model(options.out / "model", card, network)
    print(f"wrote {options.out / 'model'}", flush=True)


if __name__ == "__main__":
    main()
