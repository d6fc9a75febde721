"""A scan, and a choice, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope import selection
from layerscope.augmentation import of_spans
from layerscope.decision import Selection, decide
from layerscope.metrics.catalogue import CATALOGUE, Measure
from layerscope.selection import Agreement, Preference, Recommendation
from layerscope.table import Run
from layerscope.terminal.dynamics import dynamics_table
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import (
    MAX_ROWS,
    SHAPE_WIDTH,
    Column,
    decimals,
    layer_ranges,
    main_columns,
    number,
    settings_lines,
    sparkline,
    undefined_reasons,
)

_MOST_VOTES: Final = 3
SHORT_HEADS: Final = {
    "prompt_entropy": "prompt S",
    "dataset_entropy": "data S",
    "effective_rank": "eff.rank",
    "curvature": "curv",
    "infonce": "InfoNCE",
    "lidar": "LiDAR",
    "dime": "DiME",
}


def scan_summary(
    table: pd.DataFrame,
    contributions: pd.DataFrame,
    record: Mapping[str, Any],
    *,
    measures: Sequence[Measure] = CATALOGUE,
    choices: Sequence[Preference] | None = None,
    advice: Selection | None = None,
) -> RenderableType:
    """Return what `scan` prints: the run, its layers by the main measures, the layers preferred.

    Args:
        table: Results of one run.
        contributions: Its per-text numbers, for the layers that are within noise of each other.
        record: run.json as a dict; whatever it lacks is left out.
        measures: The catalogue.
        choices: The preferences of all measures, where they are made already.
        advice: The layer to use by the default rule, where it is chosen already.
    """
    columns = main_columns(table, measures)
    shown = [column.measure for column in columns]
    views = [measure for measure in measures if measure.main and measure.level == "view"]
    wanted = [measure for measure in measures if measure in shown or measure in views]
    if choices is None:
        choices = selection.preferences(table, contributions, measures=wanted)
    names = {measure.name for measure in wanted}
    choices = [choice for choice in choices if choice.metric in names]
    own = {(item.measure.name, item.perturbation) for item in columns}
    main = [choice for choice in choices if (choice.metric, choice.perturbation) in own]
    spans = [choice for choice in choices if choice not in main and of_spans(choice.perturbation)]
    if advice is None:
        advice = decide(Run(table, contributions, dict(record)), rules=())
    votes = selection.recommendation(main, measures=shown)

    def build(symbols: Symbols) -> RenderableType:
        parts = [_header(record, table, symbols)]
        if columns:
            parts.append(Padding(_layers(columns, table, symbols), (0, 0, 0, 1)))
        parts.append(_footnotes(columns, record, symbols))
        if columns:
            parts.append(_preferences([*main, *spans], measures, symbols))
        if (dynamics := dynamics_table(table, symbols)) is not None:
            parts.append(dynamics)
        if columns:
            parts.append(_advice(advice, votes, symbols))
        return Group(*parts)

    return Adaptive(build)


def preference_table(
    choices: Sequence[Preference], *, measures: Sequence[Measure] = CATALOGUE
) -> RenderableType:
    """Return the table of preferred layers alone."""
    return Adaptive(lambda symbols: _preferences(choices, measures, symbols))


def _header(record: Mapping[str, Any], table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    model = record.get("model", {})
    name = model.get("name") or table["model"].iloc[0]
    revision = model.get("revision")
    title = Text(symbols.text(name), style="bold")
    title.append(symbols.text(f" @ {revision}") if revision else "", style="dim")
    texts = None if table["n"].dropna().empty else int(table["n"].max())
    lines = [Text(symbols.text(line)) for line in settings_lines(record, texts)]
    return Padding(Group(title, *lines), (0, 0, 1, 1))


def _layers(columns: Sequence[Column], table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    """Return the table with a row per layer and a column per measure."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    grid.add_column("layer\n", Text("shape", "dim"), justify="right", no_wrap=True, width=5)
    grid.add_column("depth\n", justify="right", no_wrap=True, width=5)
    for item in columns:
        head = Text(symbols.text(SHORT_HEADS.get(item.measure.name, item.measure.title)))
        head.append(f"\n{_wanted(item.measure)}", style="dim")
        shape = Text(sparkline(list(item.values.values()), symbols), style="cyan")
        grid.add_column(head, shape, justify="right", no_wrap=True, width=SHAPE_WIDTH)
    blocks = selection.number_of_blocks(table)
    for layer in _shown_layers(columns):
        cells = [_cell(item, layer, symbols) for item in columns]
        depth = f"{layer / blocks if blocks else 0:.2f}"
        grid.add_row(Text(str(layer), "bold"), Text(depth, "dim"), *cells)
    if any(item.final is not None for item in columns):
        final = [number(item.final, item.decimals, symbols) + " " for item in columns]
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
    words = number(item.values.get(layer), item.decimals, symbols)
    flat = item.least == item.greatest
    for end, mark, wanted in (
        (item.least, symbols.least, "least"),
        (item.greatest, symbols.greatest, "most"),
    ):
        if layer == end and not flat:
            preferred = str(item.measure.direction) == wanted
            return Text(words + mark, style="bold green" if preferred else "yellow")
    return Text(words + " ", style="dim" if layer not in item.values else "")


def _wanted(measure: Measure) -> str:
    return "" if str(measure.direction) == "none" else str(measure.direction)


