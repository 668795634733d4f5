"""Data sets and outlier sets: images as float32 (B, C, H, W) in [0, 1]."""
