"""How measures go with task scores, in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.correlation import Findings, Summary, labels
from layerscope.terminal.signs import Adaptive, Symbols

MOST_ROWS: Final = 40
READING: Final = (
    "medians over pairs of a model and a task: distance correlation, its bias-corrected square, "
    "Spearman, Kendall's tau, Spearman given depth and depth squared"
)


def correlation_table(findings: Findings) -> RenderableType:
    """Return a row a measure, the closest first, with the notes that it is to be read by."""

    def build(symbols: Symbols) -> RenderableType:
        return Group(
            Padding(_heading(findings, symbols), (0, 0, 1, 1)),
            Padding(_grid(findings, symbols), (0, 0, 1, 1)),
            Padding(_notes(findings, symbols), (0, 0, 0, 1)),
        )

    return Adaptive(build)


def _heading(findings: Findings, symbols: Symbols) -> Text:
    scores = [association.score for association in findings.associations]
    models = sorted({score.cluster for score in scores})
    tasks = sorted({score.name for score in scores})
    layers = sorted({len(each.curve.layers) for each in findings.associations})
    ends = " to ".join(map(str, dict.fromkeys((layers[0], layers[-1]))))
    text = Text(symbols.text(_counted(models, "models")), "bold")
    pairs = f" ({_most(findings)} pairs)" if len(models) > 1 < len(tasks) else ""
    words = f" on {_counted(tasks, 'tasks')}{pairs}, over {ends} layers"
    return text.append(symbols.text(words), "not bold")


def _most(findings: Findings) -> int:
    """Return how many pairs of model and task any measure has."""
    return max(summary.units for summary in findings.summaries)


def _counted(names: Iterable[str], kind: str) -> str:
    """Return one name, or how many there are."""
    known = list(names)
    return known[0] if len(known) == 1 else f"{len(known)} {kind}"


def _grid(findings: Findings, symbols: Symbols) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    grid.add_column("\nmeasure", overflow="fold")
    heads = (
        ("", "dCor"), ("bias", "corr."), ("Spearman", "[95 % limits]"), ("", "tau"),
        ("given", "depth"), ("p", "shift"), ("p", "walk"), ("p", "Holm"),
    )  # fmt: skip
    for words in heads:
        grid.add_column("\n".join(words), justify="right", no_wrap=True)
    named = labels(summary.measure for summary in findings.summaries)
    most = _most(findings)
    for summary in findings.summaries[:MOST_ROWS]:
        below = [
            named[summary.measure].removeprefix(summary.measure.metric).strip(" ,"),
            "" if summary.units == most else f"n = {summary.units}",
        ]
        name = Text(symbols.text(summary.measure.metric), "bold green" if summary.holds else "")
        for line in filter(None, below):
            name.append(symbols.text(f"\n{line}"), "dim not bold default")
        grid.add_row(
            name,
            Text(_short(summary.dcor, symbols), "bold"),
            _short(summary.bias_corrected, symbols),
            _limits(summary, symbols),
            _short(summary.kendall, symbols),
            _short(summary.partial, symbols),
            _p(summary.p_shift),
            _p(summary.p_walk),
            Text(_p(summary.p_holm), "bold green" if summary.holds else ""),
        )
    return grid


def _limits(summary: Summary, symbols: Symbols) -> str:
    middle = _short(summary.spearman, symbols)
    if summary.low is None or summary.high is None:
        return middle
    return f"{middle} [{_short(summary.low, symbols)}, {_short(summary.high, symbols)}]"


def _short(value: float | None, symbols: Symbols) -> str:
    """Return a coefficient with two decimals and no zero before them: it lies within -1 and 1."""
    if value is None:
        return symbols.undefined
    return f"{value:z.2f}".replace("0.", ".", 1)


def _p(value: float) -> str:
    """Return a p value in four signs at most."""
    if value < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else "1"


def _notes(findings: Findings, symbols: Symbols) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    notes = [*_hidden(len(findings.summaries)), READING, *findings.notes]
    for note in notes:
        grid.add_row(Text("-", "dim"), Text(symbols.text(note), "dim"))
    return grid


def _hidden(count: int) -> list[str]:
    more = count - MOST_ROWS
    return [f"{more} more measures: --json, or table() in Python, has all"] if more > 0 else []
