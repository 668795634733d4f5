"""The consoles: what they print is others' text, and made harmless."""

from typing import Any

from rich.console import Console
from rich.text import Text

from robusteval import inert


class InertConsole(Console):
    """Titles, claims and reasons are others' text: neither markup, nor emoji, nor escapes."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Every plain string passes here before it is measured and printed."""
        return super().render_str(inert.fitting(inert.line(text), self.encoding), **how)


console = InertConsole()
error_console = InertConsole(stderr=True)
