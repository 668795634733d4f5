"""Static transfers: made on one model, counted on another that is never asked before."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robusteval import api
from robusteval.attacks.losses import logit_margin
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError, EvidenceError, SuiteError
from robusteval.evidence.images import decode, encode
from robusteval.evidence.judge import to_8_bits
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Access, Context, open_context
from robusteval.plan.plan import Cell
from robusteval.plan.suite import Suite, read_suite
from robusteval.run import attacking
from robusteval.run.attacking import Chunk, run_elsewhere
from robusteval.trust.repeat import _Again
from robusteval.types import ThreatModel
from tests.helpers.commands import cli, refused
from tests.helpers.runs import attack_spec, options

FGSM = {"library": "torchattacks", "attack": "FGSM"}
THREAT = ThreatModel("Linf", "0.15")  # type: ignore[arg-type]


def fgsm_suite(**tables: Any) -> Suite:
    return Suite(name="s", attacks=[attack_spec("fgsm", **FGSM)], **tables)


class Asked(Adapter):
    """What a model was asked, and from which images gradients were wanted."""

    def __init__(self, model: Adapter) -> None:
        super().__init__(model, model.classes)
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not images.requires_grad
        self.asked.append(images)
        logits: Tensor = self.module(images)
        return logits


def test_the_target_is_asked_about_the_last_images_alone(
    digits: Dataset, pcl_digits: Adapter, ce_digits: Adapter
) -> None:
    images, labels = digits.images(slice(0, 30)), digits.labels[:30]
    spec = attack_spec("fgsm", **FGSM).made_on("ce_digits")
    target = Asked(pcl_digits)
    chunk = Chunk(torch.arange(30), images, labels)
    found = run_elsewhere(ce_digits, target, Cell(spec, (THREAT,), {}), chunk, lambda _: 0)
    leaf = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(ce_digits(leaf), labels)
    (gradient,) = torch.autograd.grad(loss, leaf)
    wanted = (images + 0.15 * gradient.sign()).clamp(0, 1)
    counted = decode(found.stored)
    assert (counted - wanted).abs().max() < 2 / 65535
    margins = logit_margin(pcl_digits(counted), labels)
    assert torch.equal(found.judged.fooled, margins > 0)
    assert found.forward_passes.tolist() == [1.0] * 30  # the source's
    last = [*counted, *to_8_bits(counted)]
    for image in torch.cat(target.asked):
        assert any(torch.equal(image, one) for one in last)
    assert sum(map(len, target.asked)) <= 2 * len(last)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Report:
    out = tmp_path_factory.mktemp("static")
    given = options(out, samples=24, static_sources=("ce_digits",))
    return api.evaluate("pcl_digits", fgsm_suite(), options=given)


def test_a_run_names_its_source_and_is_verified(run: api.Report) -> None:
    rows = {a["name"]: a for a in run.content["attacks"]}
    assert [*rows] == ["fgsm", "static_fgsm_ce_digits"]
    made = rows["static_fgsm_ce_digits"]
    assert (made["source"], made["title"]) == ("ce_digits", "fgsm of ce_digits")
    assert made["robust_accuracy"]["k"] > rows["fgsm"]["robust_accuracy"]["k"]
    checks = {c.name: c for c in api.verify(run.folder, again=5)}
    assert [n for n, c in checks.items() if not c.held] == []
    assert checks["static transfers made again"].told.startswith("2 jobs, 24 of 24 images")
    assert checks["jobs done again"].told.startswith("2 jobs")  # the others


def test_another_source_is_no_source(run: api.Report) -> None:
    _, spec, _ = api.open_store(api.files_of(run.folder))
    changed = spec.from_json({**spec.to_json(), "sources": {"ce_digits": "0" * 64}})
    with pytest.raises(EvidenceError, match="has changed since"):
        open_context(changed, Access("pcl_digits"))


def failed_checks(folder: Path) -> list[str]:
    return [check.name for check in api.verify(folder) if not check.held]


def test_images_of_the_target_itself_are_found(tmp_path: Path) -> None:
    """All of them fool the model, lie in the ball and have their digests: only the source tells."""
    with pytest.MonkeyPatch.context() as patch:
        own = property(lambda context: {"ce_digits": context.model})
        patch.setattr(Context, "static_sources", own)
        given = options(tmp_path, samples=24, static_sources=("ce_digits",))
        forged = api.evaluate("pcl_digits", fgsm_suite(), options=given)
    assert failed_checks(forged.folder) == ["static transfers made again"]


def test_a_single_image_of_another_origin_is_found(tmp_path: Path) -> None:
    plain = attacking.run_job

    def nudged(forms: Any, cell: Cell, chunk: Chunk, *rest: Any) -> Any:
        made = plain(forms, cell, chunk, *rest)
        if cell.spec.source:
            made.stored[0, 0, 0] = encode(chunk.images[:1], chunk.images[:1], "inward")[0, 0, 0]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacking, "run_job", nudged)
        given = options(tmp_path, samples=12, static_sources=("ce_digits",), keep="all")
        forged = api.evaluate("pcl_digits", fgsm_suite(), options=given)
    assert failed_checks(forged.folder) == ["static transfers made again"]


def test_where_most_images_differ_the_machine_is_another() -> None:
    assert _Again("j", 9, 10).is_odd
    assert not _Again("j", 10, 10).is_odd
    assert not _Again("j", 2, 10).is_odd


def test_which_attacks_are_transferred() -> None:
    suite = read_suite("pcl_cifar")
    made = suite.with_static(["ce_cifar10"])
    names = [a.name for a in made.attacks if a.source]
    assert names == [
        f"static_{attack}_ce_cifar10" for attack in ("fgsm", "bim", "cw_0_1", "mim", "pgd10")
    ]
    alone = suite.only(["pgd10"]).with_static(["ce_cifar10", "models/x/VGG-19.toml"])
    names = [a.name for a in alone.attacks]
    assert names == ["pgd10", "static_pgd10_ce_cifar10", "static_pgd10_vgg_19"]
    with pytest.raises(SuiteError, match="stands twice"):
        made.with_static(["ce_cifar10"])
    with pytest.raises(ValueError, match="transferred names pgd, not an attack here"):
        fgsm_suite(transferred=["pgd"])
    with pytest.raises(ValueError, match="transfer asks the attacked model at each step"):
        attack_spec("transfer", parameters={"source": "ce_digits"}, source="ce_digits")


def test_a_source_must_have_what_the_attack_needs(tmp_path: Path) -> None:
    suite = Suite(name="s", attacks=[attack_spec("joint_pc")])
    given = options(tmp_path, static_sources="ce_digits")
    with pytest.raises(AttackError, match="pc_ce_digits can't run on ce_digits: it has no"):
        api.evaluate("pcl_digits", suite, options=given)
    assert not [*tmp_path.iterdir()]


def test_a_matrix_has_white_boxes_on_its_diagonal_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("transfer", "ce_digits", "pcl_digits", "--attack", "fgsm", "--suite", "quick")
    asked = (*asked, "--samples", "20", "--out", str(tmp_path))
    first = cli(*asked)
    assert first.exit_code == 0, first.output
    with (tmp_path / "transfer_fgsm.csv").open() as file:
        rows = {(row["source"], row["target"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    for (source, target), row in rows.items():
        assert row["kind"] == ("white box" if source == target else "static transfer")
    white, black = (rows[s, "pcl_digits"] for s in ("pcl_digits", "ce_digits"))
    assert int(white["robust_samples"]) < int(black["robust_samples"])
    page = (tmp_path / "transfer_fgsm.md").read_text()
    own = rows["ce_digits", "ce_digits"]["accuracy"]
    assert f"| ce_digits | **{own}** | {black['accuracy']} |" in page
    assert page.splitlines()[2:] == first.stdout.splitlines()[2 : len(page.splitlines())]
    done = sorted(path.name for path in tmp_path.iterdir())
    assert len(done) == 6
    shutil.rmtree(tmp_path / next(n for n in done if n.startswith("ce_digits-transfer")))
    assert cli(*asked).stdout == first.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == done


def test_what_makes_no_matrix() -> None:
    refused(cli("transfer", "ce_digits"), "two models or more")
    refused(cli("transfer", "ce_digits", "ce_mnist"), "models of digits, mnist: name those of one")
    refused(cli("transfer", "ce_digits", "pcl_digits", "--attack", "pgd11"), "no attack 'pgd11'")
