"""Draw what a model makes of its held-out ground: ordinary windows of each source, and its worst ones.

    python -m examples.make_model_pictures MODEL DATA OUT

MODEL is a model folder with its train.toml, DATA the folder that the configuration's paths are relative to.
Of each source's held-out windows, OUT/ordinary.jpg has the one that agrees with its labels as the median
does, and OUT/failures.jpg the three that agree least. Nobody chose them.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.patches import Patch

from pfmap.mapping.swaths import map_array
from pfmap.model.store import Model, load_model
from pfmap.train.config import read_config
from pfmap.train.data import Source, TrainingData, load_data
from pfmap.train.validate import predictor_of, window_for

SIDE = 384  # pixels of a window
LABELLED = 0.3  # share of a window that has to be labelled
UNKNOWN, LEFT_OPEN = (255, 255, 255), (200, 200, 200)


@dataclass(frozen=True)
class View:
    """One window: its image, its labels in colour, its map in colour, and how far the two agree."""

    title: str
    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    agreement: float


def views(model: Model, source: Source, data: TrainingData) -> Iterator[View]:
    """Map what a source holds out, and cut it into windows."""
    allowed = data.sets.table()
    colors = np.array([spec.rgb for spec in model.card.classes], dtype=np.uint8)
    shown = np.array(
        [
            UNKNOWN if not weight else colors[min(members)] if len(members) == 1 else LEFT_OPEN
            for members, weight, _ in data.sets.entries
        ],
        dtype=np.uint8,
    )
    predictor = predictor_of(model.network, model.card, torch.device("cpu"))
    for sample in source.validation:
        image, labels = sample.cut(0, 0, *sample.shape)
        side, overlap = window_for(sample, model.card.input.window)
        predicted, *_ = map_array(predictor, image, len(colors), side, overlap)
        right = allowed[labels, predicted]
        for top in range(0, max(1, labels.shape[0] - SIDE + 1), SIDE):
            for left in range(0, max(1, labels.shape[1] - SIDE + 1), SIDE):
                at = np.s_[top : top + SIDE, left : left + SIDE]
                told = labels[at] > 0
                if told.mean() < LABELLED:
                    continue
                yield View(
                    f"{source.spec.name}: {sample.scene.path.name}, {top}, {left}",
                    image[:, *at].transpose(1, 2, 0),
                    shown[labels[at]],
                    colors[predicted[at]],
                    float(right[at][told].mean()),
                )


def draw(chosen: list[View], names: dict[str, str], path: Path) -> None:
    """Draw windows in two columns: image, labels, map."""
    down = -(-len(chosen) // 2)
    figure, axes = plt.subplots(
        down, 6, figsize=(15, 2.75 * down), dpi=80, layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for k, view in enumerate(chosen):
        row = axes[k // 2, 3 * (k % 2) : 3 * (k % 2) + 3]
        for axis, pixels in zip(row, (view.image, view.labels, view.classes), strict=True):
            axis.imshow(pixels)
        row[0].set_title(view.title, fontsize=9)
        row[1].set_title("labels", fontsize=9)
        row[2].set_title(f"map: {view.agreement:.0%} agree", fontsize=9)
    handles = [Patch(facecolor=color, label=name.replace("_", " ")) for name, color in names.items()]
    handles.append(Patch(facecolor="#c8c8c8", label="labels leave it open"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, pil_kwargs={"quality": 82})
    plt.close(figure)
    print(f"wrote {path}")


def main(folder: str, data_folder: str, out: str) -> None:
    """Map, choose, draw."""
    model = load_model(folder, device="cpu")
    data = load_data(read_config(Path(folder) / "train.toml"), Path(data_folder))
    ordinary, worst = [], []
    for source in data.sources:
        found = sorted(views(model, source, data), key=lambda view: view.agreement)
        if not found:  # nothing of it is held out
            continue
        ordinary.append(found[len(found) // 2])
        worst += found[:3]
        print(f"{source.spec.name}: {len(found)} windows")
    names = {spec.name: spec.color for spec in model.card.classes}
    draw(ordinary, names, Path(out) / "ordinary.jpg")
    draw(worst, names, Path(out) / "failures.jpg")


if __name__ == "__main__":
    main(*sys.argv[1:])
