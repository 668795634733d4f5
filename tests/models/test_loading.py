"""What is told where weights don't fit: how many, which, of what shape, and what put that there."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robusteval.errors import WeightsError
from robusteval.models.entry import read_entry
from robusteval.models.fitting import fill
from robusteval.models.loading import load_model
from tests.helpers.entries import with_weights

State = dict[str, Tensor]


def told(folder: Path, change: Callable[[State], State]) -> str:
    """The error for changed weights, whose digest is made to fit."""
    path = with_weights(folder)
    weights = folder / "tiny.safetensors"
    content = save(change(load_file(weights)))
    weights.write_bytes(content)
    line = next(n for n in path.read_text().splitlines() if n.startswith("sha256"))
    digest = f'sha256 = "{hashlib.sha256(content).hexdigest()}"'
    path.write_text(path.read_text().replace(line, digest))
    with pytest.raises(WeightsError) as caught:
        load_model(read_entry(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_lacking_is_counted_and_shown_with_its_shape(tmp_path: Path) -> None:
    found = told(tmp_path, lambda state: {k: v for k, v in state.items() if "fc" not in k})
    assert "of 26 lacking: " in found
    assert "unknown" not in found
    assert "is it the right file?" in found


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    def change(state: State) -> State:
        first = next(k for k, v in state.items() if v.dim() == 4)
        state[first] = state[first][:, :, :1].contiguous()
        state["classifier.extra"] = state.pop("classifier.bias")
        return state

    found = told(tmp_path, change)
    assert "1 of 26 lacking: classifier.bias (10,)" in found
    assert "1 of 26 unknown: classifier.extra (10,)" in found
    assert "1 of 26 of another shape: backbone." in found
    assert "is (4, 1, 1, 3), not (4, 1, 3, 3)" in found


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "save them without 'module.' (DataParallel) in their names"),
        ("_orig_mod.", "save them without '_orig_mod.' (torch.compile) in their names"),
        ("module._orig_mod.", "'_orig_mod.' (torch.compile) and 'module.' (DataParallel)"),
        ("net.", "save them without 'net.', by which their names begin"),
    ],
)
def test_what_a_wrapper_put_into_names_is_named(tmp_path: Path, prefix: str, said: str) -> None:
    found = told(tmp_path, lambda state: {prefix + k: v for k, v in state.items()})
    assert said in found
    assert "26 of 26 lacking: " in found
    assert "26 of 26 unknown: " in found
    assert found.count(" and 23 more") == 2
    assert "is it the right file?" not in found


def test_a_compiled_part_is_named_too(tmp_path: Path) -> None:
    def change(state: State) -> State:
        return {k.replace("backbone.", "backbone._orig_mod."): v for k, v in state.items()}

    assert "'_orig_mod.' (torch.compile)" in told(tmp_path, change)


def test_weights_of_a_wrapped_module_itself_fit() -> None:
    """A factory may return a wrapper: its own names are no mistake."""
    wrapped = nn.Sequential()
    wrapped.add_module("module", nn.Linear(2, 3))
    other = nn.Sequential()
    other.add_module("module", nn.Linear(2, 3))
    fill(other, wrapped.state_dict(), Path("x.safetensors"))
    assert (other.module.weight == wrapped.module.weight).all()
