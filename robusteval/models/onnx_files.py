"""A network from an ONNX file, as a torch module with gradients.  Imports no torch by itself.

Nothing that a file holds runs as code: it names no operators but ONNX's own, no other file, and no
name of its survives into the module, since torch.fx writes the names of a graph into Python source.
What onnx2torch makes of it is compared with onnxruntime before anything counts.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robusteval.errors import WeightsError, cut, reason, shown
from robusteval.extras import extra
from robusteval.models.entry import Entry, weights_content

if TYPE_CHECKING:
    from torch import nn

Sizes = tuple[int, int, int]  # channels, height, width
OPSETS = range(9, 18)  # those whose operators onnx2torch knows
_USUAL_SIDE = 32
_TOLERANCE = 1e-3  # of the largest logit: float32 rounding, no more
_NUMBERS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16", 2: "uint8"}


def module_from_onnx(entry: Entry, shape: Sizes | None) -> "nn.Module":
    """The network of an entry's ONNX file: normalised images (B, C, H, W) to its logits (B, K).

    ``shape``: C, H and W of the images; None takes the file's word.  Raises WeightsError, with
    what to do, for a file that is no such network, or that onnx2torch makes another function of
    than onnxruntime.
    """
    where, content = _where(entry), weights_content(entry)
    model = _parsed(where, content)
    name, shape = _checked(where, model, shape)
    network = _converted(where, _renamed(model))
    _require_same(where, network, content, name, _probes(entry, shape))
    return network


def initializers(entry: Entry) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of each tensor that the file holds.  Raises WeightsError."""
    where = _where(entry)
    model = _parsed(where, weights_content(entry))
    kinds = _onnx(where).TensorProto.DataType
    for tensor in model.graph.initializer:
        kind = kinds.Name(tensor.data_type).lower()
        yield (
            tensor.name,
            tuple(tensor.dims),
            {"float": "float32", "double": "float64"}.get(kind, kind),
        )


def _where(entry: Entry) -> str:
    return f"ONNX file {entry.weights_path}"


def _onnx(where: str) -> Any:
    return extra("onnx", "onnx", where, WeightsError)


def _parsed(where: str, content: bytes) -> Any:
    """The file's ModelProto.  Raises WeightsError."""
    try:
        model = _onnx(where).ModelProto.FromString(content)
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - protobuf's, by whichever of its implementations
        raise WeightsError(f"{where} can't be read ({reason(error)}): export it anew") from None
    if not model.graph.node:
        raise WeightsError(f"{where} holds no network: export it anew")
    return model


def _checked(where: str, model: Any, shape: Sizes | None) -> tuple[str, Sizes]:
    """The name of the graph's one input, and C, H and W.  Raises WeightsError for what can't be a
    classifier of such images, or is not within the file."""
    if told := _foreign(model):
        raise WeightsError(f"{where} {told}")
    try:
        _onnx(where).checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - of a compiled part, whose kinds are its own
        raise WeightsError(f"{where} is no valid ONNX ({reason(error)}): export it anew") from None
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise WeightsError(
            f"{where} has {len(inputs)} inputs and {len(model.graph.output)} outputs: export a "
            "network with images as its one input and logits as its one output"
        )
    if told := _unfit(inputs[0].type.tensor_type, shape):
        raise WeightsError(f"{where} {told}")
    return str(inputs[0].name), shape or _own_shape(where, inputs[0].type.tensor_type)


