"""Every diagnostic fires on a model built to trigger it, and not on an honest one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.plan.suite import Suite, read_suite
from robusteval.run.probes import ascend, changes, gradients, kind_of_logits, measure
from robusteval.trust import verdicts as probed
from robusteval.trust.circumstances import accelerated
from robusteval.trust.findings import findings_of
from robusteval.trust.verdicts import Finding
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.attacks import AddAttack
from tests.helpers.commands import cli
from tests.helpers.known import Misleading
from tests.helpers.models import linear_model
from tests.helpers.runs import attack_spec, run_suite, suite_of, unprobed

pytestmark = pytest.mark.slow

LINF = ThreatModel("Linf", parse_eps("0.15"))
Samples = tuple[Tensor, Tensor]


class Around(nn.Module):
    """A model with something done to its images before, or to its logits after."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.model(self.before(images)))


def around(model: Adapter, **changed: Any) -> Adapter:
    return Adapter(Around(model, **changed), 10)


@pytest.fixture(scope="module")
def samples(digits: Dataset, ce_digits: Adapter) -> Samples:
    images, labels = digits.images(), digits.labels
    right = ce_digits(images).argmax(1) == labels
    return images[right][:20], labels[right][:20]


def measured(model: Adapter, samples: Samples, source: Adapter | None = None) -> dict[str, Any]:
    return measure(model, *samples, LINF, 0, source)


def verdicts(model: Adapter, samples: Samples) -> dict[str, str]:
    found = measured(model, samples)
    return {f.check: f.verdict for f in (check(found) for check in probed.PROBES)}


