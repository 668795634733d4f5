"""Which packages and which code a suite's attacks and detectors are made of."""

from importlib.metadata import version

from robusteval.attacks.code import code_of_module
from robusteval.attacks.record import Attack
from robusteval.attacks.registry import code_of, find
from robusteval.detection import registry as detection
from robusteval.models.entry import Entry
from robusteval.plan.suite import Suite

ATTACKERS = "attacks on detectors"


def library_versions(suite: Suite) -> dict[str, str]:
    """Versions of the packages whose attacks and detectors run, and of our own."""
    packages = {a.library.package: a.library.version for a in records_of(suite)}
    detectors = [detection.find(name) for name in suite.detection.detectors]
    packages |= {detector.package: detector.package_version for detector in detectors}
    packages |= {name: version(name) for name in ("robusteval", "torch")}
    return dict(sorted(packages.items()))


def model_versions(*entries: Entry | None) -> dict[str, str]:
    """Versions of the packages that give entries' networks their architecture, or convert them."""
    packages = set()
    for entry in entries:
        if entry is not None and entry.backbone is not None and ":" in entry.backbone.name:
            packages.add(entry.backbone.name.partition(":")[0])
        if entry is not None and entry.onnx is not None:
            packages.add("onnx2torch")
    return {package: version(package) for package in sorted(packages)}


def code_digests(suite: Suite) -> dict[str, str]:
    """Digests of the code that computes each attack of a suite, by its key, each detector, by
    ``detector.<name>``, and attacks on detectors, by ``ATTACKERS``.

    A suite without detectors has the digests that it had before detectors were among them.
    """
    attacks = {attack.key: code_of(attack) for attack in records_of(suite)}
    names = suite.detection.detectors
    found = attacks | {f"detector.{n}": detection.code_of(detection.find(n)) for n in names}
    if suite.detection.attackers.detectors:
        found[ATTACKERS] = code_of_module("robusteval.attacks.evasion")
    return found


def records_of(suite: Suite) -> list[Attack]:
    """The records of a suite's attacks, each once, in its order."""
    return list({(a.library, a.attack): find(a.library, a.attack) for a in suite.attacks}.values())
