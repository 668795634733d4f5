"""Training: pure losses, one loop, one recipe per method."""
