"""How a scene's values become what the network sees, where the scene or the model decide it."""

from pfmap.core.card import Card
from pfmap.core.errors import EmptyError
from pfmap.raster.sampling import Sample
from pfmap.raster.scaling import EIGHT_BIT, Scaling
from pfmap.raster.scene import SceneInfo

_LOW, _HIGH = 2.0, 98.0


def known_scaling(scene: SceneInfo, card: Card, given: tuple[float, float] | None) -> Scaling | None:
    """Return the scaling, unless it has to be taken from the scene's own values.

    Args:
        scene: what the scene is.
        card: of the model.
        given: by the user.
    """
    if given is not None:
        return Scaling(*given, "--scale")
    if scene.palette:
        return EIGHT_BIT
    if scene.dtype == "uint8" or card.input.scale != 255:
        return Scaling(0.0, card.input.scale, "model card")
    return None


def sampled_scaling(sample: Sample, scene: SceneInfo) -> Scaling:
    """Stretch between two percentiles of the scene's values.

    Raises:
        EmptyError: the scene has no valid pixel.
    """
    ends = sample.percentiles(_LOW, _HIGH)
    if ends is None:
        raise EmptyError(no_valid_pixel(scene))
    low, high = ends
    return Scaling(low, high if high > low else low + 1, f"percentiles {_LOW:g} and {_HIGH:g} of the scene")


def no_valid_pixel(scene: SceneInfo) -> str:
    """Say that there is nothing to map."""
    return (
        f"{scene.name} has no valid pixel: everything is nodata, masked or outside the area; check its alpha "
        "band, mask and nodata value with gdalinfo"
    )
