"""What a newcomer types first: `show --weights`, `init` and `doctor`."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robusteval import doctor
from robusteval.models.entry import read_entry
from robusteval.models.loading import build_network, load_model, stored_form
from robusteval.models.registry import find_entry
from tests.helpers.commands import cli, refused
from tests.helpers.entries import with_weights
from tests.helpers.models import file_of
from tests.helpers.runs import FEW

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""

PROTOTYPE_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        self.head = nn.Linear(width, 10)
        self.prototypes = nn.Parameter(torch.randn(10, 2, width))

    def forward(self, images):
        return self.head(self.body(images))

def build(width):
    return Net(width)
"""


def test_help_has_a_whole_sentence_for_each_command() -> None:
    told = cli("--help").stdout
    commands = told[told.index("Commands:") :].splitlines()[1:]
    assert len(commands) == 17
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


# show --weights


def test_weights_are_shown_as_they_are() -> None:
    found = json.loads(cli("show", "pcl_digits", "--weights", "--json").stdout)
    tensors = load_file(file_of("pcl_digits.safetensors"))
    kinds = {torch.float16: "float16", torch.float32: "float32", torch.int64: "int64"}
    assert {t["name"]: (t["shape"], t["type"]) for t in found["tensors"]} == {
        name: (list(values.shape), kinds[values.dtype]) for name, values in tensors.items()
    }
    assert found["numbers"] == sum(values.numel() for values in tensors.values())
    entry = find_entry("pcl_digits")
    assert entry.weights is not None
    assert found["sha256"] == entry.weights.sha256


def test_they_are_lines_in_a_terminal() -> None:
    lines = cli("show", "pcl_digits", "--weights").stdout.splitlines()
    assert "classifier.weight          (10, 32)        float16" in lines
    assert lines[-1].startswith(f"{len(lines) - 1} tensors, 79,970 numbers, in ")


