"""From rows of a class raster to regions in pixel coordinates; the only home of numba."""
