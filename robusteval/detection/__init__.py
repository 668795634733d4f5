"""Detectors, and how well they tell inliers from outliers and attacks."""

# The project's own detectors that read no training data; to know them loads none.
UNFITTED = ("max_softmax", "max_logit", "energy", "nearest_prototype")
