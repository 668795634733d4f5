"""RobustBench: its own ``benchmark`` on our models, and its models here.

What needs it runs in an environment of its own (``make robustbench``); names, messages and the
stand-in for ``autoattack`` are tried everywhere.
"""

import json
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import robusteval
from robusteval import robustbench as importing
from robusteval.errors import AttackError, EntryError, RobustevalError, WeightsError
from robusteval.models import robustbench as bench
from robusteval.models.entry import read_entry
from robusteval.models.entry_tables import CHECKPOINT
from robusteval.models.registry import find_entry
from tests.helpers.commands import cli, refused
from tests.helpers.models import linear_model


def _installed() -> bool:
    try:
        version("robustbench")
    except PackageNotFoundError:
        return False
    return True


needed = [
    pytest.mark.robustbench,
    pytest.mark.skipif(not _installed(), reason="robustbench isn't installed: make robustbench"),
]


def with_robustbench(test: Any) -> Any:
    for mark in needed:
        test = mark(test)
    return test


class Linear:
    """Images of three channels in the middle of their range, a linear model, and the Linf norm
    (B,) at which it breaks, in closed form."""

    def __init__(self, count: int = 24, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn((10, 3 * size * size), generator=generator)
        offset = -weight.sum(1) / 2
        self.model = linear_model(weight, offset)
        self.images = 0.5 + 0.3 * (torch.rand((count, 3, size, size), generator=generator) - 0.5)
        logits = self.images.flatten(1) @ weight.T + offset
        self.labels = logits.argmax(1)
        gaps = logits.gather(1, self.labels[:, None]) - logits
        slopes = (weight[self.labels][:, None] - weight[None]).abs().sum(2)
        self.smallest = (gaps / slopes).scatter(1, self.labels[:, None], torch.inf).amin(1)
        between = self.smallest.sort().values[count // 2 - 1 : count // 2 + 1]
        self.eps = float(between.mean())  # half of them break


# Names


@pytest.mark.parametrize(
    ("text", "dataset", "threat", "name"),
    [
        ("robustbench:Standard", "cifar10", "Linf", "Standard"),
        ("robustbench:L2/Standard", "cifar10", "L2", "Standard"),
        ("robustbench:cifar100/Wang2023Better_WRN-28-10", "cifar100", "Linf", None),
        ("robustbench:imagenet/corruptions/AlexNet", "imagenet", "corruptions", "AlexNet"),
    ],
)
def test_names_are_read(text: str, dataset: str, threat: str, name: str | None) -> None:
    asked = bench.parse(text)
    assert (asked.dataset, asked.threat) == (dataset, threat)
    assert asked.name == (name or "Wang2023Better_WRN-28-10")
    assert bench.parse(f"{bench.PREFIX}{asked.place}") == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("robustbench:", "write robustbench:NAME"),
        ("robustbench:../../x", "unknown '..'"),
        ("robustbench:cifar10/Linf/x/y", "write robustbench:NAME"),
        ("robustbench:cifar10/Linf/..", "write robustbench:NAME"),
        ("robustbench:cifar1/Standard", "did you mean cifar10"),
        ("robustbench:corruption/Standard", "did you mean corruptions"),
        ("robustbench:cifar10/l2/Standard", "did you mean L2"),
        ("robustbench:" + "x" * 48, "write robustbench:NAME"),
    ],
)
def test_what_is_no_name_is_told(text: str, said: str) -> None:
    refused(cli("run", "--model", text, "--suite", "quick"), said)
    with pytest.raises(EntryError, match=said):
        find_entry(text)


# Where it isn't installed, or isn't what it seems


def test_without_it_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(importing, "version", missing)
    told = cli("run", "--model", "robustbench:Standard", "--suite", "quick")
    refused(told, "robustbench:Standard", "robustbench is not installed", "make robustbench")
    with pytest.raises(RobustevalError, match="not installed"):
        importing.robustbench()


class _File:
    """A file of a wheel, as its record has it."""

    name = "eval.py"

    def __init__(self, path: Path, value: str) -> None:
        self.path, self.hash = path, type("Hash", (), {"value": value})

    def locate(self) -> Path:
        return self.path


