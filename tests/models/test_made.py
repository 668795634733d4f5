"""Entries with a factory: its options, prototypes beside what it makes, adapters it returns."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from robusteval import api
from robusteval.errors import EntryError, RobustevalError, WeightsError
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry, read_entry
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry

MAKERS = """
import torch
from torch import nn
import robusteval

class Net(nn.Module):
    def __init__(self, hidden=6, sizes=(), scale=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, 10)
        self.register_buffer("centres", torch.randn(10, 2, hidden))
        self.sizes, self.scale = sizes, scale or {}
        sizes.append(1) if isinstance(sizes, list) else None

    def forward(self, images):
        return {"logits": self.head(self.body(images))}

def adapter(classes=10, **own):
    net = Net()
    if own:
        own["prototypes"] = net.centres
    return robusteval.wrap_module(net, classes, **own)

def parallel():
    return nn.DataParallel(Net())

def grouped(*, group):
    return Net()
"""
ENTRY = """
name = "mine"
method = "own"
dataset = "digits"
factory = "{factory}"
{top}
[input]
mean = [{mean}]
std = [1.0]
"""


def entry_in(folder: Path, rest: str = "", factory: str = "makers:Net", **given: str) -> Entry:
    (folder / "makers.py").write_text(MAKERS)
    path = folder / "mine.toml"
    path.write_text(ENTRY.format(factory=factory, **{"top": "", "mean": "0.3", **given}) + rest)
    return read_entry(path)


def loaded(entry: Entry) -> Adapter:
    return load_model(entry, allow_code=True)


def tensors_in(folder: Path, name: str, **tensors: Tensor) -> str:
    """A safetensors file, and the two lines of an entry that name it."""
    content = save({key.replace("__", "."): value for key, value in tensors.items()})
    (folder / name).write_bytes(content)
    return f'file = "{name}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'


IMAGES = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
TABLE = '[prototypes]\ntensor = "centres"\nfeatures = "body"\n'


# Options


def test_options_are_keywords_of_the_factory(tmp_path: Path) -> None:
    options = (
        "[factory_options]\nhidden = 9\nsizes = [1, [2, 3]]\n[factory_options.scale]\nby = 0.5\n"
    )
    entry = entry_in(tmp_path, options)
    net: Any = loaded(entry).module.module  # type: ignore[union-attr]
    assert net.head.weight.shape == (10, 9)
    assert net.scale == {"by": 0.5}
    assert net.sizes == [1, [2, 3], 1]  # changed by the factory
    assert entry.factory_options == {"hidden": 9, "sizes": [1, [2, 3]], "scale": {"by": 0.5}}


def test_options_and_prototypes_are_part_of_an_entrys_digest(tmp_path: Path) -> None:
    rests = [
        "",
        "[factory_options]\nhidden = 6\n",
        "[factory_options]\nhidden = 7\n",
        TABLE,
        TABLE.replace("body", "body.2"),
        TABLE + 'reading = "nearest_prototype"\n',
        TABLE + 'similarity = "l2"\n',
    ]
    digests = {entry_in(tmp_path, rest).digest for rest in rests}
    assert len(digests) == len(rests)
    # Of an entry without them it is what it was before there were any.
    assert entry_in(tmp_path).digest == entry_in(tmp_path, "[factory_options]\n").digest
    assert find_entry("pcl_digits").digest.startswith("e4efe0a4e7a6c3186e94")


@pytest.mark.parametrize(
    ("rest", "factory", "said"),
    [
        ("[factory_options]\nhiden = 6\n", "makers:Net", "unexpected keyword argument 'hiden'"),
        ("[factory_options]\nhidden = 6\n", "makers:parallel", r"than \[factory_options\] gives"),
        ("", "makers:grouped", r"takes arguments: .* name them in \[factory_options\]"),
        ("[factory_options]\nhidden = 'x'\n", "makers:Net", r"failed \(TypeError: "),
        ("[factory_options]\nhidden = nan\n", "makers:Net", "needs a finite number"),
        ("[prototypes]\n", "makers:Net", "prototypes.tensor is missing"),
        (TABLE + 'similarity = "l3"\n', "makers:Net", "prototypes.similarity must be 'l2'"),
        (TABLE + 'reading = "softmax"\n', "makers:Net", "prototypes.reading must be 'module'"),
        (TABLE + 'file = "x.safetensors"\n', "makers:Net", "file and sha256 go together"),
        (TABLE + 'file = "x.pt"\n', "makers:Net", "no pickle is ever loaded"),
        (TABLE + "layer = 3\n", "makers:Net", "unknown field prototypes.layer"),
        (TABLE.replace("centres", "centers"), "makers:Net", r"did you mean centres\?"),
        (TABLE.replace("body", "bodi"), "makers:Net", r"\[prototypes\] features = 'bodi': .* body"),
        (TABLE.replace("centres", "head.bias"), "makers:Net", r"prototypes \(10,\): give"),
        (TABLE, "makers:adapter", "prototypes of its own: leave .prototypes. out"),
        ("", "makers:adapter", r"write mean = \[0.0\] and std = \[1.0\]"),
        ("[factory_options]\nclasses = 7\n", "makers:adapter", "of 7 classes, .* is of 10"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    rest: str, factory: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(EntryError, match=said) as caught:
        loaded(entry_in(tmp_path, rest, factory))
    assert str(caught.value).startswith(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value)


def test_a_backbone_takes_no_options_and_no_prototypes(tmp_path: Path) -> None:
    text = ENTRY.format(factory="x", top="", mean="0.3").replace('factory = "x"', "")
    path = tmp_path / "mine.toml"
    for rest in (TABLE, "[factory_options]\na = 1\n"):
        path.write_text(text + '[backbone]\nname = "cnn6"\n' + rest)
        with pytest.raises(EntryError, match="go with a factory"):
            read_entry(path)


# Prototypes


def own_of(folder: Path, prototypes: Tensor, **given: Any) -> Adapter:
    """The same in Python."""
    entry_in(folder)
    net: Any = loaded(read_entry(folder / "mine.toml")).module.module  # type: ignore[union-attr]
    return wrap_module(net, 10, 0.3, 1.0, prototypes=prototypes, features="body", **given)


def test_prototypes_are_the_modules_own_the_weights_or_a_files(tmp_path: Path) -> None:
    net: Any = loaded(entry_in(tmp_path)).module.module  # type: ignore[union-attr]
    state, given = net.state_dict(), torch.randn(10, 3, 6)
    plain = {key.replace(".", "__"): value for key, value in state.items()}
    weights = "[weights]\n" + tensors_in(tmp_path, "mine.safetensors", **plain)
    beside = tensors_in(tmp_path, "beside.safetensors", given=given, centres=given + 1)
    more = "[weights]\n" + tensors_in(tmp_path, "more.safetensors", **plain, given=given)
    by_given = TABLE.replace("centres", "given")
    for table, expected in (
        (TABLE, net.centres),
        (TABLE + weights, net.centres),
        (TABLE + beside, given + 1),
        (by_given + beside + weights, given),
        (by_given + more, given),
    ):
        found = loaded(entry_in(tmp_path, table))
        same = own_of(tmp_path, expected)
        assert torch.equal(found.distances(IMAGES), same.distances(IMAGES))
        assert torch.equal(found(IMAGES), same(IMAGES))
        assert found.parts.prototypes
    nearest = TABLE + 'reading = "nearest_prototype"\nsimilarity = "l1"\npooling = "mean"\n'
    expected_logits = own_of(
        tmp_path, net.centres, reading="nearest_prototype", similarity="l1", pooling="mean"
    )(IMAGES)
    assert torch.equal(loaded(entry_in(tmp_path, nearest))(IMAGES), expected_logits)


def test_files_of_prototypes_are_sealed_and_finite(tmp_path: Path) -> None:
    table = TABLE + tensors_in(tmp_path, "beside.safetensors", centres=torch.zeros(10, 6))
    content = (tmp_path / "beside.safetensors").read_bytes()
    (tmp_path / "beside.safetensors").write_bytes(content + b" ")
    with pytest.raises(WeightsError, match=r"beside.safetensors are altered: SHA-256"):
        loaded(entry_in(tmp_path, table))
    (tmp_path / "beside.safetensors").unlink()
    with pytest.raises(WeightsError, match="can't be read"):
        loaded(entry_in(tmp_path, table))
    nan = TABLE + tensors_in(tmp_path, "nan.safetensors", centres=torch.full((10, 6), torch.nan))
    with pytest.raises(WeightsError, match="NaN or infinity in centres"):
        loaded(entry_in(tmp_path, nan))
    other = TABLE + tensors_in(tmp_path, "other.safetensors", centres=torch.zeros(9, 6))
    with pytest.raises(EntryError, match="are of 9 classes: give those of 10 classes"):
        loaded(entry_in(tmp_path, other))


def test_weights_of_a_wrapped_module_fit_with_its_names_or_without(tmp_path: Path) -> None:
    net: Any = loaded(entry_in(tmp_path)).module.module  # type: ignore[union-attr]
    state = {key: value + 1 for key, value in net.state_dict().items()}
    for prefix in ("", "module__"):
        named = {prefix + key.replace(".", "__"): value for key, value in state.items()}
        weights = "[weights]\n" + tensors_in(tmp_path, "mine.safetensors", **named)
        found = loaded(entry_in(tmp_path, weights, "makers:parallel"))
        inner: Any = found.module.module  # type: ignore[union-attr]
        assert torch.equal(inner.head.bias, state["head.bias"])
    with pytest.raises(WeightsError, match=r"save them without 'module.' \(DataParallel\)"):
        loaded(entry_in(tmp_path, weights))


# Adapters


def test_a_factory_may_return_an_adapter_whose_weights_are_its_modules(tmp_path: Path) -> None:
    net: Any = loaded(entry_in(tmp_path)).module.module  # type: ignore[union-attr]
    state = {key.replace(".", "__"): value + 1 for key, value in net.state_dict().items()}
    weights = "[weights]\n" + tensors_in(tmp_path, "mine.safetensors", **state)
    own = '[factory_options]\nfeatures = "body"\nreading = "nearest_prototype"\n'
    for rest in ("", own):
        found = loaded(entry_in(tmp_path, rest, "makers:adapter", mean="0.0"))
        assert isinstance(found, Adapter)
        assert found.parts.prototypes == bool(rest)
        filled = loaded(entry_in(tmp_path, rest + weights, "makers:adapter", mean="0.0"))
        changed = filled.embed(IMAGES)
        assert not torch.equal(changed, found.embed(IMAGES))
        assert not any(p.requires_grad for p in filled.parameters())


# Runs


@pytest.mark.slow
def test_workers_and_verify_read_the_same(tmp_path: Path) -> None:
    entry = entry_in(tmp_path, TABLE)
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'name = "one"\n[[attacks]]\nname = "prototype_margin"\ntitle = "Prototype margin"\n'
        'library = "robusteval"\nattack = "prototype_margin"\nnorms = ["Linf"]\n'
        "parameters = { steps = 3 }\n"
    )
    given: dict[str, Any] = {"samples": 24, "batch_size": 12, "threads": 1, "allow_code": True}
    reports = [
        api.evaluate(str(entry.path), suite, out=tmp_path / str(workers), workers=workers, **given)
        for workers in (1, 2)
    ]
    first, second = (report.content for report in reports)
    assert first["evidence"]["digest"] == second["evidence"]["digest"]
    assert first["left_out"] == []
    assert first["model"]["notes"] == second["model"]["notes"]
    assert first["model"]["notes"][0] == "logits are read from the output's key 'logits'"
    checks = api.verify(reports[1].folder, allow_code=True)
    assert all(check.held for check in checks), [str(c) for c in checks if not c.held]


def test_unfit_features_of_an_entry_are_told_before_the_first_attack(tmp_path: Path) -> None:
    entry = entry_in(tmp_path, TABLE.replace("body", "head"))
    out = tmp_path / "out"
    with pytest.raises(RobustevalError, match=r"the layer 'head' gives shape \(1, 10\)"):
        api.evaluate(str(entry.path), "quick", samples=20, allow_code=True, out=out)
    assert not out.exists()
