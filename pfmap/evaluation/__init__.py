"""A map, or a model, against the truth."""
