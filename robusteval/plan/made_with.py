"""Which packages and which code a suite's attacks and detectors are made of."""

from importlib.metadata import version

from robusteval.attacks.record import Attack
from robusteval.attacks.registry import code_of, find
from robusteval.plan.suite import Suite


def library_versions(suite: Suite) -> dict[str, str]:
    """Versions of the packages whose attacks and detectors run, and of our own."""
    packages = {a.library.package: a.library.version for a in records_of(suite)}
    if suite.detection.detectors:
        packages["pytorch-ood"] = version("pytorch-ood")
    packages |= {name: version(name) for name in ("robusteval", "torch")}
    return dict(sorted(packages.items()))


def attack_code(suite: Suite) -> dict[str, str]:
    """Digests of the code that computes each attack of a suite, by its key."""
    return {attack.key: code_of(attack) for attack in records_of(suite)}


def records_of(suite: Suite) -> list[Attack]:
    """The records of a suite's attacks, each once, in its order."""
    return list({(a.library, a.attack): find(a.library, a.attack) for a in suite.attacks}.values())
