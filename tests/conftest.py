"""What several tests need: small models with known answers, and a place without the user's data."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from robusteval import terminal
from robusteval.attacks.registry import OWN
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.detection.metrics import bootstrap_intervals
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.loading import load_model
from robusteval.models.network import PrototypeNetwork
from robusteval.models.registry import find_entry
from robusteval.plugins import plugins
from robusteval.report import page
from tests.helpers.attacks import record_of
from tests.helpers.plugins import lay_package

# Workers of pytest-xdist share the cores, threads that wait take processor time, too, and a process
# that has several can't be forked.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# What machines set, and pytest, typer and rich read: lines are cut, wrapped or coloured by it.
OF_MACHINES = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "COLUMNS", "LINES", "TERMINAL_WIDTH")
OF_COLOURS = ("FORCE_COLOR", "NO_COLOR", "PY_COLORS", "CLICOLOR", "CLICOLOR_FORCE")
DRAWN = (
    *("accuracy_bars", "cost_curve", "distance_curve", "score_histograms"),
    *("separation_curves", "rejection_curves", "confidence_histogram"),
)
FIGURES = {name: getattr(page, name) for name in DRAWN}
RESAMPLES = bootstrap_intervals.__kwdefaults__["resamples"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: workers that share files end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CIFAR-10 and MNIST beside the checkout; tests that need them are left out without."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's data or models, writes into the user's cache, or asks what kind of
    machine it runs on."""
    for name in ("ROBUSTEVAL_DATA", "ROBUSTEVAL_MODELS", "ROBUSTEVAL_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    for name in OF_MACHINES + OF_COLOURS:
        monkeypatch.delenv(name, raising=False)
    if "ROBUSTEVAL_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _quick_reports() -> Iterator[None]:
    """Drawing and resampling take half of a small run's time: here figures are empty, and intervals
    of detection are of few resamples, but where tests ask for reports ``as_in_use``."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr(page, name, lambda *_: "<svg></svg>")
        patch.setitem(bootstrap_intervals.__kwdefaults__, "resamples", 20)
        yield


@pytest.fixture(scope="module")
def as_in_use() -> Iterator[None]:
    """Figures are drawn, and intervals are of as many resamples as elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name, drawing in FIGURES.items():
            patch.setattr(page, name, drawing)
        patch.setitem(bootstrap_intervals.__kwdefaults__, "resamples", RESAMPLES)
        yield


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """As if stdout were a terminal of so many columns."""

    def wide(columns: int) -> None:
        monkeypatch.setattr(terminal, "is_piped", lambda: False)
        monkeypatch.setattr(terminal.console, "width", columns)

    return wide


@pytest.fixture
def add_attack() -> Iterator[Callable[..., None]]:
    """Adds an attack of one's own for one test: its name, its function, and what else is known."""
    with ExitStack() as added:

        def add(name: str, function: Callable[..., Any], **facts: Any) -> None:
            added.enter_context(OWN.having(name, record_of(name, function, **facts)))

        yield add


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package for one test: its name, its version, its entry points, its modules."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def add(*given: Any) -> None:
        lay_package(folder, *given)
        plugins.cache_clear()

    yield add
    monkeypatch.undo()
    plugins.cache_clear()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def pcl_digits() -> Adapter:
    return load_model(find_entry("pcl_digits"))


@pytest.fixture(scope="session")
def ce_digits() -> Adapter:
    return load_model(find_entry("ce_digits"))


@pytest.fixture(scope="session")
def nearest_digits() -> Adapter:
    """pcl_digits read by its nearest prototype: all logits are negative squared distances."""
    entry = find_entry("pcl_digits")
    network = load_model(entry).module
    assert isinstance(network, PrototypeNetwork)
    network.classifier = None
    return PrototypeAdapter(network)
