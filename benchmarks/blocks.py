"""Parts of small suites, as their TOML: what benchmarks and tests put together."""

FGSM = """
[[attacks]]
name = "fgsm"
title = "FGSM"
library = "torchattacks"
attack = "FGSM"
norms = ["Linf"]
"""
PGD_3 = """
[[attacks]]
name = "pgd"
title = "PGD-3"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 3, random_start = true }
times_eps = { alpha = "1/2" }
"""
PGD_L2_3 = """
[[attacks]]
name = "pgd_l2"
title = "PGD-L2-3"
library = "torchattacks"
attack = "PGDL2"
norms = ["L2"]
parameters = { steps = 3, random_start = true }
times_eps = { alpha = "1/2" }
"""
# One detector on FGSM's images, and diagnostics of two samples.
DETECTED = """
[detection]
detectors = ["max_logit"]
natural = 1
attacks = ["fgsm"]
[diagnostics]
samples = 2
"""
AUTOATTACK = """
[[attacks]]
name = "autoattack"
title = "AutoAttack"
library = "autoattack"
attack = "standard"
norms = ["Linf"]
"""
