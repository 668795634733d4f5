"""Plug-ins: what installed packages add, by entry points of five groups.

They are listed at once, with the package that they come from, and loaded when they are asked for:
one that can't be imported costs nobody else anything.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from robusteval.catalogue import near_names
from robusteval.errors import PluginError, UnknownNameError, reason, shown

Kind = Literal["models", "attacks", "detectors", "datasets", "suites"]
T = TypeVar("T")
OURS = "robusteval"


@dataclass(frozen=True)
class Plugin:
    """One entry point, of the group ``robusteval.<kind>``."""

    kind: Kind
    point: EntryPoint

    @property
    def name(self) -> str:
        """What it adds."""
        return self.point.name

    @property
    def package(self) -> str:
        """The distribution that adds it."""
        return self.point.dist.name if self.point.dist else "an unnamed package"

    @property
    def version(self) -> str:
        """That of the distribution."""
        return self.point.dist.version if self.point.dist else "unknown"

    def load(self) -> Any:
        """What it points to.  Raises PluginError, which names the package, where that fails."""
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            raise self.unusable(f"{type(error).__name__}: {reason(error)}") from error

    def folders(self) -> list[Path]:
        """The folders of the package of files that it points to; nothing of it is imported but
        its parents.  Raises PluginError where it leads nowhere."""
        try:
            spec = find_spec(self.point.value)
        except (Exception, SystemExit) as error:
            raise self.unusable(reason(error)) from error
        if spec is None:
            raise self.unusable("there is no such package")
        return [Path(place) for place in spec.submodule_search_locations or []]

    def unusable(self, why: str) -> PluginError:
        """The error that says what is wrong with it."""
        return PluginError(
            f"the plug-in {self.name} = {self.point.value} (robusteval.{self.kind}) of "
            f"{self.package} can't be used ({why}): mend or remove {self.package}"
        )

    @property
    def source_digest(self) -> str:
        """Sixteen hex digits for the source of its module.

        Raises PluginError where there is none to read.
        """
        try:
            spec = find_spec(self.point.module)
            if spec is None or spec.origin is None:
                raise ValueError("its module has no source")
            return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:16]
        except (Exception, SystemExit) as error:
            raise self.unusable(reason(error)) from error


@cache
def plugins(kind: Kind) -> tuple[Plugin, ...]:
    """Those that are installed, by name and package; none is loaded."""
    found = [Plugin(kind, point) for point in entry_points(group=f"robusteval.{kind}")]
    once = {(one.name, one.package, one.point.value): one for one in found}
    return tuple(once[key] for key in sorted(once))


class Registry(Generic[T]):
    """What can be named of one kind: the project's own, and plug-ins'.

    ``accept(value, plugin)`` makes of what a plug-in gives what the registry holds; it raises
    PluginError for another thing.
    """

    def __init__(self, kind: Kind, noun: str, accept: Callable[[Any, Plugin], T]) -> None:
        self.kind, self.noun, self.accept = kind, noun, accept
        self._own: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Raises ValueError if the name is taken: a programmer's mistake, not a user's."""
        if name in self._own:
            raise ValueError(f"{self.noun} {name!r} is registered twice")
        self._own[name] = value
        return value

    @contextmanager
    def having(self, name: str, value: T) -> Iterator[None]:
        """Within it ``name`` is ``value``: for a trial, or a test."""
        before = dict(self._own)
        self._own[name] = value
        try:
            yield
        finally:
            self._own = before

    def get(self, name: str) -> T:
        """Raises UnknownNameError, naming near names, and PluginError for a plug-in that can't be
        used, or whose name is taken."""
        added = self._named(name)
        packages = [*[OURS] * (name in self._own), *(plugin.package for plugin in added)]
        if len(packages) > 1:
            raise PluginError(
                f"{self.noun} {name} comes from {' and from '.join(packages)}: "
                "remove one of them, or rename its entry point"
            )
        if name in self._own:
            return self._own[name]
        if not added:
            hint = near_names(name, self)
            raise UnknownNameError(f"unknown {self.noun} {shown(name)}: {hint}")
        return self.accept(added[0].load(), added[0])

    def own(self) -> list[T]:
        """The project's own, by name."""
        return [self._own[name] for name in sorted(self._own)]

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in that adds a name; None for one of the project's own."""
        return None if name in self._own else next(iter(self._named(name)), None)

    def _named(self, name: str) -> list[Plugin]:
        return [plugin for plugin in plugins(self.kind) if plugin.name == name]

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._own, *(plugin.name for plugin in plugins(self.kind))}))

    def __len__(self) -> int:
        return sum(1 for _ in self)
