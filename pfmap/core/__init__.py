"""What every room builds on: grids, classes, cards, files, threads and errors; no heavy library."""
