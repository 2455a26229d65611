"""The model of a survey as an item of its STAC catalogue, in the terms of the MLM extension.

Source: https://github.com/stac-extensions/mlm, version 1.4.0.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pystac

from pfmap.report.stac_terms import CLASSIFICATION, MLM, class_list
from pfmap.report.survey_figures import ClassFigures
from pfmap.report.words import fact

ITEM_ID = "model"
"""Of the model in the catalogue."""

_TASK = "semantic-segmentation"


def model_item(
    model: Mapping[str, Any],
    classes: Sequence[ClassFigures],
    when: datetime,
    geometry: dict[str, Any] | None,
    bbox: list[float] | None,
) -> pystac.Item:
    """Describe the model that mapped a survey.

    The weights are no part of a survey's files: the asset that the extension asks for names them by their
    SHA-256 (RFC 6920), which says exactly which ones they are, wherever a copy lies.

    Args:
        model: facts by name, as `model_facts` gives them; what is missing is left out.
        classes: of the survey.
        when: it was used.
        geometry: where it was used.
        bbox: likewise.
    """
    item = pystac.Item(
        id=ITEM_ID,
        geometry=geometry,
        bbox=bbox,
        datetime=when,
        properties=_properties(model, classes),
        stac_extensions=[MLM, CLASSIFICATION],
    )
    item.add_asset(
        "weights",
        pystac.Asset(
            href=_weights_name(str(model.get("sha256", ""))),
            title=f"Weights of {model.get('name', 'the model')}, named by their SHA-256",
            description="The survey does not carry the weights: pfmap models list shows those at hand.",
            media_type="application/octet-stream; application=pytorch",
            roles=["mlm:model", "mlm:weights"],
            extra_fields={
                "mlm:artifact_type": "safetensors",
                "bands": [{"name": name} for name in item.properties["mlm:input"][0]["bands"]],
            },
        ),
    )
    return item


def _properties(model: Mapping[str, Any], classes: Sequence[ClassFigures]) -> dict[str, Any]:
    bands = [str(name) for name in model.get("bands", ("red", "green", "blue"))]
    side = int(model.get("window", -1))
    order = ["batch", "channel", "height", "width"]
    found: dict[str, Any] = {
        "title": fact(model.get("title", model.get("name", "model"))),
        "description": "The model that mapped the survey. Time and place are those of its use here.",
        "mlm:name": _model_name(str(model.get("name", "model"))),
        "mlm:architecture": str(model.get("architecture", "PFNet")),
        "mlm:tasks": [_TASK],
        "mlm:framework": str(model.get("framework", "PyTorch")),
        "mlm:accelerator": None,
        "mlm:input": [
            {
                "name": "orthophoto",
                "bands": bands,
                "input": {"shape": [-1, len(bands), side, side], "dim_order": order, "data_type": "float32"},
                "value_scaling": _scaling(model, len(bands)),
                "resize_type": None,
                **_range(model),
            }
        ],
        "mlm:output": [
            {
                "name": "logits",
                "tasks": [_TASK],
                "result": {
                    "shape": [-1, len(classes), side, side],
                    "dim_order": order,
                    "data_type": "float32",
                },
                "classification:classes": class_list(classes, raster=False),
            }
        ],
    }
    if model.get("licence"):
        found["license"] = "other"
        found["description"] += f" Licence: {model['licence']}."
    return found


def _scaling(model: Mapping[str, Any], bands: int) -> list[dict[str, Any]] | None:
    """Return how 8-bit values become the network's: one z-score per band, in the values' own units."""
    mean, std = model.get("mean"), model.get("std")
    if not mean or not std or not (len(mean) == len(std) == bands):
        return None
    scale = float(model.get("scale", 255))
    return [
        {"type": "z-score", "mean": m * scale, "stddev": s * scale} for m, s in zip(mean, std, strict=True)
    ]


def _range(model: Mapping[str, Any]) -> dict[str, str]:
    span = model.get("gsd_range_m")
    if not span:
        return {}
    return {"description": f"Orthophotos of {span[0]:g} to {span[1]:g} m per pixel, others brought there."}


def _model_name(name: str) -> str:
    """Return a name as the extension wants it: a letter first, letters and digits at the ends."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("_.-")
    return plain if len(plain) > 2 and plain[0].isalpha() else f"model-{plain or 'x'}"


def _weights_name(sha256: str) -> str:
    try:
        digest = binascii.unhexlify(sha256)
    except (binascii.Error, ValueError):
        digest = b""
    name = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return f"ni:///sha-256;{name}" if len(digest) == 32 else "urn:pfmap:weights:unknown"
