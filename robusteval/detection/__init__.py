"""Detectors, and how well they tell inliers from outliers and attacks."""
