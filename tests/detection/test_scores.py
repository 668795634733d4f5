"""Scores of any type of number, against scikit-learn on float64; what are no scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from robusteval.detection.metrics import bootstrap_intervals, detection_metrics

pytestmark = pytest.mark.usefixtures("as_in_use")

RNG = np.random.default_rng(3)
INSIDE, OUTSIDE = RNG.integers(1, 200, 60), RNG.integers(0, 150, 40)  # bytes, with ties and a zero

FORMS: dict[str, Callable[[Any], Any]] = {
    "uint8": lambda v: v.astype(np.uint8),  # a negated byte wraps around
    "uint64": lambda v: v.astype(np.uint64),
    "int8": lambda v: (v // 2).astype(np.int8),
    "int32": lambda v: v.astype(np.int32),
    "float16": lambda v: v.astype(np.float16),
    "float32": lambda v: v.astype(np.float32),
    "bool": lambda v: v > 90,
    "big endian": lambda v: v.astype(">i4"),
    "list": lambda v: v.tolist(),
    "tuple": tuple,
    "series": pd.Series,
    "tensor": torch.tensor,
    "bytes in a tensor": lambda v: torch.tensor(v, dtype=torch.uint8),
    "bfloat16": lambda v: torch.tensor(v, dtype=torch.bfloat16),
    "with a gradient": lambda v: torch.tensor(v, dtype=torch.float32, requires_grad=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_any_type(form: str) -> None:
    inside, outside = FORMS[form](INSIDE), FORMS[form](OUTSIDE)
    plain = [np.array(getattr(s, "tolist", lambda s=s: s)(), float) for s in (inside, outside)]
    truth, values = np.repeat([1, 0], [60, 40]), np.concatenate(plain)
    found = detection_metrics(inside, outside)
    assert found == detection_metrics(*plain)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert found["aupr_in"] == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    aupr_out = average_precision_score(1 - truth, -values)
    assert found["aupr_out"] == pytest.approx(aupr_out, abs=1e-12)
    assert bootstrap_intervals(inside, outside, seed=0) == bootstrap_intervals(*plain, seed=0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.ones((4, 1)), r"shape \(4, 1\)"),
        (np.ones((1, 4)), r"shape \(1, 4\)"),
        (np.float64(3.0), r"shape \(\)"),
        (torch.ones(3, 2), r"shape \(3, 2\)"),
        (["0.5", "0.25"], "real numbers"),
        ([1j, 2j], "real numbers"),
        (torch.tensor([1j]), "real numbers"),
        ([None, 1.0], "real numbers"),
        ((v for v in (1.0, 2.0)), "real numbers"),
        (np.ma.masked_greater(np.arange(5.0), 3), "masked"),
        ([], "both sides"),
        ([1.0, float("nan")], "finite"),
        (np.array([np.inf, np.nan], np.float16), "finite"),
    ],
)
def test_what_are_no_scores(bad: Any, said: str) -> None:
    for sides in ((bad, [1.0, 2.0]), ([1.0, 2.0], bad)):
        with pytest.raises(ValueError, match=said):
            detection_metrics(*sides)
