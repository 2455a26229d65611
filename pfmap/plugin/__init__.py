"""pfmap in QGIS's toolbox: algorithms that run the user's own pfmap as a program.

`pfmap qgis install` copies this folder into a QGIS profile. It runs inside QGIS, with QGIS's own Python,
3.9 or later, and imports nothing of pfmap; nor does pfmap import anything of it.
"""


def classFactory(iface):
    """Return the plugin; QGIS calls this once."""
    from .provider import Plugin

    return Plugin(iface)
