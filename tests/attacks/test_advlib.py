"""adv-lib's attacks by name, against known smallest perturbations."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from robusteval.attacks import record
from robusteval.attacks.counting import as_counted
from robusteval.attacks.libraries import advlib
from robusteval.attacks.registry import find
from robusteval.attacks.steps import norms
from robusteval.errors import AttackError, UnknownNameError
from robusteval.plan.made_with import library_versions
from robusteval.plan.suite import read_suite
from robusteval.types import Norm
from tests.helpers.attacks import Call
from tests.helpers.known import linear, margins, nearest_prototypes, threat_of


def called(name: str, norm: Norm, **parameters: object) -> Call:
    call = Call("advlib", name, parameters)
    call.check((norm,))
    return call


@pytest.mark.parametrize(
    ("name", "norm", "parameters"),
    [
        ("fmn", "Linf", {"steps": 100}),
        ("fmn", "L2", {"steps": 100}),
        ("ddn", "L2", {"steps": 100, "levels": None}),
        ("sdf", "L2", {}),
        ("df", "Linf", {}),
        ("pdpgd", "Linf", {}),
    ],
)
def test_smallest_perturbations(name: str, norm: Norm, parameters: dict[str, object]) -> None:
    """Of most samples, within 1.3 of the known one in the median, and never below it.

    FMN finds nothing for some, and DDN's last steps stay long: that is how they are.
    """
    pytest.importorskip("adv_lib")
    known = linear(norm, 4)
    call = called(name, norm, **parameters)
    assert not call.record.knows_eps
    counted = as_counted(known.model, known.images)
    found = call(counted, known.images, known.labels, threat_of(norm, 0.01), 0).images
    ratios = known.ratios(found)[margins(known.model, found, known.labels) > -1e-5]
    assert len(ratios) > 40
    assert ratios.median() < 1.3
    assert ratios.min() > 1 - 1e-3
    assert counted.forward_passes.sum() > 0


@pytest.mark.parametrize(("name", "norm"), [("apgd", "L2"), ("apgd_targeted", "Linf")])
def test_attacks_that_are_told_eps(name: str, norm: Norm) -> None:
    pytest.importorskip("adv_lib")
    known = linear(norm, 4)
    radius = float(known.smallest.median())
    call = called(name, norm)
    assert call.record.knows_eps
    counted = as_counted(known.model, known.images)
    found = call(counted, known.images, known.labels, threat_of(norm, radius), 0).images
    assert norms(found - known.images, norm).max() <= radius + 1e-5
    broken = margins(known.model, found, known.labels) > 0
    assert broken[known.smallest < radius / 1.1].all()
    assert not broken[known.smallest > radius * (1 + 1e-5)].any()


def test_what_cannot_run_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adv_lib")
    with pytest.raises(UnknownNameError, match=r"fnm.*fmn"):
        called("fnm", "L2")
    with pytest.raises(AttackError, match="ddn doesn't work in Linf: set its norms to L2"):
        called("ddn", "Linf")
    known = nearest_prototypes(count=4)
    with pytest.raises(AttackError, match=r"ddn: .*stepps.*own parameter names"):
        called("ddn", "L2", stepps=3)(
            as_counted(known.model, known.images),
            known.images,
            known.labels,
            threat_of("L2", 1),
            0,
        )
    monkeypatch.setattr(advlib, "import_module", _missing)
    with pytest.raises(AttackError, match="pip install --no-deps adv-lib"):
        called("ddn", "L2")


def _missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_the_extra_only_a_suite_that_uses_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(package: str) -> str:
        if package == "adv-lib":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(record, "version", absent)
    assert "adv-lib" not in library_versions(read_suite("full"))
    with pytest.raises(AttackError, match="adv-lib is not installed"):
        library_versions(read_suite("minimum_norm"))


def test_parameters_in_the_report_are_plain() -> None:
    pytest.importorskip("adv_lib")
    shown = find("advlib", "alma").all_parameters({"num_steps": 100})
    assert shown["num_steps"] == 100
    assert shown["distance"] == "l2"
    assert not {"callback", "penalty", "targeted"} & set(shown)
    assert all(isinstance(value, int | float | str | None) for value in shown.values())


def test_an_attack_that_works_in_place_leaves_the_callers_images_alone() -> None:
    """Trust Region detaches what it is given, which part of a tensor can't be."""
    pytest.importorskip("adv_lib")
    known = linear("L2", 4)
    images, labels = known.images[:6], known.labels[:6]
    before = images.clone()
    called("tr", "L2")(as_counted(known.model, images), images, labels, threat_of("L2", 1), 0)
    assert torch.equal(images, before)
