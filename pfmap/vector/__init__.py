"""Polygons: stitching, measuring, writing; the only home of shapely, geopandas, pyogrio and pyproj."""
