"""What a model and a machine do: benchmark, cost of a network, points that PointFlow chooses."""
