"""pfmap: map huge orthophotos with PFNet.

The public API, imported on first use, so that ``import pfmap`` costs nothing::

    import pfmap

    result = pfmap.predict("scene.tif", output_dir="maps")
    survey = pfmap.batch("survey", output_dir="maps")
    model = pfmap.load_model("landcover")
    pfmap.import_checkpoint("best.pth", preset="isaid", name="isaid")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pfmap.core.errors import PfmapError
from pfmap.version import __version__

if TYPE_CHECKING:
    from pfmap.evaluation.prediction import evaluate
    from pfmap.mapping.polygonize import vectorize
    from pfmap.model.download import import_model
    from pfmap.model.store import load_model
    from pfmap.model.upstream import import_checkpoint
    from pfmap.survey.campaign import SurveyResult
    from pfmap.survey.run import SheetResult
    from pfmap.survey.scenes import batch, predict_all
    from pfmap.survey.single import inspect, predict
    from pfmap.train.evaluate_model import evaluate_model

__all__ = [
    "PfmapError",
    "SheetResult",
    "SurveyResult",
    "__version__",
    "batch",
    "evaluate",
    "evaluate_model",
    "import_checkpoint",
    "import_model",
    "inspect",
    "load_model",
    "predict",
    "predict_all",
    "vectorize",
]

_HOMES = {
    "predict": "pfmap.survey.single",
    "predict_all": "pfmap.survey.scenes",
    "batch": "pfmap.survey.scenes",
    "SheetResult": "pfmap.survey.run",
    "SurveyResult": "pfmap.survey.campaign",
    "inspect": "pfmap.survey.single",
    "load_model": "pfmap.model.store",
    "evaluate": "pfmap.evaluation.prediction",
    "evaluate_model": "pfmap.train.evaluate_model",
    "vectorize": "pfmap.mapping.polygonize",
    "import_checkpoint": "pfmap.model.upstream",
    "import_model": "pfmap.model.download",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pfmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
