"""Pixels on disk, in and out; rasterio's only home.

In: `location` says where a raster is, `gdal` how GDAL is set up and which pixels are valid, `parts` of which
files a raster consists, `scene` what a scene is; `source` reads its pixels, `scaling` makes them 8-bit ones,
`view` gives the windows that the network sees; `classmap` and `align` read rasters of classes. Out: `target`
writes the maps, `mosaic` shows many rasters as one, both by way of `vrt`. Beside that: small pictures
(`preview`), and scenes to measure with (`synthetic`).
"""
