"""Facts about a model and the run, as the reports of a survey show them."""

from typing import Any

from pfmap.core.card import Card


def model_facts(card: Card, sha256: str) -> dict[str, Any]:
    """Return what the reports say of a model; `pfmap.report.model_item` describes it to catalogues by these.

    Args:
        card: of the model.
        sha256: of its weights.
    """
    spec = card.input
    return {
        "name": card.name,
        "title": card.title,
        "task": "semantic segmentation",
        "architecture": f"PFNet, {card.architecture.encoder}",
        "framework": "PyTorch",
        "sha256": sha256,
        "window": spec.window,
        "gsd_range_m": list(spec.gsd),
        "bands": list(spec.bands),
        "scale": spec.scale,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "data": card.provenance.data,
        "limits": card.provenance.limits,
        "licence": card.provenance.licence,
        "attribution": card.provenance.attribution,
    }
