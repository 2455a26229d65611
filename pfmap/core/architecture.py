"""The settings that define one PFNet: everything its weights' shapes and arithmetic depend on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pfmap.core.errors import ModelError

Encoder = Literal["resnet50", "resnet101", "efficientnet_lite0"]
Context = Literal["ppm", "aspp", "none"]
Flow = Literal["both", "salient", "boundary", "none"]
SalientPoints = Literal["max_pool", "uniform", "attention"]
EdgeFeatures = Literal["subtraction", "addition", "direct"]
Direction = Literal["top_down", "bottom_up", "both"]

ENCODERS: tuple[str, ...] = get_args(Encoder)

STRIDES = (4, 8, 16, 32)
"""Strides of the pyramid's maps, fine to coarse."""
FLOW_LEVELS = STRIDES[:-1]
"""A level is named by the stride of the finer of the two maps between which it lies."""
WINDOW_MULTIPLE = 32
"""The encoders' output stride: window sides are multiples of it."""
WINDOW_MIN = 64
"""Below this the coarsest map has one row, and resizing with aligned corners is undefined."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "encoder": ENCODERS,
    "context": get_args(Context),
    "flow": get_args(Flow),
    "salient_points": get_args(SalientPoints),
    "edge_features": get_args(EdgeFeatures),
    "direction": get_args(Direction),
}
_COUNTS = ("width", "embedding", "salient_bins", "smooth_bins", "edge_points")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Settings of a PFNet (Li et al., CVPR 2021, section 3; defaults as in its published checkpoints).

    The settings after `edge_points` are those that the paper's ablations vary (its Table 2). They also name
    its neighbours: `flow` none is Semantic FPN, with `context` none or ppm; `context` aspp puts the decoder
    behind DeepLabV3, which is why there is no setting for that.

    Attributes:
        encoder: which encoder feeds the decoder.
        classes: number of output classes, two or more.
        width: channels of the decoder (C).
        embedding: channels of the saliency embedding (D).
        salient_bins: side of the max pool that picks salient points: `salient_bins ** 2` per map.
        smooth_bins: side of the average pool that blurs the saliency before edges are sharpened.
        edge_points: boundary points per map (K).
        context: what tops the encoder: pyramid pooling, DeepLabV3's atrous pooling, or a plain lateral.
        flow: which points semantics flow through; with none, maps are resized and added.
        flow_levels: where PointFlow modules sit, as strides of the finer map of each pair of neighbours;
            at the other levels maps are resized and added. Means nothing where `flow` is none.
        salient_points: which points are salient: the maxima of `salient_bins ** 2` cells, as many points on a
            regular grid, or as many that are the largest of the whole map.
        edge_features: where contours are looked for: in the map less its salient bulk, plus it, or as it is.
        direction: from coarse to fine, from fine to coarse, or first down and then up again.
    """

    encoder: Encoder
    classes: int
    width: int = 256
    embedding: int = 64
    salient_bins: int = 14
    smooth_bins: int = 9
    edge_points: int = 128
    context: Context = "ppm"
    flow: Flow = "both"
    flow_levels: tuple[int, ...] = FLOW_LEVELS
    salient_points: SalientPoints = "max_pool"
    edge_features: EdgeFeatures = "subtraction"
    direction: Direction = "top_down"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ModelError(
                    f"{name} {getattr(self, name)!r} is unknown: use one of {', '.join(choices)}"
                )
        if not 2 <= self.classes <= 255:
            raise ModelError(f"a model has 2 to 255 classes (255 is nodata), not {self.classes}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: it has to be 1 or more")
        levels = self.flow_levels
        if not levels or len(set(levels)) < len(levels) or not set(levels) <= set(FLOW_LEVELS):
            raise ModelError(
                f"flow_levels is {list(levels)}: name one or more of the strides "
                f"{', '.join(map(str, FLOW_LEVELS))}, each once (no flow at all is flow = 'none')"
            )

    def flows_at(self, level: int) -> bool:
        """Say whether a PointFlow module sits at a level."""
        return self.flow != "none" and level in self.flow_levels


def check_window(height: int, width: int) -> None:
    """Refuse a window that the network cannot take.

    Raises:
        ModelError: a side is below 64 pixels or no multiple of 32.
    """
    for side in (height, width):
        if side < WINDOW_MIN or side % WINDOW_MULTIPLE:
            raise ModelError(
                f"window {height} x {width}: both sides have to be multiples of {WINDOW_MULTIPLE}, "
                f"{WINDOW_MIN} or more"
            )
