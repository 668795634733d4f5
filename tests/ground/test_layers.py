"""The house: an import points downwards, and never into a circle; no test imports a test."""

import ast
import subprocess
import sys
from pathlib import Path

import robusteval

PACKAGE = Path(robusteval.__file__).parent
TESTS = Path(__file__).parents[1]
# The longest prefix decides.  What isn't named here fails the test.
FLOORS = {
    "robusteval.types": 1,
    "robusteval.errors": 1,
    "robusteval.inert": 1,
    "robusteval.stops": 1,
    "robusteval.spinning": 1,
    "robusteval.durations": 2,
    "robusteval.catalogue": 2,
    "robusteval.numerics": 2,
    "robusteval.vision": 2,
    "robusteval.robustbench": 2,
    "robusteval.extras": 2,
    "robusteval.hardware": 2,
    "robusteval.installed": 2,
    "robusteval.ambient": 2,
    "robusteval.storage": 2,
    "robusteval.streams": 2,
    "robusteval.reading": 2,
    "robusteval.schema": 2,
    "robusteval.places": 2,
    "robusteval.plugins": 2,
    "robusteval.folders": 2,
    "robusteval.models": 3,
    "robusteval.data": 3,
    "robusteval.attacks": 4,
    "robusteval.detection": 4,
    "robusteval.training": 5,
    "robusteval.plan": 5,
    "robusteval.evidence": 6,
    "robusteval.run": 7,
    "robusteval.trust": 8,
    "robusteval.report": 9,
    "robusteval.api": 10,
    "robusteval.exports": 10,
    "robusteval.boards": 11,
    "robusteval.sharing": 11,
    "robusteval.zoo": 11,
    "robusteval.transfers": 11,
    "robusteval.papers": 11,
    "robusteval.eps_figures": 11,
    "robusteval.listing": 11,
    "robusteval.doctor": 11,
    "robusteval.inputs": 12,
    "robusteval.remembered": 12,
    "robusteval.consoles": 12,
    "robusteval.piped": 12,
    "robusteval.running": 12,
    "robusteval.bars": 12,
    "robusteval.lines": 12,
    "robusteval.watching": 12,
    "robusteval.guarded": 12,
    "robusteval.endings": 12,
    "robusteval.runs": 12,
    "robusteval.shard_verbs": 12,
    "robusteval.submission": 12,
    "robusteval.terminal": 12,
    "robusteval.cli": 12,
    "robusteval.board_verbs": 12,
    "robusteval.export_verb": 12,
    "robusteval.transfer_verb": 12,
    "robusteval.reproduce_verb": 12,
    "robusteval.look_verbs": 12,
    "robusteval.pytest_plugin": 12,
    "robusteval.pytest_marks": 12,
    "robusteval.setup_verbs": 12,
    "robusteval.arguments": 12,
    "robusteval.__main__": 12,
    "robusteval": 0,
}


def floor_of(module: str) -> int:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in FLOORS and (
            name != "robusteval" or end == len(parts)
        ):
            return FLOORS[name]
    raise AssertionError(f"{module} has no floor: give it one")


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("robusteval", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Imports of our own modules, but for those that only the type checker sees."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        if not isinstance(node, ast.ImportFrom):
            continue
        assert node.module, "imports are absolute"
        if node.module.split(".")[0] == "robusteval":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found


def test_imports_point_downwards() -> None:
    known = modules()
    upward = [
        f"{name} → {target}"
        for name, path in known.items()
        for target in imports_of(path, known)
        if name != "robusteval" and floor_of(target) > floor_of(name)
    ]
    assert upward == []
    assert len(known) > 40  # the walk found the package


def test_no_circles() -> None:
    known = modules()
    graph = {name: imports_of(path, known) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_help_loads_neither_torch_nor_pandas() -> None:
    code = (
        "import sys\nfrom robusteval.cli import app\n"
        "try:\n    app(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'sklearn', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--suite" in done.stdout


def test_no_test_imports_a_test() -> None:
    """What tests share stands in tests/helpers, so that each can be moved and run alone."""
    shared = [
        f"{path.relative_to(TESTS)} → {name}"
        for path in TESTS.rglob("*.py")
        for name in imported(ast.parse(path.read_text("utf-8")))
        if name.startswith("tests.")
        and any(part.startswith(("test_", "conftest")) for part in name.split("."))
    ]
    assert shared == []
    helpers = ast.parse((TESTS / "conftest.py").read_text("utf-8"))
    assert "tests.helpers.plugins.lay_package" in imported(helpers)  # imports are found


def imported(tree: ast.Module) -> list[str]:
    """Modules and names in them, by their full names."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_public_names_are_there() -> None:
    for name in robusteval.__all__:
        assert getattr(robusteval, name) is not None