def _footnotes(
    columns: Sequence[Column], record: Mapping[str, Any], symbols: Symbols
) -> RenderableType:
    down, up = symbols.least, symbols.greatest
    conventions = ", ".join(dict.fromkeys(c.convention for c in columns if c.convention))
    lines = []
    if columns:
        told = f"  convention: {conventions}" if conventions else ""
        lines.append(f"{down} least  {up} greatest{told}")
    if any(item.final is not None for item in columns):
        lines[0] += "  norm: after the final norm"
    shown, every = len(_shown_layers(columns)), len({k for c in columns for k in c.values})
    if shown < every:
        lines.append(f"{shown} of {every} layers shown: evenly spaced ones and all that are marked")
    names = {(item.measure.name, item.convention, item.perturbation) for item in columns}
    drawn = [
        entry
        for entry in record.get("undefined", ())
        if (entry.get("metric"), entry.get("convention") or "", _views_of(entry, columns)) in names
    ]
    for metric, _, layers, reason in undefined_reasons({"undefined": drawn}):
        where = f"layer {layers}" if layers else "every layer"
        lines.append(f"{symbols.undefined} {metric} at {where}: {reason}")
    lines.extend(f"! {note}" for note in record.get("notes", ()))
    return Padding(Text(symbols.text("\n".join(lines)), "dim"), (0, 0, 1, 1))


def _views_of(entry: Mapping[str, Any], columns: Sequence[Column]) -> str:
    """Return the perturbation of an undefined value; records of old did not say the only one."""
    shown = {item.measure.name: item.perturbation for item in columns}
    return str(entry.get("perturbation") or shown.get(str(entry.get("metric")), ""))


def _preferences(
    choices: Sequence[Preference], measures: Sequence[Measure], symbols: Symbols
) -> RenderableType:
    """Return one row a measure: the preferred layer, what it gains, whether conventions agree.

    Measures on parts of texts stand in tables of their own, one for each kind.
    """
    titles = {measure.name: symbols.text(measure.title) for measure in measures}
    first = [choice for choice in choices if not of_spans(choice.perturbation)]
    parts: list[RenderableType] = [_preference_grid(first, titles, symbols)] if first else []
    for label in dict.fromkeys(c.perturbation for c in choices if of_spans(c.perturbation)):
        own = [choice for choice in choices if choice.perturbation == label]
        parts += [
            Text(symbols.text(f"\non {label}:"), "bold"),
            _preference_grid(own, titles, symbols),
        ]
    legend = f"paper: layer on raw states; {symbols.same} same, {symbols.overlap} within noise, "
    parts.append(Text(f"{legend}{symbols.differ} another", "dim"))
    return Padding(Group(*parts), (0, 0, 1, 1))


def _preference_grid(
    choices: Sequence[Preference], titles: Mapping[str, str], symbols: Symbols
) -> RenderableType:
    agreed = {item.metric: item for item in selection.agreement(choices)}
    papers = {c.metric: c for c in choices if c.convention == selection.PAPER}
    grid = grid_of(
        "measure", "prefers", "layer", "there", "last", "middle", "within noise", "paper"
    )
    grid.columns[0].min_width = 15  # tables below one another align
    for index in (2, 3, 4, 5):
        grid.columns[index].justify = "right"
    for choice in _decisive(choices):
        values = (choice.value, choice.last_value, choice.middle_value)
        digits = decimals([value for value in values if value is not None])
        grid.add_row(
            Text(titles.get(choice.metric, symbols.text(choice.metric))),
            Text(choice.direction, "dim"),
            Text(str(choice.layer), "bold green"),
            *(Text(number(value, digits, symbols)) for value in values),
            Text(layer_ranges(choice.within_noise)),
            _paper(papers.get(choice.metric), agreed.get(choice.metric), symbols),
        )
    return grid


def _decisive(choices: Sequence[Preference]) -> list[Preference]:
    """Return one preference a measure: normalized, or where that was not asked for, the first."""
    found: dict[str, Preference] = {}
    for choice in choices:
        if choice.convention == selection.NORMALIZED or choice.metric not in found:
            found[choice.metric] = choice
    return [choice for choice in found.values() if choice.layer is not None]


def _paper(choice: Preference | None, agreed: Agreement | None, symbols: Symbols) -> Text:
    if choice is None or choice.layer is None or agreed is None:
        return Text(symbols.undefined, "dim")
    if agreed.same:
        return Text(f"{choice.layer} {symbols.same}", "green")
    if agreed.overlap:
        return Text(f"{choice.layer} {symbols.overlap}")
    return Text(f"{choice.layer} {symbols.differ}", "red")


def _advice(advice: Selection, votes: Recommendation, symbols: Symbols) -> RenderableType:
    """Return the layer to use with the sentence that says how sure it is, then the paper's votes."""
    head, by, rest = symbols.text(advice.sentence).partition(" by the rule")
    text = Text.assemble((head, "bold green"), by, rest) if rest else Text(head)
    if votes.votes:
        counted = ", ".join(
            f"layer {vote.layer} ({len(vote.metrics)} of {votes.voters})"
            for vote in votes.votes[:_MOST_VOTES]
        )
        text.append(symbols.text(f"\nThe paper's measures vote for {counted}."), "dim")
    return Padding(text, (0, 0, 0, 1))
