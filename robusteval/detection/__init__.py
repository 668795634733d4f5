"""Detectors, and how well they tell inliers from outliers and attacks."""

# The project's own detectors that read no training data; to know them loads none.
UNFITTED = (
    *("max_softmax", "max_logit", "energy", "entropy", "gen", "scpl_rho", "grad_norm"),
    *("nearest_prototype", "prototype_ratio", "prototype_energy"),
    *("feature_squeezing", "margin_stability"),
)
