"""Installed packages with entry points, without pip: what pip leaves behind, in a folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

Install = Callable[..., None]

ATTACK = """
from robusteval.attacks.record import ANY_MODEL, BOTH, PLUGIN, Attack


def shift(model, images, labels, threat, *, seed, by=0.5):
    return (images + by * threat.radius).clamp(0, 1)


shift_attack = Attack(
    name="shift",
    library=PLUGIN,
    function=shift,
    norms=BOTH,
    knows_eps=True,
    needs=ANY_MODEL,
    gradients="none",
    by_sample=False,
    passes=lambda given, classes: (5000, 0),
    parameters={},
    defaults=lambda: {"by": 0.5},
    version=1,
)
"""


def lay_package(
    folder: Path,
    package: str,
    version: str,
    points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
) -> None:
    """A package's modules and metadata; ``points``: group → name → value."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    groups = [
        "\n".join([f"[robusteval.{kind}]", *(f"{k} = {v}" for k, v in named.items())])
        for kind, named in points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
