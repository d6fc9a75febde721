"""What a scan, a choice and the catalogue look like in a terminal of 80 columns.

Everything returned here is a rich renderable. Least and greatest are told by a sign, not by color
alone, and a terminal that is not UTF-8 gets the same in ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope import selection
from layerscope.metrics.catalogue import CATALOGUE, Measure
from layerscope.selection import Agreement, Preference, Recommendation

if TYPE_CHECKING:
    from layerscope.estimates import Estimates

MAX_ROWS: Final = 40
SHAPE_WIDTH: Final = 8
SHORT_HEADS: Final = {
    "prompt_entropy": "prompt S",
    "dataset_entropy": "data S",
    "effective_rank": "eff.rank",
    "curvature": "curv",
    "infonce": "InfoNCE",
    "lidar": "LiDAR",
    "dime": "DiME",
}


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


@dataclass(frozen=True)
class Column:
    """One measure in one convention: its values after each block and after the final norm."""

    measure: Measure
    convention: str
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


def scan_summary(
    table: pd.DataFrame,
    contributions: pd.DataFrame,
    record: Mapping[str, Any],
    *,
    measures: Sequence[Measure] = CATALOGUE,
) -> RenderableType:
    """Return what `scan` prints: the run, its layers by the main measures, the layers preferred.

    Args:
        table: Results of one run.
        contributions: Its per-text numbers, for the layers that are within noise of each other.
        record: run.json as a dict; whatever it lacks is left out.
        measures: The catalogue.
    """
    columns = main_columns(table, measures)
    shown = [column.measure for column in columns]
    main = selection.preferences(table, contributions, measures=shown)
    advice = selection.recommendation(main, measures=shown)
    return Adaptive(
        lambda symbols: Group(
            _header(record, table, symbols),
            Padding(_layers(columns, table, symbols), (0, 0, 0, 1)),
            _footnotes(columns, record, symbols),
            _preferences(main, measures, symbols),
            _advice(advice, table, symbols),
        )
    )


def preference_table(
    choices: Sequence[Preference], *, measures: Sequence[Measure] = CATALOGUE
) -> RenderableType:
    """Return the table of preferred layers alone, as `select` prints it."""
    return Adaptive(lambda symbols: _preferences(choices, measures, symbols))


def recommendation_line(advice: Recommendation, table: pd.DataFrame) -> RenderableType:
    """Return the recommended layer with the sentence that says how far to trust it."""
    return Adaptive(lambda symbols: _advice(advice, table, symbols))


def catalogue_table(measures: Sequence[Measure] = CATALOGUE) -> RenderableType:
    """Return one line a measure: its name, what it is, its level, which values are preferred."""

    def build(symbols: Symbols) -> RenderableType:
        grid = _grid("name", "measure", "level", "prefers", "conv.")
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


def estimate_table(estimates: Estimates) -> RenderableType:
    """Return what a scan would take, as `--dry-run` prints it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    for label, words in (
        ("texts", f"{estimates.texts:,}"),
        ("forward passes, views included", f"{estimates.forward_passes:,}"),
        ("tokens", f"{estimates.tokens:,}"),
        ("layers and stages", f"{estimates.sites:,}"),
        ("time of the pass", _duration(estimates.pass_seconds)),
        ("memory", _size(estimates.memory_bytes)),
        ("disk while it runs", _size(estimates.disk_bytes)),
    ):
        grid.add_row(label, words)
    return grid