def test_of_every_type(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    kinds = ["bool", "uint8", "int8", "int16", "int64", "bfloat16", "float16", "float64"]
    weights = tmp_path / "tiny.safetensors"
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    save_file({kind: torch.zeros((), dtype=getattr(torch, kind)) for kind in kinds}, weights)
    after = hashlib.sha256(weights.read_bytes()).hexdigest()
    refused(cli("show", str(path), "--weights"), "are altered", str(weights))
    path.write_text(path.read_text().replace(before, after))
    shown = json.loads(cli("show", str(path), "--weights", "--json").stdout)["tensors"]
    assert shown == [{"name": kind, "shape": [], "type": kind} for kind in sorted(kinds)]


def test_showing_loads_no_torch() -> None:
    code = (
        "import sys\nfrom robusteval.cli import app\n"
        "try:\n    app(['show', 'pcl_digits', '--weights'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "prototypes.fc2" in done.stdout


def test_what_is_no_weights_file_is_told(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    weights = tmp_path / "tiny.safetensors"
    before = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(b"\xff" * 100)
    after = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(path.read_text().replace(before, after))
    refused(cli("show", str(path), "--weights"), "not a safetensors file")
    refused(cli("show", "pcl_cifar10_resnet110", "--weights"), "no weights (untrained)")


# init


def uncommented(text: str, *tables: str) -> str:
    """An entry whose tables of these names are no comments any more."""
    lines, within = [], False
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        if bare.startswith("["):
            within = bare.partition("]")[0].strip("[") in tables
        lines.append(bare if within else line)
    return "\n".join(lines)


def run_few(path: Path, folder: Path, *more: str) -> None:
    """Runs one attack on ten samples to the end."""
    (folder / "few.toml").write_text(FEW)
    asked = ["--suite", str(folder / "few.toml"), "--samples", "10", "--only", "fgsm"]
    result = cli("run", "--model", str(path), *asked, *more)
    assert result.exit_code == 0, result.stderr
    assert "report.html" in result.stdout


def test_a_factorys_entry_runs_once_it_is_filled_in(tmp_path: Path) -> None:
    result = cli("init", "mine", "--dataset", "digits")
    assert result.exit_code == 0, result.stderr
    entry = read_entry(tmp_path / "mine.toml")
    assert entry.factory == "mine_net:build"
    for said in ("mine.toml is written", "mine_net.py", "--allow-code", "[weights]"):
        assert said in result.stdout
    assert result.stdout.splitlines()[-1].startswith("  4. once it has its weights: robusteval run")
    (tmp_path / "mine_net.py").write_text(NET)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(net.state_dict(), tmp_path / "mine.safetensors")
    digest = hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    text = uncommented(entry.path.read_text(), "weights").replace("…", digest)
    entry.path.write_text(text)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(load_model(read_entry(entry.path), allow_code=True)(images), net(images))
    run_few(entry.path, tmp_path, "--allow-code")


def test_its_prototypes_and_options_once_they_are_filled_in(tmp_path: Path) -> None:
    assert cli("init", "mine", "--dataset", "digits").exit_code == 0
    (tmp_path / "mine_net.py").write_text(PROTOTYPE_NET)
    path = tmp_path / "mine.toml"
    path.write_text(uncommented(path.read_text(), "factory_options", "prototypes"))
    adapter = load_model(read_entry(path), allow_code=True)
    assert adapter.distances(torch.rand(3, 1, 8, 8)).shape == (3, 10, 2)


def test_an_entry_for_data_of_ones_own(tmp_path: Path) -> None:
    made = cli("init", "mine", "--classes", "10", "--backbone", "cnn6")
    assert "--data FOLDER" in made.stdout
    entry = read_entry(tmp_path / "mine.toml")
    assert (entry.dataset, entry.classes) == ("", 10)
    save_file(stored_form(build_network(entry)), tmp_path / "w.safetensors")
    path, asked = tmp_path / "other.toml", ["--weights", str(tmp_path / "w.safetensors")]
    assert cli("init", "other", "--classes", "10", "--backbone", "cnn6", *asked).exit_code == 0
    np.savez(tmp_path / "d.npz", images=np.zeros((12, 8, 8), "u1"), labels=np.arange(12) % 10)
    run_few(path, tmp_path, "--data", str(tmp_path / "d.npz"))


def test_an_entry_with_weights_runs_as_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    assert cli("init", "tiny", "--dataset", "digits", "--backbone", "cnn6").exit_code == 0
    network = build_network(read_entry(tmp_path / "tiny.toml"))
    save_file(stored_form(network), folder / "tiny.safetensors")
    made = cli(
        "init", "other", "--dataset", "digits", "--backbone", "cnn6",
        "--weights", str(folder / "tiny.safetensors"),
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    path = folder / "other.toml"  # beside its weights
    assert str(path) in made.stdout
    run_few(path, tmp_path)


@pytest.mark.parametrize("name", ["cnn6", "lenet", "resnet18", "resnet110", "resnet_small"])
def test_every_comment_can_be_a_field(name: str, tmp_path: Path) -> None:
    assert cli("init", "mine", "--dataset", "mnist", "--backbone", name).exit_code == 0
    path = tmp_path / "mine.toml"
    text = uncommented(path.read_text(), "backbone", "head", "training", "claims")
    path.write_text(text.replace("# classes", "classes"))
    entry = read_entry(path)
    assert entry.training is not None
    assert entry.claims
    assert entry.head.reading == "nearest_prototype"
    assert list(build_network(entry).prototypes) == entry.head.layers


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["A b"], "name 'A b' takes a-z"),
        (["../mine"], "name '../mine' takes a-z"),
        (["mine", "--dataset", "digit"], "did you mean digits"),
        (["mine", "--backbone", "resnet19"], "did you mean resnet18"),
        (["mine", "--backbone", "torchvision:resnet19"], "did you mean torchvision:resnet18"),
        (["mine", "--factory", "module"], "give module:function"),
        (["mine", "--factory", "a:b", "--backbone", "cnn6"], "--factory and --backbone"),
        (["mine", "--classes", "1"], "classes must be 2 or more"),
        (["mine", "--weights", "w.pt"], "no pickle is ever loaded"),
        (["mine", "--weights", "w.safetensors"], "w.safetensors can't be read"),
        (["mine", "--onnx", "w.onnx"], "w.onnx can't be read"),
        (["mine", "--onnx", "w.pt"], "is not an ONNX file: name one that ends in .onnx"),
        (["mine", "--onnx", "a.onnx", "--weights", "w.safetensors"], "leave one out"),
    ],
)
def test_what_cannot_be_begun_is_told(arguments: list[str], said: str, tmp_path: Path) -> None:
    refused(cli("init", *arguments), said)
    assert list(tmp_path.glob("*.toml")) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    refused(cli("init", "mine"), "mine.toml is there already")
    assert (tmp_path / "mine.toml").read_text() == "mine"


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    weights = tmp_path / 'a"\\ü.safetensors'
    save_file({"a": torch.zeros(1)}, weights)
    result = cli("init", "mine", "--weights", str(weights), "--factory", 'a"\\b:c')
    assert result.exit_code == 0, result.stderr
    entry = read_entry(tmp_path / "mine.toml")
    assert entry.weights is not None
    assert (entry.weights.file, entry.factory) == (weights.name, 'a"\\b:c')


# doctor


def test_the_doctor_tells_what_is_here(
    tmp_path: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"attacks": {"lost": "no_such_module:attack"}}
    install("robusteval-lost", "1.0", points, {})
    folder = tmp_path / "models"
    folder.mkdir()
    with_weights(folder)
    (folder / "broken.toml").write_text("name = 3\n")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(folder))
    result = cli("doctor", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    packages = {row["name"]: row for row in found["packages"]}
    assert packages["torch"]["imports"]
    assert packages["torch"]["version"] == torch.__version__
    sets = {row["name"]: row for row in found["datasets"]["sets"]}
    assert sets["digits"]["place"] == "scikit-learn"
    assert sets["cifar10"]["place"] is None
    assert found["models"]["folders"] == [str(folder)]
    assert any("broken.toml" in problem for problem in found["models"]["problems"])
    (lost,) = [row for row in found["plugins"] if row["name"] == "lost"]
    assert "robusteval-lost" in lost["problem"]
    assert found["device"]["threads"] == torch.get_num_threads()
    assert found["forms"]["cpu"].keys() == {"libraries", "gradients"}


def test_the_doctor_speaks_in_lines(
    monkeypatch: pytest.MonkeyPatch, shared_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_required", lambda: iter([("numpy", ""), ("no-such", "timm")]))
    result = cli("doctor", "--data-dir", str(shared_data))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("  numpy ") for line in lines)
    assert "  no-such (extra timm): not installed: pip install 'robusteval[timm]'" in lines
    assert f"  mnist: train, test ({shared_data / 'mnist'})" in lines
    assert any("  cpu: " in line for line in lines)
    assert any("a small residual network on cpu: libraries by " in line for line in lines)


def test_a_package_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise SystemExit('gone')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    row = doctor._package("broken-one", "")
    assert (row["imports"], row["problem"]) == (False, "can't be imported (SystemExit: gone)")


def test_a_folder_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTEVAL_DATA", "/no/such")
    found = doctor.datasets(None)
    assert "/no/such" in found["problem"]
    assert found["sets"] == []
