"""QGIS styles (`.qml`) and the colours of the classes, as text."""

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from pfmap.classes import ClassSpec

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def class_raster_qml(classes: Sequence[ClassSpec]) -> str:
    """Style a class raster: paletted, one named entry per class."""
    entries = "\n".join(
        f'<paletteEntry value="{i}" color="{c.color}" label={quoteattr(c.name)} alpha="255"/>'
        for i, c in enumerate(classes)
    )
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="AllStyleCategories"><pipe>\n'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        f"<colorPalette>\n{entries}\n</colorPalette></rasterrenderer>\n"
        "</pipe><blendMode>0</blendMode></qgis>\n"
    )


def confidence_raster_qml() -> str:
    """Style a confidence raster: 0 to 100 percent, dark to bright."""
    stops = ((0, "#440154"), (25, "#3b528b"), (50, "#21918c"), (75, "#5ec962"), (100, "#fde725"))
    items = "\n".join(
        f'<item value="{value}" color="{color}" label="{value} %" alpha="255"/>' for value, color in stops
    )
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="AllStyleCategories"><pipe>\n'
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" nodataColor="" '
        'classificationMin="0" classificationMax="100"><rastershader>\n'
        '<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" '
        f'minimumValue="0" maximumValue="100">\n{items}\n'
        "</colorrampshader></rastershader></rasterrenderer>\n"
        "</pipe><blendMode>0</blendMode></qgis>\n"
    )


def objects_qml(classes: Sequence[ClassSpec], attribute: str = "class") -> str:
    """Style polygons by class: translucent fill, solid outline, one named entry per class."""
    categories = "\n".join(
        f'<category symbol="{i}" value={quoteattr(c.name)} label={quoteattr(c.name)} type="string" '
        'render="true"/>'
        for i, c in enumerate(classes)
    )
    symbols = "\n".join(_fill_symbol(i, c) for i, c in enumerate(classes))
    return (
        f'{_HEAD}<qgis version="3.22" styleCategories="Symbology">\n'
        f'<renderer-v2 type="categorizedSymbol" attr={quoteattr(attribute)} symbollevels="0" '
        'enableorderby="0" forceraster="0">\n'
        f"<categories>\n{categories}\n</categories>\n<symbols>\n{symbols}\n</symbols>\n</renderer-v2>\n"
        "<blendMode>0</blendMode><featureBlendMode>0</featureBlendMode>"
        "<layerGeometryType>2</layerGeometryType></qgis>\n"
    )


def _fill_symbol(index: int, spec: ClassSpec) -> str:
    red, green, blue = spec.rgb
    options = {
        "color": f"{red},{green},{blue},110",
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
        "style": "solid",
    }
    body = "".join(
        f'<Option name="{name}" value="{value}" type="QString"/>' for name, value in options.items()
    )
    return (
        f'<symbol name="{index}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{body}</Option>'
        "</layer></symbol>"
    )
