"""Results in words and rounded numbers, and the signs and tables that a terminal can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table

from layerscope.data.views import of_spans
from layerscope.decisions import evidence
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.results import table as table_module


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


MAX_ROWS: Final = 40
SHAPE_WIDTH: Final = 8


@dataclass(frozen=True)
class Column:
    """One measure in one convention on one kind of views: its values at the blocks and the end."""

    measure: Measure
    convention: str
    perturbation: str
    values: Mapping[int, float]
    final: float | None

    @property
    def least(self) -> int | None:
        """The shallowest layer of the least value."""
        return min(self.values, key=lambda k: (self.values[k], k)) if self.values else None

    @property
    def greatest(self) -> int | None:
        """The shallowest layer of the greatest value."""
        return min(self.values, key=lambda k: (-self.values[k], k)) if self.values else None

    @property
    def decimals(self) -> int:
        """Decimals that show four digits of the greatest number in the column."""
        return decimals([*self.values.values(), *([] if self.final is None else [self.final])])


def main_columns(
    table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE
) -> tuple[Column, ...]:
    """Return the paper's measures that the table holds, each in the convention to decide by.

    Where the table holds none of them, the first seven that it does hold. Measures of views are those
    on the kind that they are meant for, as far as it is there.
    """
    found: dict[str, tuple[Measure, str]] = {}
    for measure, convention in evidence.measured(table, measures):
        if convention == evidence.NORMALIZED or measure.name not in found:
            found[measure.name] = (measure, convention)
    seven = [pair for pair in found.values() if pair[0].paper_seven]
    chosen = seven or list(found.values())[:7]
    return tuple(
        column(table, measure, convention, own_views(table, measure, convention))
        for measure, convention in chosen
    )


def own_views(table: pd.DataFrame, measure: Measure, convention: str) -> str:
    """Return the views to show a measure on: the first of the kind that it is meant for, or any."""
    labels = evidence.perturbations(table, measure.name, convention)
    return next((label for label in labels if of_spans(label) == measure.on_spans), labels[0])


def column(table: pd.DataFrame, measure: Measure, convention: str, perturbation: str) -> Column:
    """Return one measure's values by layer."""

    def at(stage: str) -> pd.Series[float]:
        return evidence.of_measure(table, measure.name, convention, stage, perturbation)["value"]

    rows, normed = at(table_module.BLOCK), at(table_module.FINAL_NORM)
    values = dict(zip(rows.index.astype(int).tolist(), rows.astype(float).tolist(), strict=True))
    final = float(normed.iloc[0]) if len(normed) else None
    return Column(measure, convention, perturbation, values, final)


def decimals(values: Iterable[float]) -> int:
    """Return the decimals that show four digits of the greatest of the values, 0 to 4.

    >>> decimals([171.5, 88.0]), decimals([0.78, -2.4]), decimals([0.012]), decimals([])
    (1, 3, 4, 3)
    """
    size = max((abs(value) for value in values), default=1.0)
    return min(4, max(0, 3 - math.floor(math.log10(size)))) if size > 0 else 3


def number(value: float | None, digits: int, symbols: Symbols) -> str:
    """Return a value with its decimals, or the sign for none."""
    if value is None:
        return symbols.undefined
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.1e}"