def test_another_robustbench_in_its_place_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torchattacks' wheel carries one, and whichever is installed last is there."""
    (tmp_path / "eval.py").write_bytes(b"")
    empty = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"  # SHA-256 of nothing, as records have it
    monkeypatch.setattr(importing, "version", lambda name: "1.1.1")
    for value in (empty, empty[::-1]):
        monkeypatch.setattr(
            importing, "files", lambda name, v=value: [_File(tmp_path / "eval.py", v)]
        )
        if value == empty:
            assert importing.robustbench_version() == "1.1.1"
        else:
            with pytest.raises(RobustevalError, match=r"force-reinstall.*robustbench==1\.1\.1"):
                importing.robustbench_version()


def test_only_its_models_may_have_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nmethod = "own"\nclasses = 10\nfactory = "net:make"\n[input]\n'
        f'mean = [0.0]\nstd = [1.0]\n[weights]\nfile = "x.pt"\nsha256 = "{"0" * 64}"\n'
    )
    with pytest.raises(EntryError, match="no pickle is ever loaded"):
        read_entry(tmp_path / "mine.toml")


# The stand-in for autoattack


def test_the_stand_in_is_there_only_while_it_is_needed() -> None:
    if "autoattack" in sys.modules:
        pytest.skip("the authors' own autoattack is installed")
    with importing._autoattack():
        assert import_module("autoattack").AutoAttack is importing.AutoAttack
        assert import_module("autoattack.state").EvaluationState.__module__ == "pyautoattack.state"
    assert not {"autoattack", "autoattack.state"} & set(sys.modules)


def test_the_stand_in_takes_what_robustbench_gives() -> None:
    """``bs`` is ``batch_size``, and images come alone; what breaks is known in closed form."""
    known = Linear(size=4)
    called = importing.AutoAttack(
        known.model, norm="Linf", eps=known.eps, version="standard", device="cpu", log_path=None
    )
    assert called.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    called = importing.AutoAttack(
        known.model, "Linf", known.eps, 0, False, ["apgd-ce"], "custom", device="cpu"
    )
    called.apgd.n_restarts, called.apgd.n_iter = 1, 20
    images = called.run_standard_evaluation(known.images, known.labels, bs=7, state_path=None)
    assert (images - known.images).abs().max() <= known.eps + 1e-6
    fooled = known.model(images).argmax(1) != known.labels
    assert fooled[known.smallest < known.eps / 2].all()
    assert not fooled[known.smallest > known.eps].any()
    assert (known.smallest < known.eps / 2).any()
    found, answers = called.run_standard_evaluation(
        known.images, known.labels, bs=24, return_labels=True
    )
    assert torch.equal(known.model(found).argmax(1), answers)
    alone = called.run_standard_evaluation_individual(known.images, known.labels, bs=24)
    assert {n: x.shape for n, x in alone.items()} == {"apgd-ce": known.images.shape}


@pytest.mark.parametrize("given", [{"is_tf_model": True}, {"log_path": "log.txt"}])
def test_what_the_stand_in_cannot_do_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=f"{next(iter(given))} can't be had"):
        importing.AutoAttack(nn.Identity(), device="cpu", **given)


# With RobustBench itself


@with_robustbench
def test_an_entry_of_ours_runs_in_its_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean and robust accuracy are what a linear model's closed form says."""
    found = importing.robustbench()
    assert "torchattacks" not in str(found.__file__)
    known = Linear(count=12)
    labels = known.labels.clone()
    labels[:2] = (labels[:2] + 1) % 10  # two that are wrong

    def loaded(dataset: Any, count: int, data_dir: str, prepr: Any) -> tuple[Tensor, Tensor]:
        return known.images[:count], labels[:count]

    monkeypatch.setattr(sys.modules["robustbench.eval"], "load_clean_dataset", loaded)
    clean, robust = found.benchmark(
        known.model,
        n_examples=12,
        dataset="cifar10",
        threat_model="Linf",
        eps=known.eps,
        batch_size=12,
    )
    right = torch.arange(12) >= 2
    assert clean == pytest.approx(right.double().mean().item())
    expected = (right & (known.smallest > known.eps)).double().mean().item()
    assert robust == pytest.approx(expected)
    assert 0 < robust < clean


