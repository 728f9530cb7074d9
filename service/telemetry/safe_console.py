"""Safe tables and colours: rich, without its markup. `[red]` or an escape sequence in a text is shown, not interpreted.

Apart from plain lines (`terminal`), since processes that run for months print no table.
"""

from collections.abc import Iterable
from typing import Any, Self

import rich.text
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style

from service.telemetry.safe_text import visible

PIPE_WIDTH = 10_000
"""Wider than any table; tables take what they need."""


class Text(rich.text.Text):
    """Styled text for a `SafeConsole`: one line, escaped."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(visible(text), style, **options)

    def append(self, text: "rich.text.Text | str", style: str | Style | None = None) -> Self:
        """Append text, or styled text."""
        super().append(visible(text) if isinstance(text, str) else text, style)
        return self


class SafeConsole(Console):
    """A rich console without markup, emoji names and highlighting, that prints no control characters.

    A pipe has no edge: nothing is wrapped or cut there, unless `width` is given.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | options)
        if not self.is_terminal and "width" not in options:
            self.width = PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Convert a plain string, such as a table's cell, to one line of text."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render segments; escapes text that did not come through `Text`."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text="\n".join(map(visible, segment.text.split("\n"))))
