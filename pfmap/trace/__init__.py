"""From rows of a class raster to regions in pixel coordinates; the home of numba and all compiled loops."""
