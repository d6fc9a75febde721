"""The catalogue of measures in a terminal, and what a scan would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.metrics.catalogue import CATALOGUE, Measure
from layerscope.terminal.signs import Adaptive, Symbols, grid_of

if TYPE_CHECKING:
    from layerscope.estimates import Estimates


def catalogue_table(measures: Sequence[Measure] = CATALOGUE) -> RenderableType:
    """Return one line a measure: its name, what it is, its level, which values are preferred."""

    def build(symbols: Symbols) -> RenderableType:
        grid = grid_of("name", "measure", "level", "prefers", "conv.")
        grid.columns[0].no_wrap = True
        grid.columns[1].ratio = 1
        for measure in measures:
            names = " ".join(str(name)[:1] for name in measure.conventions)
            cells = (measure.title, measure.level, measure.direction, names)
            grid.add_row(
                Text(measure.name, style="bold"),
                *(Text(symbols.text(cell) or symbols.undefined) for cell in cells),
            )
        hint = Text(
            "conv.: p paper, n normalized, r reference. "
            "Formula and source: layerscope metrics NAME",
            "dim",
        )
        return Group(grid, hint)

    return Adaptive(build)


def measure_page(measure: Measure) -> RenderableType:
    """Return everything the catalogue knows about one measure."""

    def build(symbols: Symbols) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, words in _facts(measure):
            grid.add_row(label, Text(symbols.text(words) or symbols.undefined))
        title = Text.assemble((measure.name, "bold"), "  ", symbols.text(measure.title))
        return Group(title, Padding(grid, (1, 0, 0, 2)))

    return Adaptive(build)


def _facts(measure: Measure) -> tuple[tuple[str, object], ...]:
    conventions = ", ".join(measure.conventions) or "one way only"
    null = measure.null
    level = "" if null is None else null.label
    if null is not None and not null.varies:
        level = f"{null.level(0, 0):.4g}: {level}"
    return (
        ("level", measure.level),
        ("formula", measure.formula),
        ("unit", measure.unit),
        ("range", measure.range),
        ("prefers", f"{measure.direction} ({measure.direction_source})"),
        ("conventions", conventions),
        ("no structure", level),
        ("undefined", measure.undefined),
        ("note", measure.note),
        ("reference", measure.reference),
    )


def estimate_table(estimates: Estimates) -> RenderableType:
    """Return what a scan would take, as `--dry-run` prints it.

    The time of the measures that are made after the pass is not known before it.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    for label, words in (
        ("texts", f"{estimates.texts:,}"),
        ("forward passes, views included", f"{estimates.forward_passes:,}"),
        ("tokens", f"{estimates.tokens:,}"),
        ("layers and stages", f"{estimates.sites:,}"),
        ("time of the pass, about", duration(estimates.pass_seconds)),
        ("memory", size_words(estimates.memory_bytes)),
        ("disk while it runs", size_words(estimates.disk_bytes)),
    ):
        grid.add_row(label, words)
    return Group(
        grid, Text("The measures of views and of several layers take their time after it.", "dim")
    )


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(0.42), duration(75), duration(7380)
    ('0.4 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def size_words(number: int) -> str:
    """Return bytes in a unit that leaves few digits.

    >>> size_words(900), size_words(2_500_000), size_words(3_200_000_000)
    ('900 B', '2.5 MB', '3.2 GB')
    """
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
