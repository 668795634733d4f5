"""Which version of this package's attacks runs: a number belongs to the code that found it."""

import ast
import hashlib
from functools import cache
from pathlib import Path

_HAVE_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def attacks_digest() -> str:
    """Eight hex digits for what the modules beside this one do."""
    return digest_of(Path(__file__).parent)


def digest_of(folder: Path) -> str:
    """The same on every machine, however its locale reads text or its git ends lines."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        source = path.read_text("utf-8")
        digest.update(f"{path.name}\n{what_runs(source)}\n".encode())
    return digest.hexdigest()[:8]


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
