"""Training: data in memory, augmentation, the loop, and the finished model folder."""
