"""A CRS by its number, or in the form of its latest standard."""

import pyproj

from pfmap.core.errors import SourceError


def crs_code(wkt: str) -> str | None:
    """Return a CRS's number with its authority, such as EPSG:32645, or None where none is certain.

    Raises:
        SourceError: the text is no CRS.
    """
    found = _crs(wkt).to_authority(min_confidence=100)
    return None if found is None else ":".join(found)


def crs_wkt2(wkt: str) -> str:
    """Return a CRS as WKT of the year 2019, whichever WKT it came in.

    Raises:
        SourceError: the text is no CRS.
    """
    return str(_crs(wkt).to_wkt(pyproj.enums.WktVersion.WKT2_2019))


def _crs(wkt: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_wkt(wkt)
    except pyproj.exceptions.CRSError as error:
        raise SourceError(f"{wkt[:80]!r} is no CRS ({error})") from error
