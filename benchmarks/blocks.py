"""Attacks of small suites, as their TOML: what benchmarks and tests put together."""

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
AUTOATTACK = """
[[attacks]]
name = "autoattack"
title = "AutoAttack"
library = "autoattack"
attack = "standard"
norms = ["Linf"]
"""
