"""The signs that a terminal can show, and the tables drawn with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table


@dataclass(frozen=True)
class Symbols:
    """The signs that a terminal can show."""

    least: str
    greatest: str
    undefined: str
    same: str
    overlap: str
    differ: str
    ramp: str
    ascii_only: bool = False

    def text(self, words: object) -> str:
        """Return the words with what this terminal cannot show replaced by "?"."""
        plain = str(words)
        return plain.encode("ascii", "replace").decode() if self.ascii_only else plain


UNICODE: Final = Symbols("▼", "▲", "\N{EN DASH}", "✓", "≈", "✗", "▁▂▃▄▅▆▇█")
ASCII: Final = Symbols("v", "^", "-", "=", "~", "x", "_.-=+*%#", ascii_only=True)


@dataclass(frozen=True)
class Adaptive:
    """A renderable built when the terminal is known: UTF-8 signs, or ASCII where it cannot."""

    build: Callable[[Symbols], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the drawing in the signs that this terminal can show."""
        yield self.build(ASCII if options.ascii_only else UNICODE)


def grid_of(*heads: str) -> Table:
    """Return an empty table whose columns are one space apart."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table