def _duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> _duration(0.42), _duration(75), _duration(7380)
    ('0.4 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def _size(number: int) -> str:
    """Return bytes in a unit that leaves few digits.

    >>> _size(900), _size(2_500_000), _size(3_200_000_000)
    ('900 B', '2.5 MB', '3.2 GB')
    """
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def main_columns(
    table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE
) -> tuple[Column, ...]:
    """Return the paper's measures that the table holds, each in the convention to decide by.

    Where the table holds none of them, the first seven that it does hold.
    """
    found: dict[str, tuple[Measure, str]] = {}
    for measure, convention in selection.measured(table, measures):
        if convention == selection.NORMALIZED or measure.name not in found:
            found[measure.name] = (measure, convention)
    seven = [pair for pair in found.values() if pair[0].paper_seven]
    chosen = seven or list(found.values())[:7]
    return tuple(column(table, measure, convention) for measure, convention in chosen)


def column(table: pd.DataFrame, measure: Measure, convention: str) -> Column:
    """Return one measure's values by layer."""
    rows = selection.of_measure(table, measure.name, convention)["value"]
    normed = selection.of_measure(table, measure.name, convention, selection.FINAL_NORM)["value"]
    values = dict(zip(rows.index.astype(int).tolist(), rows.astype(float).tolist(), strict=True))
    return Column(measure, convention, values, float(normed.iloc[0]) if len(normed) else None)


def decimals(values: Iterable[float]) -> int:
    """Return the decimals that show four digits of the greatest of the values, 0 to 4.

    >>> decimals([171.5, 88.0]), decimals([0.78, -2.4]), decimals([0.012]), decimals([])
    (1, 3, 4, 3)
    """
    size = max((abs(value) for value in values), default=1.0)
    return min(4, max(0, 3 - math.floor(math.log10(size)))) if size > 0 else 3


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
    """Return (metric, conventions, layers, reason) of a record's undefined values, grouped."""
    groups: dict[tuple[str, str], tuple[list[str], list[str], list[int]]] = {}
    for entry in record.get("undefined", ()):
        key = (str(entry.get("metric", "")), str(entry.get("reason", "no reason was recorded")))
        conventions, stages, layers = groups.setdefault(key, ([], [], []))
        conventions.append(str(entry.get("convention") or ""))
        if entry.get("stage", selection.BLOCK) != selection.BLOCK:
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
    return ", ".join(str(part) for part in (model.get("class"), blocks, dim, size, dtype) if part)


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
    cut = f"{data['truncated']} cut to the longest length" if data.get("truncated") else ""
    return ", ".join(part for part in (f"left out: {dropped}" if dropped else "", cut) if part)


def _tokens_line(settings: Mapping[str, Any]) -> str:
    counted = {True: "counted", False: "left out", "keep": "counted", "drop": "left out"}
    special, first = (settings.get(key) for key in ("special_tokens", "first_token"))
    ratio = settings.get("first_token_ratio")
    beside = "" if ratio is None else f" (norm {ratio:.3g} x the median)"
    parts = (
        f"{settings['pooling']} pooling" if "pooling" in settings else "",
        "" if special is None else f"special tokens {counted.get(special, special)}",
        "" if first is None else f"first token {counted.get(first, first)}{beside}",
    )
    return ", ".join(part for part in parts if part)


def _time_line(times: Mapping[str, Any]) -> str:
    if "total" not in times:
        return ""
    parts = ", ".join(f"{name} {times[name]:.1f}" for name in times if name != "total")
    return f"{times['total']:.1f} s" + (f" ({parts})" if parts else "")


def _header(record: Mapping[str, Any], table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    model = record.get("model", {})
    name = model.get("name") or table["model"].iloc[0]
    revision = model.get("revision")
    title = Text(symbols.text(name), style="bold")
    title.append(symbols.text(f" @ {revision}") if revision else "", style="dim")
    number = None if table["n"].dropna().empty else int(table["n"].max())
    lines = [Text(symbols.text(line)) for line in settings_lines(record, number)]
    return Padding(Group(title, *lines), (0, 0, 1, 1))


def _grid(*heads: str) -> Table:
    """Return an empty table whose columns are one space apart."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _layers(columns: Sequence[Column], table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    """Return the table with a row per layer and a column per measure."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    grid.add_column("layer\n", Text("shape", "dim"), justify="right", no_wrap=True, width=5)
    grid.add_column("depth\n", justify="right", no_wrap=True, width=5)
    for item in columns:
        head = Text(symbols.text(SHORT_HEADS.get(item.measure.name, item.measure.title)))
        head.append(f"\n{_wanted(item.measure)}", style="dim")
        shape = Text(_shape(list(item.values.values()), symbols), style="cyan")
        grid.add_column(head, shape, justify="right", no_wrap=True, width=SHAPE_WIDTH)
    blocks = selection.number_of_blocks(table)
    for layer in _shown_layers(columns):
        cells = [_cell(item, layer, symbols) for item in columns]
        depth = f"{layer / blocks if blocks else 0:.2f}"
        grid.add_row(Text(str(layer), "bold"), Text(depth, "dim"), *cells)
    if any(item.final is not None for item in columns):
        final = [_number(item.final, item.decimals, symbols) + " " for item in columns]
        grid.add_row(Text("norm", "bold"), Text("out", "dim"), *map(Text, final))
    return grid


def _shown_layers(columns: Sequence[Column]) -> list[int]:
    """Return at most about MAX_ROWS layers: evenly spaced ones, both ends, and every marked one."""
    layers = sorted({layer for item in columns for layer in item.values})
    ends = {item.least for item in columns} | {item.greatest for item in columns}
    for stride in range(1, len(layers) + 1):
        kept = {*layers[::stride], *layers[-1:], *(end for end in ends if end is not None)}
        if len(kept) <= MAX_ROWS or stride == len(layers):
            return sorted(kept)
    return layers


def _cell(item: Column, layer: int, symbols: Symbols) -> Text:
    """Return a value with its mark; the end that the measure prefers stands out."""
    words = _number(item.values.get(layer), item.decimals, symbols)
    flat = item.least == item.greatest
    for end, mark, wanted in (
        (item.least, symbols.least, "least"),
        (item.greatest, symbols.greatest, "most"),
    ):
        if layer == end and not flat:
            preferred = str(item.measure.direction) == wanted
            return Text(words + mark, style="bold green" if preferred else "yellow")
    return Text(words + " ", style="dim" if layer not in item.values else "")


def _number(value: float | None, digits: int, symbols: Symbols) -> str:
    if value is None:
        return symbols.undefined
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.1e}"


def _wanted(measure: Measure) -> str:
    return "" if str(measure.direction) == "none" else str(measure.direction)


def _shape(values: Sequence[float], symbols: Symbols) -> str:
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


def _footnotes(
    columns: Sequence[Column], record: Mapping[str, Any], symbols: Symbols
) -> RenderableType:
    down, up = symbols.least, symbols.greatest
    conventions = ", ".join(dict.fromkeys(c.convention for c in columns if c.convention))
    lines = [
        f"{down} least  {up} greatest" + (f"  convention: {conventions}" if conventions else "")
    ]
    if any(item.final is not None for item in columns):
        lines[0] += "  norm: after the final norm"
    shown, every = len(_shown_layers(columns)), len({k for c in columns for k in c.values})
    if shown < every:
        lines.append(f"{shown} of {every} layers shown: evenly spaced ones and all that are marked")
    names = {(item.measure.name, item.convention) for item in columns}
    drawn = [
        entry
        for entry in record.get("undefined", ())
        if (entry.get("metric"), entry.get("convention") or "") in names
    ]
    for metric, _, layers, reason in undefined_reasons({"undefined": drawn}):
        where = f"layer {layers}" if layers else "every layer"
        lines.append(f"{symbols.undefined} {metric} at {where}: {reason}")
    lines.extend(f"! {note}" for note in record.get("notes", ()))
    return Padding(Text(symbols.text("\n".join(lines)), "dim"), (0, 0, 1, 1))


def _preferences(
    choices: Sequence[Preference], measures: Sequence[Measure], symbols: Symbols
) -> RenderableType:
    """Return one row a measure: the preferred layer, what it gains, whether conventions agree."""
    titles = {measure.name: measure.title for measure in measures}
    agreed = {item.metric: item for item in selection.agreement(choices)}
    papers = {c.metric: c for c in choices if c.convention == selection.PAPER}
    grid = _grid("measure", "prefers", "layer", "there", "last", "middle", "within noise", "paper")
    for index in (2, 3, 4, 5):
        grid.columns[index].justify = "right"
    for choice in choices:
        if choice.convention in (selection.NORMALIZED, "") and choice.layer is not None:
            values = (choice.value, choice.last_value, choice.middle_value)
            digits = decimals([value for value in values if value is not None])
            grid.add_row(
                Text(symbols.text(titles.get(choice.metric, choice.metric))),
                Text(choice.direction, "dim"),
                Text(str(choice.layer), "bold green"),
                *(Text(_number(value, digits, symbols)) for value in values),
                Text(layer_ranges(choice.within_noise)),
                _paper(papers.get(choice.metric), agreed.get(choice.metric), symbols),
            )
    legend = f"paper: layer on raw states; {symbols.same} same, {symbols.overlap} within noise, "
    lines = Group(grid, Text(f"{legend}{symbols.differ} another", "dim"))
    return Padding(lines, (0, 0, 1, 1))


def _paper(choice: Preference | None, agreed: Agreement | None, symbols: Symbols) -> Text:
    if choice is None or choice.layer is None or agreed is None:
        return Text(symbols.undefined, "dim")
    if agreed.same:
        return Text(f"{choice.layer} {symbols.same}", "green")
    if agreed.overlap:
        return Text(f"{choice.layer} {symbols.overlap}")
    return Text(f"{choice.layer} {symbols.differ}", "red")


def _advice(advice: Recommendation, table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    blocks = selection.number_of_blocks(table)
    if advice.layer is None:
        return Padding(Text(symbols.text(advice.sentence)), (0, 0, 0, 1))
    text = Text.assemble((f"Layer {advice.layer} of {blocks}", "bold green"))
    return Padding(text.append(advice.sentence.removeprefix(f"Layer {advice.layer}")), (0, 0, 0, 1))


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