def sparkline(values: Sequence[float], symbols: Symbols) -> str:
    """Return the curve as a sparkline of at most SHAPE_WIDTH signs, long ones averaged in bins."""
    if not values:
        return ""
    width = min(SHAPE_WIDTH, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    bins = [values[start:stop] for start, stop in pairwise(edges)]
    means = [sum(part) / len(part) for part in bins]
    low, span = min(means), max(means) - min(means)
    top = len(symbols.ramp) - 1
    return "".join(symbols.ramp[round(top * (mean - low) / span) if span else 0] for mean in means)


def evenly(layers: Sequence[int]) -> list[int]:
    """Return at most about MAX_ROWS layers: evenly spaced ones and the last.

    >>> evenly(range(1, 5)), len(evenly(range(1, 127)))
    ([1, 2, 3, 4], 33)
    """
    stride = max(1, -(-len(layers) // MAX_ROWS))
    return sorted({*layers[::stride], *layers[-1:]})


def layer_ranges(layers: Iterable[int]) -> str:
    """Return layers as short text, neighbors joined.

    >>> layer_ranges([2, 3, 4, 7, 9, 10])
    '2-4, 7, 9, 10'
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def undefined_reasons(record: Mapping[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """Return (metric, conventions, layers, reason) of a record's undefined values, grouped.

    A metric on spans is named with them.
    """
    groups: dict[tuple[str, str], tuple[list[str], list[str], list[int]]] = {}
    for entry in record.get("undefined", ()):
        metric, views = str(entry.get("metric", "")), str(entry.get("perturbation", ""))
        name = f"{metric} on {views}" if of_spans(views) else metric
        key = (name, str(entry.get("reason", "no reason was recorded")))
        conventions, stages, layers = groups.setdefault(key, ([], [], []))
        conventions.append(str(entry.get("convention") or ""))
        if entry.get("stage", table_module.BLOCK) != table_module.BLOCK:
            stages.append(str(entry["stage"]))
        elif entry.get("layer") is not None:
            layers.append(int(entry["layer"]))
    return tuple(
        (
            metric,
            ", ".join(dict.fromkeys(filter(None, conventions))),
            ", ".join(filter(None, [layer_ranges(set(layers)), *dict.fromkeys(stages)])),
            reason,
        )
        for (metric, reason), (conventions, stages, layers) in groups.items()
    )


def settings_lines(record: Mapping[str, Any], texts: int | None = None) -> tuple[str, ...]:
    """Return the run in a few lines: model, texts, tokens that count, time, as far as known."""
    return tuple(
        line
        for line in (
            _model_line(record.get("model", {})),
            _data_line(record.get("data", {}), texts),
            _dropped_line(record.get("data", {})),
            _tokens_line(record.get("settings", {})),
            _views_line(record.get("augmentation", {})),
            _time_line(record.get("times", {})),
        )
        if line
    )


def _model_line(model: Mapping[str, Any]) -> str:
    parameters = model.get("parameters")
    size = None if parameters is None else f"{parameters / 1e6:,.1f} M parameters"
    dtype = " on ".join(str(model[key]) for key in ("dtype", "device") if model.get(key))
    blocks = None if model.get("blocks") is None else f"{model['blocks']} blocks"
    dim = None if model.get("dim") is None else f"{model['dim']} wide"
    return ", ".join(
        str(part)
        for part in (model.get("model_class", model.get("class")), blocks, dim, size, dtype)
        if part
    )


def _data_line(data: Mapping[str, Any], texts: int | None) -> str:
    number = data.get("texts", texts)
    if number is None:
        return ""
    tokens = f", {data['tokens']:,} tokens" if data.get("tokens") is not None else ""
    source = f" of {data['name']}" if data.get("name") else ""
    return f"{number:,} texts{source}{tokens}"


def _dropped_line(data: Mapping[str, Any]) -> str:
    kinds = {"duplicates": "duplicates", "empty": "empty", "short": "too short"}
    counts = [(data.get(f"dropped_{kind}"), words) for kind, words in kinds.items()]
    dropped = ", ".join(f"{count} {words}" for count, words in counts if count)
    return f"left out: {dropped}" if dropped else ""


def _tokens_line(settings: Mapping[str, Any]) -> str:
    counted = {True: "counted", False: "left out", "keep": "counted", "drop": "left out"}
    special, first = (settings.get(key) for key in ("special_tokens", "first_token"))
    ratio = settings.get("first_token_ratio")
    beside = "" if ratio is None else f" (norm {ratio:.3g} x the median)"
    parts = (
        f"{settings['pooling']} pooling" if "pooling" in settings else "",
        "" if settings.get("alpha", 1) == 1 else f"entropies of order {settings['alpha']}",
        "" if special is None else f"special tokens {counted.get(special, special)}",
        "" if first is None else f"first token {counted.get(first, first)}{beside}",
    )
    return ", ".join(part for part in parts if part)


def _views_line(kinds: Mapping[str, Any]) -> str:
    """Return how many views of how many texts there are of each kind."""
    parts = [
        f"{facts['texts']:,} x {facts['views']} {label}" if "views" in facts else label
        for label, facts in kinds.items()
    ]
    return f"views: {'; '.join(parts)}" if parts else ""


def _time_line(times: Mapping[str, Any]) -> str:
    if "total" not in times:
        return ""
    parts = ", ".join(f"{name} {times[name]:.1f}" for name in times if name != "total")
    return f"{times['total']:.1f} s" + (f" ({parts})" if parts else "")