@pytest.mark.parametrize("name", ["ce_digits", "pcl_digits", "pcl_at_digits"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_honest_models_pass_every_probe(name: str, norm: str, digits: Dataset) -> None:
    model = load_model(find_entry(name))
    right = model(digits.images()).argmax(1) == digits.labels
    images, labels = digits.images()[right][:32], digits.labels[right][:32]
    threat = ThreatModel(norm, parse_eps(digits.info.threats[norm]))  # type: ignore[arg-type,index]
    found = measure(model, images, labels, threat, 0, load_model(find_entry("ce_digits")))
    told = [check(found) for check in (*probed.PROBES, probed.transfer)]
    assert [f for f in told if f.verdict != "ok"] == []


def test_a_softmaxed_output(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, after=lambda z: z.softmax(1))
    assert kind_of_logits(model, samples[0])["probabilities"] == 20
    assert verdicts(model, samples)["logits"] == "suspicious"


@pytest.mark.parametrize(
    ("squash", "name", "said"),
    [
        (torch.sigmoid, "sigmoid", "as by a sigmoid"),
        (torch.tanh, "tanh", "as by tanh"),
        (lambda z: 5 * torch.atan(z), "ends", "to the ends of their range"),
    ],
)
def test_squashed_outputs(
    squash: Callable[[Tensor], Tensor], name: str, said: str, ce_digits: Adapter, samples: Samples
) -> None:
    logits = kind_of_logits(around(ce_digits, after=squash), samples[0])
    assert logits["squashed"] == name
    assert kind_of_logits(ce_digits, samples[0])["squashed"] == ""
    found = probed.proper_logits({"samples": 20, "logits": logits})
    assert found.verdict == "suspicious"
    assert said in found.measured
    del logits["squashed"]  # as in runs from before it was looked at
    assert probed.proper_logits({"samples": 20, "logits": logits}).verdict == "ok"


def test_log_probabilities(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, after=lambda z: z.log_softmax(1))
    assert kind_of_logits(model, samples[0])["log_probabilities"] == 20
    found = probed.proper_logits(measured(model, samples))
    assert found.verdict == "suspicious"
    assert "log-probabilities" in found.measured


def test_a_saturated_head(ce_digits: Adapter, samples: Samples) -> None:
    """Logits a hundred times as large: cross-entropy's gradient is zero, the margin's is not."""
    model = around(ce_digits, after=lambda z: 100 * z)
    found = measured(model, samples)
    assert probed.proper_logits(found).verdict == "suspicious"
    assert found["gradients"]["cross-entropy"]["zero"] > 10
    assert found["gradients"]["logit margin"]["zero"] == 0
    told = probed.usable_gradients(found)
    assert told.verdict == "suspicious"
    assert "cross-entropy" in told.measured
    assert probed.breaks_at_last(found).verdict == "ok"  # the margin is not fooled


def test_a_quantised_input(ce_digits: Adapter, samples: Samples) -> None:
    """Rounding has a zero gradient almost everywhere; noise and queries get through."""
    model = around(ce_digits, before=lambda x: (4 * x).round() / 4)
    found = verdicts(model, samples)
    assert found["gradients"] == "broken"
    assert found["unbounded attack"] == "broken"
    assert found["queries"] == "broken"


def test_an_operation_that_stops_the_gradient(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, before=lambda x: x.detach())
    found = measured(model, samples)
    assert all(g["unavailable"] for g in found["gradients"].values())
    told = probed.usable_gradients(found)
    assert told.verdict == "broken"
    assert "BPDA" in told.advice
    source = measured(model, samples, load_model(find_entry("pcl_digits")))
    assert probed.transfer(source).verdict == "broken"


def test_a_gradient_that_points_the_wrong_way(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, before=Misleading.apply)
    found = verdicts(model, samples)
    assert found["gradients"] == "ok"  # there is one, and it lies
    assert found["queries"] == "broken"


def test_noise_that_knows_more_than_the_gradient(ce_digits: Adapter, samples: Samples) -> None:
    """Right on the grid of sixteenths, wrong beside it, and no gradient that would tell."""

    def off_grid(images: Tensor) -> Tensor:
        images = images.detach()
        off = ((16 * images).round() / 16 != images).flatten(1).any(1)
        return torch.where(off.view(-1, 1, 1, 1), 1 - images, images)

    found = verdicts(around(ce_digits, before=off_grid), samples)
    assert found["random noise"] == "broken"


def test_a_gradient_that_is_not_finite(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, before=lambda x: x + 0 * (x - x.detach()).sqrt())
    found = gradients(model, *samples)
    assert found["logit margin"]["non_finite"] == 20
    assert probed.usable_gradients(measured(model, samples)).verdict == "broken"


def test_a_randomised_layer(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, before=lambda x: x + 0.1 * torch.randn_like(x))
    assert changes(model, samples[0])["between_passes"] > 0.01
    told = probed.same_outputs(measured(model, samples))
    assert told.verdict == "broken"
    assert "EOT" in told.advice


def test_a_layer_that_reads_its_batch(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, after=lambda z: z - z.mean(0))
    told = probed.same_outputs(measured(model, samples))
    assert told.verdict == "broken"
    assert "batch" in told.advice


def test_outputs_that_jump_under_noise(ce_digits: Adapter, samples: Samples) -> None:
    model = around(ce_digits, after=lambda z: z + 20 * (1e4 * z).sin())
    assert probed.smooth_margin(measured(model, samples)).verdict == "suspicious"


class OfShift(nn.Module):
    """A margin that is a function of the image's mean alone, with a gradient of one's choice.

    Images start at 0.5, so that what is left of the mean is how far an attack has moved them.
    """

    def __init__(
        self,
        margin: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.margin, self.slope = margin, slope

    def forward(self, images: Tensor) -> Tensor:
        shift = images.flatten(1).mean(1) - 0.5
        margin = self.margin(shift)
        if self.slope is not None:  # the value as it is, another gradient
            led = self.slope(shift)
            margin = margin.detach() + led - led.detach()
        return torch.stack([torch.zeros_like(margin), margin, torch.full_like(margin, -9.0)], 1)


def shifted(module: OfShift) -> dict[str, Any]:
    images = torch.full((20, 1, 8, 8), 0.5)
    return measure(Adapter(module, 3), images, torch.zeros(20, dtype=torch.int64), LINF, 0)


def up(shift: Tensor) -> Tensor:
    return shift


def test_a_success_on_the_way_that_the_last_step_loses() -> None:
    """Broken only a little way up: a random start falls in there, the ascent climbs past it."""
    found = shifted(OfShift(lambda s: 1.0 - 2 * ((s < 1e-4) | (s > 0.05)).float(), up))
    assert found["attack"]["silent"] > 4
    assert probed.best_iterate(found).verdict == "suspicious"
    assert probed.best_iterate(shifted(OfShift(lambda s: 9 * (s - 0.1)))).verdict == "ok"


def test_an_ascent_that_is_still_rising() -> None:
    """A ridge inside the ball: steps of a fixed length jump over it, ever closer as they shrink."""
    found = shifted(OfShift(lambda s: -1e-4 - (s - 0.01).abs()))
    assert found["attack"]["unfinished"] > 10
    assert probed.finished_ascent(found).verdict == "suspicious"
    assert probed.finished_ascent(shifted(OfShift(lambda s: s - 1))).verdict == "ok"


def test_steps_that_still_pay() -> None:
    """The ridge again, broken at its top: only the shorter steps of a longer ascent hit that."""
    found = shifted(OfShift(lambda s: 3e-4 - (s - 0.01).abs()))
    told = probed.steps_pay(found)
    assert found["attack"]["twice"] > found["attack"]["many"] + 1
    assert told.verdict == "suspicious"
    assert "more steps" in told.advice


def test_a_single_step_above_many() -> None:
    """Only at the clean image itself does the gradient tell the truth."""

    def slope(shift: Tensor) -> Tensor:
        return torch.where(shift == 0, shift, -shift)

    found = shifted(OfShift(lambda s: 9 * (s - 0.1), slope))
    assert found["attack"]["single_step"] == 20
    assert found["attack"]["many"] == 0
    assert probed.steps_pay(found).verdict == "suspicious"
    assert probed.steps_pay(shifted(OfShift(lambda s: 9 * (s - 0.1)))).verdict == "ok"


def test_success_that_falls_as_eps_grows() -> None:
    """Broken in a band around ε: a larger ball lets the ascent run past it."""
    found = shifted(OfShift(lambda s: 1.0 - 2 * ((s < 0.12) | (s > 0.2)).float(), up))
    assert probed.grows_with_eps(found).verdict == "suspicious"
    assert probed.grows_with_eps(shifted(OfShift(lambda s: 9 * (s - 0.1)))).verdict == "ok"
    assert probed.breaks_at_last(found).verdict == "broken"


def test_images_that_do_not_hold_are_not_proven(digits: Dataset, tmp_path: Path) -> None:
    """A coin for a model: what it counted falls when it is asked again."""
    suite = read_suite("quick").only(["fgsm"])
    torch.manual_seed(0)
    plain = linear_model(torch.zeros(10, 64), torch.zeros(10))
    coin = around(plain, after=lambda z: z + torch.randn_like(z))
    result = run_suite(coin, digits, suite)
    assert result.verification is not None
    assert result.verification["failed"] > 0
    assert verdict_of(result, "stored images").verdict == "broken"
    (tmp_path / "coin_model.py").write_text(
        "import torch\n\nclass Coin(torch.nn.Module):\n"
        "    def forward(self, images):\n        return torch.randn(len(images), 10)\n"
    )
    (tmp_path / "coin.toml").write_text(
        'name = "coin"\nmethod = "coin"\ndataset = "digits"\nfactory = "coin_model:Coin"\n'
        "[input]\nmean = [0.0]\nstd = [1.0]\n"
    )
    told = cli(
        *("run", "--model", str(tmp_path / "coin.toml"), "--suite", "quick", "--allow-code"),
        *("--only", "fgsm", "gaussian_noise"),
    )
    assert told.exit_code == 1
    assert "robusteval: not proven" in told.stderr


def test_an_ascent_on_a_linear_model_is_exact() -> None:
    """L∞: the margin rises by exactly ε‖w₁ − w₀‖₁, and stays there."""
    weight = torch.tensor([[1.0, -2.0, 0.5, 1.0], [0.0, 1.0, 0.5, -1.0]])
    model = linear_model(weight, torch.zeros(2))
    images = torch.full((1, 1, 2, 2), 0.5)
    labels = torch.tensor([0])
    for steps in (1, 20):
        _, trace = ascend(model, images, labels, LINF, steps)
        risen = trace.margins.max() - trace.margins[0]
        assert float(risen) == pytest.approx(0.15 * (1 + 3 + 0 + 2), rel=1e-5)


# From a run's own evidence


def verdict_of(result: Any, check: str) -> Finding:
    return next(f for f in findings_of(result) if f.check.startswith(check))


def test_gradient_free_above_gradient_based(ce_digits: Adapter, digits: Dataset) -> None:
    """The quantised model again, now seen from the suite's own attacks."""
    suite = unprobed("full").only(["square", "pgd10"])
    few = [
        a.model_copy(update={"norms": ["Linf"], "parameters": {**a.parameters, "n_queries": 200}})
        if a.name == "square"
        else a
        for a in suite.attacks
    ]
    suite = suite.model_copy(update={"attacks": few})
    data = digits.balanced_subset(40)
    masked = around(ce_digits, before=lambda x: (4 * x).round() / 4)
    told = verdict_of(run_suite(masked, data, suite), "gradient-free")
    assert told.verdict == "suspicious"
    assert "masked" in told.advice
    assert verdict_of(run_suite(ce_digits, data, suite), "gradient-free").verdict == "ok"


def test_attacks_with_queries_of_their_own_do_not_hide_masking(
    ce_digits: Adapter, digits: Dataset
) -> None:
    """``adaptive`` breaks the quantised model straight through, warns of it, and is no gradient."""
    suite = unprobed("full").only(["square", "pgd10", "adaptive"])
    small = {"square": {"n_queries": 200}, "adaptive": {"passes_per_sample": 60}}
    few = [
        a.model_copy(
            update={"norms": ["Linf"], "parameters": {**a.parameters, **small.get(a.name, {})}}
        )
        for a in suite.attacks
    ]
    suite = suite.model_copy(update={"attacks": few})
    masked = around(ce_digits, before=lambda x: (4 * x).round() / 4)
    result = run_suite(masked, digits.balanced_subset(40), suite)
    assert verdict_of(result, "gradient-free").verdict == "suspicious"
    told = verdict_of(result, "Adaptive (ours)'s checks")
    assert told.verdict == "suspicious"
    assert "100 % of samples have no gradient" in told.measured


def test_autoattacks_checks_and_its_counter(ce_digits: Adapter, digits: Dataset) -> None:
    """A softmaxed model draws the library's warning, and leaves no mark on the next model."""
    suite = read_suite("full").only(["autoattack"])
    suite = suite.model_copy(
        update={"attacks": [suite.attacks[0].model_copy(update={"norms": ["Linf"]})]}
    )
    data = digits.balanced_subset(10)

    class InnerGradient(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = images.detach().clone().requires_grad_()
                torch.autograd.grad(ce_digits(leaf).sum(), leaf)
            return ce_digits(images)

    first = verdict_of(run_suite(Adapter(InnerGradient(), 10), data, suite), "AutoAttack's checks")
    assert first.verdict == "suspicious"
    assert "dynamic defense" in first.measured
    after = verdict_of(run_suite(ce_digits, data, suite), "AutoAttack's checks")
    assert (after.verdict, after.measured) == ("ok", "no warning")
    softmaxed = around(ce_digits, after=lambda z: z.softmax(1))
    told = verdict_of(run_suite(softmaxed, data, suite), "AutoAttack's checks")
    assert "probability" in told.measured


class Remembering(nn.Module):
    """Turns its logits round once it has been asked often enough: state that no digest sees."""

    def __init__(self, model: Adapter, limit: int) -> None:
        super().__init__()
        self.model, self.calls, self.limit = model, 0, limit

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(images)
        return logits if self.calls < self.limit else -logits


def test_clean_predictions_that_differ_after_an_attack(ce_digits: Adapter, digits: Dataset) -> None:
    data, suite = digits.balanced_subset(40), read_suite("quick").only(["fgsm", "pgd10"])
    told = verdict_of(run_suite(Adapter(Remembering(ce_digits, 12), 10), data, suite), "unchanged")
    assert told.verdict == "broken"
    assert "clean predictions differ" in told.measured
    steady = run_suite(Adapter(Remembering(ce_digits, 10**6), 10), data, suite)
    assert verdict_of(steady, "unchanged").verdict == "ok"


class Batchnormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layer(self.norm(images.flatten(1)))
        return out


class PassThrough(nn.Module):
    """A wrapper as people write them: in training mode, around a model in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.model(images)
        return out


def test_torchattacks_mode_trap_and_how_it_is_kept_out(digits: Dataset) -> None:
    """torchattacks gives the outermost module its mode back, and the inner ones with it."""
    images, labels = digits.images()[:20], digits.labels[:20]
    inner = Batchnormed().eval()
    attack = torchattacks.FGSM(PassThrough(inner), eps=0.1)
    attack(images, labels)
    assert inner.training  # the trap
    statistics = inner.norm.running_mean.clone()
    inner(images)
    assert not torch.equal(inner.norm.running_mean, statistics)
    # The same model, wrapped the same way, through the harness.
    result = run_suite(
        Adapter(PassThrough(Batchnormed()), 10),
        digits.balanced_subset(40),
        read_suite("quick").only(["fgsm", "pgd10"]),
    )
    assert verdict_of(result, "unchanged").verdict == "ok"
    assert result.complete


def test_successes_that_storing_undoes(digits: Dataset, add_attack: AddAttack) -> None:
    """A model whose decision hangs on bits below 1/65535."""

    class LastBits(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            off = ((images.double() * 65535) % 1).flatten(1)
            odd = ((off > 0.01) & (off < 0.99)).any(1)
            return torch.stack([odd.float(), 1 - odd.float()], 1)

    pixels = (digits.images()[:20] * 65535).round() / 65535
    data = Dataset(
        digits.info,
        "test",
        pixels,
        torch.ones(20, dtype=torch.int64),
        digits.class_names,
        torch.arange(20),
    )

    def nudge(model: Any, images: Tensor, labels: Tensor, threat: Any, *, seed: int) -> Tensor:
        return (images + 0.4 / 65535).clamp(0, 1)

    add_attack("mine", nudge)
    result = run_suite(Adapter(LastBits(), 2), data, suite_of(attack_spec()))
    assert result.outcomes[0].lost > 10
    assert verdict_of(result, "stored successes").verdict == "suspicious"


def test_probes_are_part_of_a_run(pcl_digits: Adapter, digits: Dataset) -> None:
    suite = read_suite("quick").only(["fgsm"])
    result = run_suite(
        pcl_digits,
        digits.balanced_subset(40),
        suite,
        transfer_source=("ce_digits", find_entry("ce_digits").digest),
    )
    names = {f.check for f in findings_of(result)}
    assert {"gradients", "logits", "same outputs", "random noise", "queries", "transfer"} <= names
    assert result.diagnostics is not None
    assert result.diagnostics["samples"] == 12
    without = suite.model_copy(update={"diagnostics": Suite(name="x").diagnostics})
    assert run_suite(pcl_digits, digits.balanced_subset(40), without).diagnostics is None


def test_a_run_on_an_accelerator_says_that_last_bits_may_differ() -> None:
    told = accelerated("cuda")
    assert "last bit" in told.measured


def test_measurements_repeat(pcl_digits: Adapter, samples: Samples) -> None:
    assert measured(pcl_digits, samples) == measured(pcl_digits, samples)


def test_findings_serialise(pcl_digits: Adapter, digits: Dataset) -> None:
    result = run_suite(pcl_digits, digits.balanced_subset(20), read_suite("quick").only(["fgsm"]))
    for finding in findings_of(result):
        assert finding.to_json()["verdict"] in ("ok", "suspicious", "broken")
        assert json.loads(json.dumps(finding.to_json())) == finding.to_json()
        assert finding.advice or finding.verdict == "ok"
