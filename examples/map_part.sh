#!/usr/bin/env bash
# Map a part of an orthophoto: ask what it will take, then map only inside a GeoJSON polygon.
set -euo pipefail
scene=${1:-examples/banepa.tif}
out=${2:-out/part}
area=${3:-examples/banepa_block.geojson}

pfmap info "$scene" -o "$out" --aoi "$area"
pfmap predict "$scene" -o "$out" --aoi "$area" --classes building,road --overwrite
ls "$out"