@with_robustbench
def test_a_zoo_entry_runs_in_its_benchmark(
    monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    monkeypatch.setenv("ROBUSTEVAL_DATA", str(shared_data))
    model = robusteval.load_model("ce_cifar10")
    data = robusteval.load_dataset("cifar10").balanced_subset(10)
    images, labels = data.images(), torch.as_tensor(data.labels)
    found = importing.robustbench()
    monkeypatch.setattr(
        sys.modules["robustbench.eval"], "load_clean_dataset", lambda *_: (images, labels)
    )
    clean, robust = found.benchmark(model, n_examples=10, threat_model="Linf", eps=8 / 255)
    right = (model(images).argmax(1) == labels).double().mean().item()
    assert (clean, robust) == (pytest.approx(right), 0)


WRN = "corruptions/Hendrycks2020AugMix_WRN"  # of its zoo the smallest
FGSM = """
name = "fgsm"
attacks = [
    { name = "fgsm", title = "FGSM", library = "torchattacks", attack = "FGSM", norms = ["Linf"] },
]
"""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Untrained: a step of batch norm, so that its statistics aren't where they begin."""
    torch.manual_seed(0)
    made: Any = bench.names_of(bench.parse(f"robustbench:{WRN}"))["Hendrycks2020AugMix_WRN"]
    net: nn.Module = made["model"]()
    net.train()(torch.rand(8, 3, 32, 32))
    return net.eval()


def _put(tensors: Any, end: str, place: str = f"cifar10/{WRN}") -> Path:
    path = Path(f"models/{place}{end}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path) if end == ".safetensors" else torch.save(tensors, path)
    return path


def _wrapped(network: nn.Module) -> dict[str, Any]:
    """As its authors keep it: in a checkpoint, behind DataParallel, without mean and deviation."""
    kept = {n: v for n, v in network.state_dict().items() if n not in ("mu", "sigma")}
    return {"state_dict": {f"module.{n}": v for n, v in kept.items()}, "epoch": 3}


@with_robustbench
@pytest.mark.parametrize("end", [".safetensors", CHECKPOINT])
def test_its_models_with_weights_that_lie_here(
    end: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They compute what RobustBench's own do; a run of one is read and verified."""
    held = network.state_dict() if end == ".safetensors" else _wrapped(network)
    path = _put(held, end)
    images, labels = torch.rand(6, 3, 32, 32), torch.arange(6)
    model = robusteval.load_model(f"robustbench:{WRN}")
    assert torch.allclose(model(images), network(images), atol=1e-5)
    assert model.classes == 10
    Path("fgsm.toml").write_text(FGSM)
    report = robusteval.evaluate(f"robustbench:{WRN}", images, labels, suite="fgsm.toml", eps=0.05)
    assert report.content["model"]["name"] == "robustbench_cifar10_" + WRN.lower().replace("/", "_")
    spec = json.loads((report.folder / "run.json").read_text())["spec"]
    assert spec["versions"]["robustbench"] == version("robustbench")
    checks = robusteval.verify(report.folder, images=images, labels=labels)
    assert [check for check in checks if not check.held] == []
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(WeightsError, match="has no weights: put them at"):
        robusteval.verify(report.folder, images=images, labels=labels)
    monkeypatch.setenv(bench.FOLDER, "there")
    Path("models").rename("there")
    Path("there", *path.parts[1:-1], "elsewhere").rename(Path("there", *path.parts[1:]))
    assert (
        find_entry(f"robustbench:{WRN}").weights_path == Path("there", *path.parts[1:]).absolute()
    )


@with_robustbench
def test_what_lies_there_is_shown(network: nn.Module) -> None:
    path = _put(_wrapped(network), CHECKPOINT)
    shown = cli("show", f"robustbench:{WRN}")
    assert "Hendrycks2020AugMix_WRN.pt" in shown.output
    refused(cli("show", f"robustbench:{WRN}", "--weights"), "a checkpoint of torch")
    path.unlink()
    _put(network.state_dict(), ".safetensors")
    assert "conv1.weight" in cli("show", f"robustbench:{WRN}", "--weights").output


@with_robustbench
def test_as_robustbench_loads_it(network: nn.Module) -> None:
    """Of one checkpoint, RobustBench's own ``load_model`` makes the same function."""
    _put(_wrapped(network), CHECKPOINT)
    images = torch.rand(4, 3, 32, 32)
    theirs = importing.robustbench().load_model(
        "Hendrycks2020AugMix_WRN", model_dir="models", threat_model="corruptions"
    )
    assert torch.equal(theirs(images), robusteval.load_model(f"robustbench:{WRN}")(images))


class _Runs:
    """What a pickle can do where it is believed."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("it_ran"),)


@with_robustbench
def test_checkpoints_that_do_not_fit_are_told(network: nn.Module) -> None:
    def told(content: Any, *said: str) -> None:
        _put(content, CHECKPOINT)
        refused(cli("run", "--model", f"robustbench:{WRN}", "--suite", "quick"), *said)

    told({"state_dict": _Runs()}, "can't be read without running its code", "safetensors")
    assert not Path("it_ran").exists()
    told([1, 2], "hold no state dict")
    told({"weight": torch.zeros(3)}, "don't fit", "lacking")
    state = {n: v.clone() for n, v in network.state_dict().items()}
    told({**state, "extra": torch.zeros(2)}, "1 of", "unknown: extra (2,)")
    state["conv1.weight"][:] = torch.nan
    told(state, "NaN or infinity in conv1.weight")
    Path(f"models/cifar10/{WRN}.pt").write_bytes(b"no checkpoint")
    refused(cli("run", "--model", f"robustbench:{WRN}", "--suite", "quick"), "can't be read")


@with_robustbench
def test_names_it_has_not_and_weights_that_are_not_here() -> None:
    def told(name: str, *said: str) -> None:
        refused(cli("run", "--model", f"robustbench:{name}", "--suite", "quick"), *said)

    told("corruptions/Hendrycks2020AugMix_WNR", "did you mean Hendrycks2020AugMix_WRN")
    told("Standard", "has no weights", "models/cifar10/Linf/Standard.safetensors", bench.FOLDER)
    _put({}, ".pt_m0.pt", "cifar10/Linf/Chen2020Adversarial")
    told("Chen2020Adversarial", "is an ensemble in several files", "state dict")
    _put({}, CHECKPOINT, "cifar10/Linf/Nobody2020")
    told("Nobody2020", "RobustBench has no model 'Nobody2020'")
    _put({"x": torch.zeros(1)}, ".safetensors", "imagenet/Linf/Standard_R50")
    told("imagenet/Standard_R50", "no data set")


@with_robustbench
def test_every_name_of_its_zoo_is_one_of_ours() -> None:
    names = set()
    for dataset in bench.CLASSES:
        for threat in bench.THREATS:
            asked = [bench.Asked(dataset, threat, n) for n in ("x",)]
            for name in bench.names_of(asked[0]):
                one = bench.parse(f"robustbench:{dataset}/{threat}/{name}")
                names.add(bench._plain(one))
    assert len(names) > 200
    assert all(len(name) <= 80 for name in names)


@with_robustbench
def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of RobustBench's models begin with another library's weights."""
    importing.robustbench()
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    _put({"x": torch.zeros(1)}, ".safetensors", "imagenet/Linf/Standard_R50")
    with pytest.raises(EntryError, match="with another library's weights"):
        robusteval.load_model("robustbench:imagenet/Standard_R50")
    _put({"x": torch.zeros(1)}, ".safetensors", "cifar10/Linf/Debenedetti2022Light_XCiT-S12")
    with pytest.raises(WeightsError, match="don't fit"):
        robusteval.load_model("robustbench:Debenedetti2022Light_XCiT-S12")
