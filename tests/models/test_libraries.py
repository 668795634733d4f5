"""Architectures of timm and torchvision by name: the library's own function, and no code."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robusteval.api import evaluate, verify
from robusteval.errors import EntryError, UnknownNameError, WeightsError
from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.entry import read_entry
from robusteval.models.loading import build_network, load_model, stored_form
from robusteval.vision import make_importable, torchvision
from tests.helpers.commands import cli, refused
from tests.helpers.entries import FACTORY
from tests.helpers.foreign import lay_entry, lay_weights
from tests.helpers.runs import FEW

SMALL = [4, 4, 8, 8]  # widths of a ResNet-18's stages, so that it is made at once
TIMM = f'[backbone]\nname = "timm:resnet18"\nchannels = {SMALL}\n'
NEAREST = '[head]\nreading = "nearest_prototype"\nlayers = ["features"]\nprototypes_per_class = 2\n'


@pytest.fixture
def timm() -> Any:
    make_importable()
    return pytest.importorskip("timm", reason="the extra timm isn't installed")


def net_of(timm: Any, **how: Any) -> nn.Module:
    net: nn.Module = timm.create_model("resnet18", in_chans=1, channels=SMALL, **how)
    for module in net.modules():  # as if it were trained: no block is switched off
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net.eval()


def images() -> Tensor:
    return torch.rand(5, 1, 8, 8)


def normalised(images: Tensor) -> Tensor:
    return (images - 0.3) / 0.4


def test_its_own_classifier_gives_logits(timm: Any, tmp_path: Path) -> None:
    net = net_of(timm, num_classes=10)
    path = lay_entry(tmp_path, "mine", TIMM + lay_weights(tmp_path, "mine", net.state_dict()))
    model = load_model(read_entry(path))
    shown = images()
    assert torch.equal(model(shown), net(normalised(shown)))
    assert not model.layers


@pytest.mark.parametrize("start", ["backbone.", "backbone.net."])
def test_prototypes_stand_beside_its_features(timm: Any, tmp_path: Path, start: str) -> None:
    net, prototypes = net_of(timm, num_classes=0), torch.randn(10, 2, 8)
    state = {f"{start}{name}": values for name, values in net.state_dict().items()}
    state["prototypes.features"] = prototypes
    path = lay_entry(tmp_path, "mine", TIMM + NEAREST + lay_weights(tmp_path, "mine", state))
    model = load_model(read_entry(path))
    assert isinstance(model, PrototypeAdapter)
    assert model.layers == ("features",)
    features = net(normalised(shown := images()))
    squared = (features[:, None, None] - prototypes).square().sum(3)  # (B, K, M)
    torch.testing.assert_close(model.embed(shown), features)
    torch.testing.assert_close(model.distances(shown), squared)
    torch.testing.assert_close(model(shown), -squared.amin(2))


def test_torchvision_gives_the_same(tmp_path: Path) -> None:
    net = torchvision().models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=10).eval()
    backbone = '[backbone]\nname = "torchvision:shufflenet_v2_x0_5"\n'
    state, shown = net.state_dict(), torch.rand(2, 3, 32, 32)
    path = lay_entry(tmp_path, "own", backbone + lay_weights(tmp_path, "own", state), "cifar10")
    assert torch.equal(load_model(read_entry(path))(shown), net(normalised(shown)))

    classifier = net.fc
    net.fc = nn.Identity()
    state = {f"backbone.{name}": values for name, values in net.state_dict().items()}
    state |= {"classifier.weight": classifier.weight.data, "classifier.bias": classifier.bias.data}
    state["prototypes.features"] = torch.zeros(10, 1, 1024)
    head = '[head]\nlayers = ["features"]\n'
    tables = backbone + head + lay_weights(tmp_path, "both", state)
    model = load_model(read_entry(lay_entry(tmp_path, "both", tables, "cifar10")))
    features = net(normalised(shown))
    torch.testing.assert_close(model(shown), classifier(features))
    torch.testing.assert_close(model.distances(shown)[:, 3, 0], features.square().sum(1))


def test_what_is_trained_here_is_read_again(timm: Any, tmp_path: Path) -> None:
    path = lay_entry(tmp_path, "mine", TIMM + NEAREST)
    network = build_network(read_entry(path)).eval()
    stored = stored_form(network)
    path.write_text(path.read_text() + lay_weights(tmp_path, "mine", stored))
    network.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)
    shown = images()
    assert torch.equal(load_model(read_entry(path))(shown), network(shown))


def test_its_own_classifier_is_not_trained_here(tmp_path: Path) -> None:
    entry = read_entry(lay_entry(tmp_path, "mine", TIMM))
    with pytest.raises(EntryError, match=r'layers = \["features"\]'):
        build_network(entry)


def test_a_run_holds_the_version_and_verifies(timm: Any, tmp_path: Path) -> None:
    net = net_of(timm, num_classes=10)
    path = lay_entry(tmp_path, "mine", TIMM + lay_weights(tmp_path, "mine", net.state_dict()))
    (tmp_path / "few.toml").write_text(FEW)
    report = evaluate(path, tmp_path / "few.toml", samples=10, only="fgsm", out=tmp_path / "runs")
    assert report.content["model"]["reading"] == "softmax"
    assert report.content["provenance"]["versions"]["timm"] == timm.__version__
    assert all(check.held for check in verify(report.folder))


def test_nothing_is_fetched(timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    build_network(read_entry(lay_entry(tmp_path, "mine", TIMM + NEAREST)))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pretrained = true", "pretrained can't be set"),
        ('checkpoint_path = "x.pth"', "checkpoint_path can't be set"),
        ('pretrained_cfg = "x"', "pretrained_cfg can't be set"),
        ("features_only = true", "features_only can't be set"),
        ("num_classes = 7", "num_classes follows from"),
        ("in_chans = 3", "in_chans follows from"),
        ("block_args = {a = 1}", "block_args"),
        ('act_layer = "a/b"', "act_layer = 'a/b'"),
        ("layers = [1000000]", "a number up to 4096"),
        ("no_such = 1", "no_such"),
        ("channels = 3", "can't be built from"),
    ],
)
def test_options_are_the_architectures_own(
    timm: Any, option: str, said: str, tmp_path: Path
) -> None:
    path = lay_entry(tmp_path, "mine", f'[backbone]\nname = "timm:resnet18"\n{option}\n{NEAREST}')
    with pytest.raises(EntryError) as caught:
        build_network(read_entry(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet81", "did you mean timm:resnet18"),
        ("timm:resnet18.a1_in1k", "timm:resnet18"),
        ("timm:hf-hub:timm/resnet18", "has no classifier"),
        ("torchvision:resnet19", "did you mean torchvision:resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "has no classifier"),
        ("tim:resnet18", "unknown library 'tim': did you mean timm?"),
        ("timm:", "has no classifier ''"),
    ],
)
def test_near_names_are_told(timm: Any, name: str, said: str, tmp_path: Path) -> None:
    path = lay_entry(tmp_path, "mine", f'[backbone]\nname = "{name}"\n{NEAREST}')
    with pytest.raises(UnknownNameError) as caught:
        build_network(read_entry(path))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dataset", "said"),
    [
        ("torchvision:resnet18", "digits", "images of three channels, not 1"),
        ("torchvision:squeezenet1_0", "cifar10", "no linear classifier"),
    ],
)
def test_what_an_architecture_lacks(name: str, dataset: str, said: str, tmp_path: Path) -> None:
    path = lay_entry(tmp_path, "mine", f'[backbone]\nname = "{name}"\n{NEAREST}', dataset)
    with pytest.raises(EntryError, match=said):
        build_network(read_entry(path))


def test_weights_that_do_not_fit_are_told(timm: Any, tmp_path: Path) -> None:
    state = net_of(timm, num_classes=9).state_dict()
    path = lay_entry(tmp_path, "mine", TIMM + lay_weights(tmp_path, "mine", state))
    with pytest.raises(WeightsError, match=r"of another shape: fc.bias is \(9,\), not \(10,\)"):
        load_model(read_entry(path))


def test_without_timm_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    net = nn.Linear(2, 2)
    path = lay_entry(tmp_path, "mine", TIMM + lay_weights(tmp_path, "mine", net.state_dict()))
    result = cli("run", "--model", str(path), "--suite", "quick")
    refused(result, "timm, which is not installed: pip install 'robusteval[timm]'")


def test_a_factory_may_import_them(timm: Any, tmp_path: Path) -> None:
    """In a process that has not imported torchvision before, as a user's has not."""
    (tmp_path / "makers.py").write_text(
        "import torchvision, timm\nfrom torch import nn\nmake = nn.Flatten\n"
    )
    (tmp_path / "mine.toml").write_text(FACTORY.replace("torch.nn:Flatten", "makers:make"))
    code = (
        "from robusteval.models.entry import read_entry\n"
        "from robusteval.models.loading import load_model\n"
        "import sys, pathlib\nassert 'torchvision' not in sys.modules\n"
        "print(load_model(read_entry(pathlib.Path('mine.toml')), allow_code=True).classes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["64"], done.stderr


def test_a_foreign_error_is_one_line(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(timm, "create_model", broken)
    entry = read_entry(lay_entry(tmp_path, "mine", TIMM + NEAREST))
    with pytest.raises(EntryError, match="RuntimeError: first") as caught:
        build_network(entry)
    assert "second" not in str(caught.value)
