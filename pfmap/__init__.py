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

from pfmap.errors import PfmapError
from pfmap.version import __version__

if TYPE_CHECKING:
    from pfmap.engine.evaluate import evaluate
    from pfmap.engine.pipeline import inspect, predict
    from pfmap.engine.store import load_model
    from pfmap.engine.upstream import import_checkpoint
    from pfmap.engine.vectorize import vectorize
    from pfmap.survey.batch import batch, predict_all
    from pfmap.survey.run import SheetResult
    from pfmap.survey.survey import SurveyResult
    from pfmap.train.evaluate import evaluate_model

__all__ = [
    "PfmapError",
    "SheetResult",
    "SurveyResult",
    "__version__",
    "batch",
    "evaluate",
    "evaluate_model",
    "import_checkpoint",
    "inspect",
    "load_model",
    "predict",
    "predict_all",
    "vectorize",
]

_HOMES = {
    "predict": "pfmap.engine.pipeline",
    "predict_all": "pfmap.survey.batch",
    "batch": "pfmap.survey.batch",
    "SheetResult": "pfmap.survey.run",
    "SurveyResult": "pfmap.survey.survey",
    "inspect": "pfmap.engine.pipeline",
    "load_model": "pfmap.engine.store",
    "evaluate": "pfmap.engine.evaluate",
    "evaluate_model": "pfmap.train.evaluate",
    "vectorize": "pfmap.engine.vectorize",
    "import_checkpoint": "pfmap.engine.upstream",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pfmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
