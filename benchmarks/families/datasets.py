"""A user's data set: damaged TOML, fields with wrong values, fields that there aren't."""

import random
from collections.abc import Iterator
from dataclasses import replace

import tomlkit

from benchmarks.families.made import Made
from benchmarks.families.tables import damaged, lay_text, names_in, values_in
from benchmarks.trials import REFUSED, Case, Setting, call, nothing

_KIND = "data set"
_REQUIRED = {"name", "title", "shape", "classes", "test_samples", "threats", "Linf", "L2"}
_SOUND = {
    **{"name": "given", "title": "Given", "source": "https://example.org", "license": "CC0"},
    **{"note": "none", "reader": "files", "shape": [1, 8, 8], "classes": 3, "test_samples": 30},
    **{"class_names": ["a", "b", "c"], "folders": ["given"], "torchvision": "MNIST"},
    **{"outliers": ["digits", "photo_crops"], "threats": {"Linf": "0.1", "L2": 0.5}},
}


def files(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each is asked for by its name, where ``$ROBUSTEVAL_DATASETS`` is its folder."""
    cases = [
        *values_in(_SOUND, _KIND, (), ()),
        *names_in(_SOUND, _KIND, (), (), _REQUIRED),
    ]
    for told, content, right in damaged(tomlkit.dumps(_SOUND), rng):
        says = ("given.toml",) if right == REFUSED else ()
        lay = lay_text("given.toml", content)
        cases.append(Case(_KIND, f"{_KIND}: {told}", nothing, lay, right, says))
    act = call(_ask_for_given, Setting(env={"ROBUSTEVAL_DATASETS": "."}))
    yield from (replace(case, act=act) for case in cases)


def _ask_for_given() -> None:
    from robusteval.data.known import DATASETS

    DATASETS.get("given")
