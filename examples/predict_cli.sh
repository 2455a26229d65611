#!/usr/bin/env bash
# Map an orthophoto from the command line: buildings of 10 m2 and more as a shapefile, and the rasters.
set -euo pipefail
scene=${1:-examples/banepa.tif}
out=${2:-out/cli}

pfmap models info landcover
pfmap predict "$scene" -o "$out" --classes building --min-area 10 --format shp --format gpkg --overwrite
ls "$out"
