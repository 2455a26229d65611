"""From opened model and scene to finished files: weights, windows, blending, the pipeline of one scene."""
