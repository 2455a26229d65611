"""The settings that define one PFNet: everything its weights' shapes and arithmetic depend on."""

from dataclasses import dataclass
from typing import Literal, get_args

from pfmap.errors import ModelError

Encoder = Literal["resnet50", "resnet101", "efficientnet_lite0"]
ENCODERS: tuple[str, ...] = get_args(Encoder)

WINDOW_MULTIPLE = 32
"""The encoders' output stride: window sides are multiples of it."""
WINDOW_MIN = 64
"""Below this the coarsest map has one row, and resizing with aligned corners is undefined."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Settings of a PFNet (Li et al., CVPR 2021, section 3; defaults as in its published checkpoints).

    Attributes:
        encoder: which encoder feeds the decoder.
        classes: number of output classes, two or more.
        width: channels of the decoder (C).
        embedding: channels of the saliency embedding (D).
        salient_bins: side of the max pool that picks salient points: `salient_bins ** 2` per map.
        smooth_bins: side of the average pool that blurs the saliency before edges are sharpened.
        edge_points: boundary points per map (K).
    """

    encoder: Encoder
    classes: int
    width: int = 256
    embedding: int = 64
    salient_bins: int = 14
    smooth_bins: int = 9
    edge_points: int = 128

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ModelError(f"encoder {self.encoder!r} is unknown: use one of {', '.join(ENCODERS)}")
        if not 2 <= self.classes <= 255:
            raise ModelError(f"a model has 2 to 255 classes (255 is nodata), not {self.classes}")
        for name in ("width", "embedding", "salient_bins", "smooth_bins", "edge_points"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}: it has to be 1 or more")


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
