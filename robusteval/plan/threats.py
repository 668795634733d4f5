"""Which balls a run is about: those asked for, the suite's own, or the data set's."""

import math

from robusteval.data.datasets import Dataset
from robusteval.errors import ThreatError
from robusteval.plan.suite import Suite
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps


def threats_for(suite: Suite, data: Dataset, eps: list[str]) -> list[ThreatModel]:
    """The threats of each norm that the suite attacks: ``eps`` given by the user, the suite's
    own, or the data set's.

    A user's ε applies to L∞; written ``L2:0.5``, to L2.
    """
    given: dict[Norm, list[str]] = {}
    for text in eps:
        norm, _, value = text.strip().rpartition(":")
        threat = ThreatModel(norm or "Linf", parse_eps(value))  # type: ignore[arg-type]
        given.setdefault(threat.norm, []).append(value)
    if unused := [n for n in given if n not in suite.norms]:
        raise ThreatError(
            f"ε is given for {', '.join(unused)}, which no chosen attack of {suite.name} uses"
        )
    threats = []
    for norm in NORMS:
        if norm in suite.norms:
            default = suite.threats.get(norm, [data.info.threats[norm]])
            radii = given.get(norm, default)
            threats += [ThreatModel(norm, parse_eps(r)) for r in radii]
    for threat in threats:
        _require_fitting(threat, data)
    return list(dict.fromkeys(threats))


def _require_fitting(threat: ThreatModel, data: Dataset) -> None:
    """Raises ThreatError for a ball that holds every image there is."""
    shape = data.info.shape
    diagonal = math.sqrt(shape.channels * shape.height * shape.width)
    if threat.norm == "L2" and threat.radius > diagonal:
        raise ThreatError(
            f"ε {threat.eps_text} in L2 is larger than the diagonal {diagonal:.3g} of "
            f"{data.info.name}'s images: every image is within it, so choose a smaller one"
        )
