"""Export a model as an ONNX file, with the metadata by which GeoDeep and Deepness run it."""

import json
import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from pfmap.core.card import Card
from pfmap.core.errors import TargetError, UsageError, refuse_without
from pfmap.core.files import draft
from pfmap.model.store import Model
from pfmap.version import __version__


class _Whole(nn.Module):
    """The network with what pfmap does around it: pixel values 0 to 1 in, probabilities out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        spec = model.card.input
        self.network, self.contact = model.network, bool(model.card.architecture.contact)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.network((image - self.mean) / self.std)
        if not self.contact:
            return torch.softmax(logits, dim=1)
        return torch.softmax(logits[:, :-1], dim=1), torch.sigmoid(logits[:, -1:])


def export_onnx(
    model: Model, target: str | os.PathLike[str], *, gsd: float | None = None, overwrite: bool = False
) -> Path:
    """Write a model as an ONNX file that runs without pfmap.

    Its input ``image`` is ``(1, bands, window, window)`` float32, pixel values from 0 to 1; its output
    ``probabilities`` is ``(1, classes, window, window)`` float32. A second one, ``contact``, ``(1, 1, window,
    window)``, is there if the model shows which objects touch. GeoDeep and Deepness take the first one, and
    find in the metadata how to cut and resample a scene; `bands` and `scale` there say what the input is of.

    The `target`, whose path is returned, ends in .onnx. `gsd` is the one resolution for programs that know no
    range, metres per pixel; None is the middle of the model's range (the geometric mean).

    A `UsageError` says that the package onnx is missing, that the name does not end in .onnx, or that `gsd`
    is out of the range; a `TargetError` that the file exists or cannot be written.
    """
    path = Path(target)
    refuse_without("onnx", "onnx", "exporting needs")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} does not end in .onnx: name the file so")
    low, high = model.card.input.gsd
    if gsd is not None and not low <= gsd <= high:
        raise UsageError(f"model {model.card.name!r} knows {low:g} to {high:g} m per pixel, not {gsd:g}")
    if path.exists() and not overwrite:
        raise TargetError(f"{path} exists already: replace it with overwrite=True, or choose another name")
    if not path.parent.is_dir():
        raise TargetError(f"{path.parent} is no folder: make it first")
    import onnx  # an extra: only those who export need it

    with draft(path) as part:
        window = model.card.input.window  # to which all sizes are fixed
        outputs = ["probabilities", *["contact"] * bool(model.card.architecture.contact)]
        with warnings.catch_warnings(), torch.inference_mode():
            # The exporter by tracing is deprecated, and warns of every size that it fixes, as is meant here.
            # Its successor needs more packages and has no operator set 17, the newest that Deepness's runtime
            # knows.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Whole(model).eval(),
                (torch.zeros(1, len(model.card.input.bands), window, window),),
                part,
                input_names=["image"],
                output_names=outputs,
                opset_version=17,
                dynamo=False,
            )
        content = onnx.load(part)
        onnx.helper.set_model_props(content, _metadata(model.card, gsd))
        onnx.checker.check_model(content, full_check=True)
        onnx.save(content, part)
    return path


def _metadata(card: Card, gsd: float | None) -> dict[str, str]:
    """Return what GeoDeep and Deepness read, each as JSON, and where the model comes from."""
    facts = {
        "model_type": "Segmentor",
        "class_names": {str(index): spec.name for index, spec in enumerate(card.classes)},
        "min_area": {spec.name: spec.min_area for spec in card.classes},  # only pfmap knows it
        "resolution": round(100 * (gsd or math.sqrt(math.prod(card.input.gsd))), 4),  # centimetres
        "tiles_size": card.input.window,
        "tiles_overlap": 20,  # percent
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "bands": card.input.bands,  # these two as well
        "scale": [scale for scale, _, _ in card.input.statistics.values()],
        **({"learned": card.learned} if card.learned else {}),
    }
    rights = {
        "name": card.name,
        "attribution": card.provenance.attribution,
        "licence": card.provenance.licence,
        "producer": f"pfmap {__version__}",
    }
    return {key: json.dumps(value) for key, value in facts.items()} | rights
