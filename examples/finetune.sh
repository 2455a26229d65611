#!/usr/bin/env bash
# Fine-tune the default model on your own ground: an orthophoto, and the buildings on it drawn as polygons.
# About 20 minutes on two CPU cores. Blocks of 384 pixels are held out, 40 % of the ground: `pfmap evaluate` measures
# both models on them, before and after. Measured so: building IoU 0.730 before, 0.744 after; F1 of their boundaries
# within 3 pixels 0.427 and 0.458. The default model has not seen this part of the town, but the part beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/banepa_buildings}
steps=${2:-350}

pfmap train examples/banepa.tif --labels examples/banepa_footprints.gpkg --validation 0.4 --steps "$steps" \
    --attribution "OpenStreetMap contributors (ODbL)" -o "$out"

echo "before:"
pfmap evaluate --model landcover --data "$out/train.toml"
echo "after:"
pfmap evaluate --model "$out" --data "$out/train.toml"
