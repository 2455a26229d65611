"""One scene, from opened raster to finished class map and polygons."""
