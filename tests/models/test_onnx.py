"""ONNX files: the same function as onnxruntime's, with gradients, and nothing in them runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.api import evaluate, verify
from robusteval.errors import EntryError, RobustevalError, WeightsError
from robusteval.models import entry as entries
from robusteval.models.adapter import Adapter
from robusteval.models.entry import read_entry
from robusteval.models.loading import build_network, load_model
from robusteval.vision import make_importable
from tests.helpers.commands import cli, refused
from tests.helpers.foreign import lay_entry, sealed
from tests.helpers.runs import FEW

make_importable()
WHY = "the extra onnx isn't installed"
onnx = pytest.importorskip("onnx", reason=WHY)
onnx2torch = pytest.importorskip("onnx2torch", reason=WHY)
pytest.importorskip("onnxruntime", reason=WHY)

Change = Callable[[Any], object]
WEIGHTS = {
    "kernel": torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(1)),
    "rows": torch.randn(10, 256, generator=torch.Generator().manual_seed(2)) / 10,
    "bias": torch.linspace(-1, 1, 10),
}


def expected(images: Tensor) -> Tensor:
    """The network below, in torch, on images in [0, 1]."""
    tensors = {name: values.to(images.dtype) for name, values in WEIGHTS.items()}
    maps = F.relu(F.conv2d((images - 0.3) / 0.4, tensors["kernel"], padding=1))
    return F.linear(maps.flatten(1), tensors["rows"], tensors["bias"])


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, [output], name=f"{kind}.1", **attributes)


def network(batch: str | int = "batch", opset: int = 17) -> Any:
    """Convolution, ReLU and a linear layer."""
    made = [
        node("Conv", ["images", "kernel"], "maps", pads=[1, 1, 1, 1]),
        node("Relu", ["maps"], "positive"),
        node("Flatten", ["positive"], "flat"),
        node("Gemm", ["flat", "rows", "bias"], "logits", transB=1),
    ]
    graph = onnx.helper.make_graph(
        made,
        "net",
        [onnx.helper.make_tensor_value_info("images", 1, [batch, 1, 8, 8])],
        [onnx.helper.make_tensor_value_info("logits", 1, [batch, 10])],
        [onnx.numpy_helper.from_array(v.numpy(), name) for name, v in WEIGHTS.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )


def lay(folder: Path, model: Any, dataset: str = "digits") -> Path:
    """The file and its entry."""
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return lay_entry(folder, "mine", sealed("onnx", folder / "net.onnx"), dataset)


def load(path: Path) -> Adapter:
    return load_model(read_entry(path))


def test_logits_and_gradients_are_the_networks(tmp_path: Path) -> None:
    model, images = load(lay(tmp_path, network())), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(model(images), expected(images))
    model, images = model.double(), images.double()
    for k in range(3):
        moved = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(moved)[:, k].sum(), moved)
        along, step = torch.randn_like(images), 1e-6
        slope = (expected(images + step * along) - expected(images - step * along))[:, k] / step / 2
        torch.testing.assert_close((gradient * along).sum((1, 2, 3)), slope, atol=1e-6, rtol=1e-6)


def test_a_run_holds_the_version_and_verifies(tmp_path: Path) -> None:
    path = lay(tmp_path, network())
    (tmp_path / "few.toml").write_text(FEW)
    report = evaluate(path, tmp_path / "few.toml", samples=10, only="fgsm", out=tmp_path / "runs")
    about = report.content["model"]
    assert about["reading"] == "onnx"
    assert about["weights_sha256"] == read_entry(path).onnx.sha256  # type: ignore[union-attr]
    assert report.content["provenance"]["versions"]["onnx2torch"]
    assert all(check.held for check in verify(report.folder))


def test_without_a_data_set_the_file_says_the_shape(tmp_path: Path) -> None:
    path = lay(tmp_path, network())
    path.write_text(path.read_text().replace('dataset = "digits"', "classes = 10"))
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(load(path)(images), expected(images))
    (tmp_path / "few.toml").write_text(FEW)
    suite, labels = tmp_path / "few.toml", torch.arange(4)
    report = evaluate(path, images, labels, suite=suite, only="fgsm", out=tmp_path / "runs")
    assert report.content["samples"] == 4
    model = network()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "any"
    path = lay(tmp_path, model)
    path.write_text(path.read_text().replace('dataset = "digits"', "classes = 10"))
    with pytest.raises(WeightsError, match="takes any number of channels: name a dataset"):
        load(path)


def test_the_file_is_in_the_digest(tmp_path: Path) -> None:
    before = read_entry(lay(tmp_path, network())).digest
    model = network()
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.zeros(10, "f4"), "bias"))
    assert read_entry(lay(tmp_path, model)).digest != before


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = lay(tmp_path, network())
    (tmp_path / "net.onnx").write_bytes(b"other")
    with pytest.raises(WeightsError, match="altered"):
        load(path)


def test_a_name_in_the_file_never_runs(tmp_path: Path) -> None:
    """torch.fx writes the names of a graph into Python source."""
    model, planted = network(), tmp_path / "planted"
    name = f'x")(input_1), open("{planted}", "w"), getattr(self, "y'.replace(".", "/")
    model.graph.node[1].name = name
    for value in (model.graph.node[0].output, model.graph.node[1].input):
        value[0] = name
    assert torch.isfinite(load(lay(tmp_path, model))(torch.rand(2, 1, 8, 8))).all()
    assert not planted.exists()
    source = onnx2torch.convert(model).code  # such a name would have run
    assert f'open("{planted}", "w")' in source


def fixed_batch(model: Any) -> None:
    model.CopyFrom(network(batch=1))


def newer_opset(model: Any) -> None:
    model.CopyFrom(network(opset=20))


def custom(model: Any) -> None:
    model.graph.node[1].domain = "com.mine"
    model.opset_import.append(onnx.helper.make_opsetid("com.mine", 1))


def unknown(model: Any) -> None:
    model.graph.node[1].op_type = "NoSuchOperator"


def unconverted(model: Any) -> None:
    model.graph.node[1].op_type = "Hardmax"


def external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def half(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def flat(model: Any) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def larger(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9


def two_outputs(model: Any) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("maps", 1, ["batch", 4, 8, 8]))


def unordered(model: Any) -> None:
    model.graph.node.reverse()


def branching(model: Any) -> None:
    attribute = model.graph.node[1].attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    attribute.g.name = "body"


def functions(model: Any) -> None:
    model.functions.add(name="f", domain="")


def one_image_alone(model: Any) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 256]), "shape"))
    model.graph.node[2].CopyFrom(node("Reshape", ["positive", "shape"], "flat"))


def not_finite(model: Any) -> None:
    values = np.full(10, np.nan, "f4")
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(values, "bias"))


def empty(model: Any) -> None:
    model.Clear()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fixed_batch, "takes 1 images at once: export it with a dynamic batch dimension"),
        (newer_opset, "has opset 20: export it with opset_version=17"),
        (custom, "a custom operator (com.mine.Relu)"),
        (unknown, "no valid ONNX"),
        (unconverted, "can't be converted to torch (NotImplementedError"),
        (external, "another file: export it with external_data=False"),
        (half, "takes float16: export it in float32"),
        (flat, "takes 3 dimensions"),
        (larger, "takes images of 1×8×9, the entry's data set has 1×8×8"),
        (two_outputs, "1 inputs and 2 outputs"),
        (unordered, "no valid ONNX"),
        (branching, "control flow (Relu)"),
        (functions, "functions"),
        (one_image_alone, "doesn't run in onnxruntime"),
        (not_finite, "NaN or infinity"),
        (empty, "no network"),
    ],
)
def test_what_cannot_be_taken_is_told(change: Change, said: str, tmp_path: Path) -> None:
    change(model := network())
    path = lay(tmp_path, model)
    with pytest.raises(WeightsError) as caught:
        load(path)
    told = str(caught.value)
    assert said in told
    assert str(tmp_path / "net.onnx") in told
    assert len(told) < 500


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04", b"\xff" * 100])
def test_other_files_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    path = lay_entry(tmp_path, "mine", sealed("onnx", tmp_path / "net.onnx"))
    with pytest.raises(WeightsError, match=r"net\.onnx"):
        load(path)


def test_another_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were onnx2torch wrong about an operator, its logits would differ."""
    right = onnx2torch.convert

    class Wrong(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.right = right(model)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.right(images)
            return found + 0.01 * found.abs().max()

    monkeypatch.setattr(onnx2torch, "convert", Wrong)
    path = lay(tmp_path, network())
    with pytest.raises(WeightsError, match=r"other logits in torch than in onnxruntime \(by 0.01"):
        load(path)


def test_a_larger_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lay(tmp_path, network())
    monkeypatch.setattr(entries, "_MOST_ONNX", 1000)
    with pytest.raises(WeightsError, match="more than 1,000 bytes"):
        load(path)


@pytest.mark.parametrize("package", ["onnx", "onnx2torch", "onnxruntime"])
def test_without_a_package_the_extra_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lay(tmp_path, network())
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("run", "--model", str(path), "--suite", "quick")
    refused(result, f"needs {package}, which is not installed: pip install 'robusteval[onnx]'")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ('[backbone]\nname = "cnn6"\n', "an [onnx] file"),
        ('[head]\nlayers = ["fc"]\n', "leave [head] and [weights] out"),
        (f'[weights]\nfile = "a.safetensors"\nsha256 = "{"0" * 64}"\n', "leave [head]"),
    ],
)
def test_an_entry_says_one_thing(tables: str, said: str, tmp_path: Path) -> None:
    path = lay(tmp_path, network())
    path.write_text(path.read_text() + tables)
    with pytest.raises(EntryError) as caught:
        read_entry(path)
    assert said in str(caught.value)


def test_it_is_not_trained_here(tmp_path: Path) -> None:
    entry = read_entry(lay(tmp_path, network()))
    with pytest.raises(EntryError, match="of an ONNX file can't be built or trained here"):
        build_network(entry)


def test_its_tensors_are_shown(tmp_path: Path) -> None:
    result = cli("show", str(lay(tmp_path, network())), "--weights")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["bias", "(10)", "float32"] in rows
    assert ["kernel", "(4,", "1,", "3,", "3)", "float32"] in rows


def told_of(path: Path) -> str:
    """What is told of a file; nothing if it is a network."""
    try:
        load(path)
    except RobustevalError as error:
        return str(error)
    return ""


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """Or still a network, where what was changed is a number of it."""
    content, rng = network().SerializeToString(), np.random.default_rng(0)
    for _ in range(40):
        changed = np.frombuffer(content, np.uint8).copy()
        changed[rng.integers(0, 400, 3)] = rng.integers(0, 256, 3)
        (tmp_path / "net.onnx").write_bytes(changed.tobytes())
        path = lay_entry(tmp_path, "mine", sealed("onnx", tmp_path / "net.onnx"))
        assert "\n" not in told_of(path)
