"""Which code computes an attack or a detector: edited code never goes on with older evidence.

What people are told is an attack's version (see ``record.Attack``); the digests here are for runs.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_HERE = ("robusteval.attacks.", "robusteval.detection.")


@cache
def code_of_module(name: str) -> str:
    """Sixteen hex digits for what a module does, and all that it imports of attacks and detectors.

    They are the same on every machine, however its locale reads text or its git ends lines.
    """
    digest = hashlib.sha256()
    for module, code in sorted(_needed(name).items()):
        digest.update(f"{module}\n{code}\n".encode())
    return digest.hexdigest()[:16]


def _needed(first: str) -> dict[str, str]:
    """What runs of a module, and of each attack's or detector's that it leads to, by name."""
    found: dict[str, str] = {}
    left = [first]
    while left:
        if (name := left.pop()) in found:
            continue
        if (source := _source(name)) is None:
            continue
        found[name] = what_runs(source)
        left += [one for one in imported(ast.parse(source)) if one.startswith(_HERE)]
    return found


def _source(name: str) -> str | None:
    """A module's text; None where it has none, as what is typed at a prompt, or isn't one."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text("utf-8")


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a module names in its imports, and what may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)


def what_runs(source: str) -> str:
    """A module's syntax tree, without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _HAVE_DOCSTRINGS) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return _told(tree)


def _told(part: object) -> str:
    """A tree as text, the same in every Python: later ones have more fields, empty as a rule."""
    if isinstance(part, list):
        return f"[{','.join(_told(one) for one in part)}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = [f"{k}={_told(v)}" for k, v in ast.iter_fields(part) if v not in (None, [])]
    return f"{type(part).__name__}({','.join(fields)})"
