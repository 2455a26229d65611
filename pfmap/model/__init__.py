"""Models: their folders and weights, import and export, and the network on its device."""
