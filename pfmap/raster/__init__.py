"""Everything that touches pixels on disk; rasterio's only home."""