def _foreign(model: Any) -> str:
    """What stands in another file or isn't ONNX's own, and what to do; empty if nothing does."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset not in OPSETS:
        return f"has opset {opset}: export it with opset_version={OPSETS[-1]}"
    if told := next(filter(None, map(_foreign_node, model.graph.node)), ""):
        return told
    if model.functions or model.graph.sparse_initializer:
        return "has functions or sparse tensors: export it with operators alone"
    if any(t.data_location or t.external_data for t in _tensors_of(model)):
        return "keeps weights in another file: export it with external_data=False"
    return ""


def _foreign_node(node: Any) -> str:
    kind = cut(node.op_type, 60)
    if node.domain not in ("", "ai.onnx"):
        return f"has a custom operator ({cut(node.domain, 60)}.{kind}): leave it out"
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return f"has control flow ({kind}): export the network without branches and loops"
    if any(a.HasField("sparse_tensor") or a.sparse_tensors for a in node.attribute):
        return f"has sparse tensors ({kind}): export dense ones"
    return ""


def _tensors_of(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for attribute in (a for node in model.graph.node for a in node.attribute):
        yield from [attribute.t, *attribute.tensors]


def _own_shape(where: str, kind: Any) -> Sizes:
    """C, H and W as the file says them; where it takes any height or width, the usual ones."""
    channels, height, width = (dim.dim_value for dim in kind.shape.dim[1:])
    if channels < 1:
        raise WeightsError(f"{where} takes any number of channels: name a dataset in the entry")
    return channels, height or _USUAL_SIDE, width or _USUAL_SIDE


def _unfit(kind: Any, shape: Sizes | None) -> str:
    """What keeps images of that shape from being the input; empty if nothing does."""
    if kind.elem_type != 1:
        told = _NUMBERS.get(kind.elem_type, f"type {kind.elem_type}")
        return f"takes {told}: export it in float32"
    batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [0]
    if len(sizes) != 3:
        return f"takes {1 + len(sizes)} dimensions: export a network of images (B, C, H, W)"
    if batch > 0:
        return (
            f"takes {batch} images at once: export it with a dynamic batch dimension "
            '(dynamic_axes={"input": {0: "batch"}})'
        )
    pairs = zip(sizes, shape or sizes, strict=True)
    if shape is not None and any(size > 0 and size != wanted for size, wanted in pairs):
        return (
            f"takes images of {_by(sizes)}, the entry's data set has {_by(shape)}: mend the entry"
        )
    return ""


def _by(sizes: Sequence[int]) -> str:
    return "×".join(str(size) if size > 0 else "any" for size in sizes)


def _renamed(model: Any) -> Any:
    """The same network with names of ours: a name of the file's would stand in Python source."""
    graph, names = model.graph, {"": ""}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"value_{len(names)}")

    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = renamed(value.name)
    for i, node in enumerate(graph.node):
        node.name = f"node_{i}"
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
    del graph.value_info[:]
    return model


def _converted(where: str, model: Any) -> "nn.Module":
    import torch

    converter = extra("onnx2torch", "onnx", where, WeightsError)
    try:
        network: nn.Module = converter.convert(model).eval()
    except Exception as error:  # noqa: BLE001 - whatever a converter doesn't know
        raise WeightsError(
            f"{where} can't be converted to torch ({type(error).__name__}: {reason(error)}): "
            "export it without that, or name a factory instead"
        ) from None
    assert isinstance(network, torch.nn.Module)
    return network


def _probes(entry: Entry, shape: Sizes) -> list[NDArray[np.float32]]:
    """Random images in [0, 1], one and two at once, as the network gets them: normalised."""
    rng = np.random.default_rng(0)
    mean, std = (
        np.asarray(values, np.float32).reshape(1, -1, 1, 1)
        for values in (entry.input.mean, entry.input.std)
    )
    return [
        ((rng.random((count, *shape), np.float32) - mean) / std).astype(np.float32)
        for count in (1, 2)
    ]


def _require_same(
    where: str,
    network: "nn.Module",
    content: bytes,
    graph_input: str,
    probes: list[NDArray[np.float32]],
) -> None:
    """Raises WeightsError unless both give equal logits, up to float32 rounding."""
    runtime = extra("onnxruntime", "onnx", where, WeightsError)
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        expected = [session.run(None, {graph_input: images})[0] for images in probes]
    except Exception as error:  # noqa: BLE001 - of a compiled part, whose kinds are its own
        said = reason(error)
        raise WeightsError(f"{where} doesn't run in onnxruntime ({said}): export it anew") from None
    for images, theirs in zip(probes, expected, strict=True):
        if told := _difference(network, images, theirs):
            raise WeightsError(
                f"{where} {told}: name a factory that makes the network in torch instead"
            )


def _difference(network: "nn.Module", images: NDArray[np.float32], theirs: Any) -> str:
    """What differs from onnxruntime's logits; empty if nothing does."""
    import torch

    try:
        with torch.no_grad():
            ours = network(torch.from_numpy(images)).numpy()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        return f"fails in torch on {len(images)} images ({type(error).__name__}: {reason(error)})"
    if ours.shape != theirs.shape:
        return f"gives {ours.shape} in torch, {theirs.shape} in onnxruntime"
    if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return f"gives NaN or infinity on random images, such as {shown(float(theirs.flat[0]))}"
    difference = float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))
    if difference <= _TOLERANCE:
        return ""
    return f"gives other logits in torch than in onnxruntime (by {difference:.1g} of the largest)"
