"""RobustBench, made importable: it asks for ``autoattack``, which no registry has.

pyautoattack is AutoAttack's code by its authors under another name, with other names of arguments.
While RobustBench is imported, a module ``autoattack`` of ours stands in for it.
"""

import base64
import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from robusteval.errors import AttackError, RobustevalError, reason
from robusteval.vision import torchvision

_ADVICE = "`make robustbench` in a checkout builds one, and docs/other_tools.md says how"


def robustbench_version() -> str:
    """RobustBench's version.  Raises RobustevalError, with the mend, where it can't be used.

    torchattacks' wheel carries another ``robustbench``, which hides this one or is hidden by it.
    """
    try:
        found = version("robustbench")
    except PackageNotFoundError:
        raise RobustevalError(
            f"robustbench is not installed: it needs an environment of its own ({_ADVICE})"
        ) from None
    if not _is_intact():
        raise RobustevalError(
            "the robustbench here is another one, which torchattacks' wheel carries: install "
            f"robustbench after it (pip install --force-reinstall --no-deps robustbench=={found})"
        )
    return found


def _is_intact() -> bool:
    """Whether what would be imported is what RobustBench's own wheel brought."""
    found = next((f for f in files("robustbench") or () if f.name == "eval.py"), None)
    if found is None or found.hash is None:  # installed otherwise than from a wheel
        return True
    digest = hashlib.sha256(Path(str(found.locate())).read_bytes()).digest()
    return found.hash.value == base64.urlsafe_b64encode(digest).decode().rstrip("=")


def robustbench() -> ModuleType:
    """RobustBench's module.

    Its ``benchmark`` calls AutoAttack as pyautoattack has it.  Raises RobustevalError where it, or
    what it needs, can't be imported.
    """
    robustbench_version()
    torchvision()
    try:
        with _autoattack(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports in old ways
            return import_module("robustbench")
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        raise RobustevalError(
            f"robustbench can't be imported ({type(error).__name__}: {reason(error)}): "
            f"give it an environment of its own ({_ADVICE})"
        ) from None


@contextmanager
def _autoattack() -> Iterator[None]:
    """Within it ``autoattack`` can be imported: the authors' own where it is installed."""
    if find_spec("autoattack") is not None:
        yield
        return
    stand_in = ModuleType("autoattack")
    stand_in.AutoAttack = AutoAttack  # type: ignore[attr-defined]
    modules = {"autoattack": stand_in, "autoattack.state": import_module("pyautoattack.state")}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


class AutoAttack:
    """pyautoattack's AutoAttack, called as ``autoattack.AutoAttack`` is.

    ``attacks_to_run`` becomes ``attacks``, ``bs`` ``batch_size``, and adversarial images come
    without their labels unless these are asked for.  It can't do what pyautoattack can't: attack
    models of TensorFlow, and write a log file.  Raises AttackError for these.  Anything else that
    is asked of it is pyautoattack's own.
    """

    def __init__(
        self,
        model: Any,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Any = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: Any = "cuda",
        log_path: Any = None,
    ) -> None:
        if is_tf_model or log_path is not None:
            asked = "is_tf_model" if is_tf_model else "log_path"
            raise AttackError(f"AutoAttack's {asked} can't be had of pyautoattack: leave it out")
        self._called = import_module("pyautoattack").AutoAttack(
            model,
            norm=norm,
            eps=eps,
            seed=seed,
            attacks=list(attacks_to_run) or None,
            version=version,
            device=device,
        )
        self._called.verbose = verbose

    def run_standard_evaluation(
        self,
        x_orig: Any,
        y_orig: Any,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Any = None,
    ) -> Any:
        """Adversarial images for images (B, C, H, W) in [0, 1] and labels (B,), with the model's
        answers (B,) to them where ``return_labels``."""
        images, answers = self._called.run_standard_evaluation(
            x_orig, y_orig, batch_size=bs, state_path=state_path
        )
        return (images, answers) if return_labels else images

    def run_standard_evaluation_individual(
        self, x_orig: Any, y_orig: Any, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """The same of each attack by itself, by its name."""
        found = self._called.run_standard_evaluation_individual(x_orig, y_orig, batch_size=bs)
        return {k: pair if return_labels else pair[0] for k, pair in found.items()}

    def __getattr__(self, name: str) -> Any:
        if name == "_called":  # before it is there, such as while it is unpickled
            raise AttributeError(name)
        return getattr(self._called, name)
