#!/usr/bin/env bash
# Correct a map and train on: map, list the objects most worth a look, correct them, go on training, map again.
# examples/play_reviewer.py plays the person: it takes the corrections from footprints. Both maps are compared with
# these at the end, also where nobody looked. Seven minutes on two busy cores of an EPYC; docs/training.md has the figures.
set -euo pipefail
cd "$(dirname "$0")/.."
scene=${1:-examples/banepa.tif}
out=${2:-out/review}
steps=${3:-40}
count=${4:-240}
truth=examples/banepa_footprints.gpkg
stem=$(basename "${scene%.*}")

pfmap predict "$scene" -m landcover -o "$out/before" --overwrite -q
pfmap review "$out/before/${stem}_objects.gpkg" -o "$out/review.gpkg" --count "$count" --overwrite
python -m examples.play_reviewer "$out/review.gpkg" "$out/before/${stem}_objects.gpkg" "$truth" "$out/elsewhere.gpkg"
pfmap train "$scene" --labels "$out/review.gpkg" --from landcover --steps "$steps" -o "$out/model" --overwrite \
    --attribution "OpenStreetMap contributors (ODbL)"
pfmap predict "$scene" -m "$out/model" -o "$out/after" --overwrite -q

for map in before after; do
    echo "$map, all of the scene:"
    pfmap evaluate "$out/$map/${stem}_classes.tif" "$truth" --only building --objects building
    echo "$map, where nobody looked:"
    pfmap evaluate "$out/$map/${stem}_classes.tif" "$out/elsewhere.gpkg" --only building --objects building \
        --ignore checked
done
