"""A scan, a choice of layer and the catalogue of measures in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.data.views import of_spans
from layerscope.decisions import choose, evidence
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.decisions.gains import Gain, Interval
from layerscope.decisions.rules import BASELINES, RANDOM
from layerscope.decisions.select import Selection, decide
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render.words import (
    MAX_ROWS,
    SHAPE_WIDTH,
    Adaptive,
    Column,
    Symbols,
    decimals,
    evenly,
    grid_of,
    layer_ranges,
    main_columns,
    number,
    settings_lines,
    sparkline,
    undefined_reasons,
)
from layerscope.results import table as table_module
from layerscope.results.table import Run

if TYPE_CHECKING:
    from layerscope.analysis.run import Estimates


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


@dataclass(frozen=True)
class _Head:
    """A column: the measure, its two lines of heading, its decimals."""

    metric: str
    words: str
    below: str
    decimals: int = 3


COLUMNS: Final = (
    _Head("frenet_speed_k32", "speed", "k32"),
    _Head("frenet_speed_k32_floor", "floor", "noise"),
    _Head("frenet_turning_k32", "turning", "k32", 2),
    _Head("nrs_k10", "NRS", "k10"),
    _Head("nrs_to_final_k10", "NRS", "to final"),
    _Head("gfmi_edge", "GFMI", "edge"),
    _Head("cka_unbiased", "CKA", "unbiased"),
    _Head("block_influence", "infl.", "tokens"),
)
SCORES: Final = (
    ("frenet_displacement_k32", "d_0,L (k32)", 3),
    ("frenet_straightness_k32", "straightness", 3),
    ("frenet_mean_turning_k32", "mean turning", 2),
    ("mean_nrs_k10", "mean NRS", 3),
    ("mean_gfmi_edge", "mean GFMI edge", 4),
)


def dynamics_table(table: pd.DataFrame, symbols: Symbols) -> RenderableType | None:
    """Return a row for each block and the model's scores, or None where neither was measured."""
    rows = table[(table["level"] == "pair") & table["value"].notna()]
    by_metric = {
        str(metric): dict(zip(part["layer"].astype(int), part["value"].astype(float), strict=True))
        for metric, part in rows.groupby("metric")
    }
    shown = [head for head in COLUMNS if head.metric in by_metric]
    scores = _scores(by_metric, symbols)
    if not shown and scores is None:
        return None
    parts: list[RenderableType] = [Text("Dynamics: what each block does", "bold")]
    if shown:
        parts.append(_blocks(shown, by_metric, symbols))
        legend = "null: unrelated layers or random subspaces; a speed near its floor is no motion"
        parts.append(Text(legend, "dim"))
    if scores is not None:
        parts.append(Padding(scores, (1, 0, 0, 0)))
    return Padding(Group(*parts), (0, 0, 1, 1))


def _blocks(
    shown: list[_Head], by_metric: Mapping[str, Mapping[int, float]], symbols: Symbols
) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    foot = Text("null\n", "dim").append("shape", "dim")
    grid.add_column("block\n", foot, justify="right", no_wrap=True, width=5)
    layers = sorted({layer for head in shown for layer in by_metric[head.metric] if layer})
    for head in shown:
        words = Text(symbols.text(head.words)).append(f"\n{head.below}", style="dim")
        null = next(iter(by_metric.get(f"{head.metric}_null", {}).values()), None)
        below = Text("" if null is None else number(null, head.decimals, symbols), "dim")
        curve = [by_metric[head.metric][k] for k in layers if k in by_metric[head.metric]]
        below.append("\n").append(sparkline(curve, symbols), "cyan")
        grid.add_column(words, below, justify="right", no_wrap=True, width=8)
    for layer in evenly(layers):
        cells = [number(by_metric[h.metric].get(layer), h.decimals, symbols) for h in shown]
        grid.add_row(Text(str(layer), "bold"), *cells)
    return grid


def _scores(by_metric: Mapping[str, Mapping[int, float]], symbols: Symbols) -> Table | None:
    """Return the model's scores, each with what it would be without structure."""
    grid = grid_of("whole model", "", "null", "floor", "bound")
    for column in grid.columns[1:]:
        column.justify = "right"
    for metric, name, digits in SCORES:
        for value in by_metric.get(metric, {}).values():
            ends = (by_metric.get(f"{metric}_{kind}", {}) for kind in ("null", "floor", "bound"))
            beside = [next(iter(end.values()), None) for end in ends]
            cells = ["" if level is None else f"{level:.{digits}f}" for level in beside]
            grid.add_row(name, number(value, digits, symbols), *cells)
    return grid if grid.row_count else None


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
    choices: Mapping[Key, Choice] | None = None,
    advice: Selection | None = None,
) -> RenderableType:
    """Return what `scan` prints: the run, its layers by the main measures, the layers preferred.

    Args:
        table: Results of one run.
        contributions: Its per-text numbers, for the layers that are within noise of each other.
        record: run.json as a dict; whatever it lacks is left out.
        measures: The catalogue.
        choices: The layer that each measure prefers, where it is known already.
        advice: The layer to use by the default rule, where it is chosen already.
    """
    columns = main_columns(table, measures)
    shown = [column.measure for column in columns]
    views = [measure for measure in measures if measure.main and measure.level == "view"]
    wanted = [measure for measure in measures if measure in shown or measure in views]
    if choices is None:
        (known,) = evidence.evidences(Run(table, contributions, dict(record)))
        choices = choose.preferred(known)
    names = {measure.name for measure in wanted}
    own = {(item.measure.name, item.perturbation) for item in columns}
    preferred = {
        key: choice
        for key, choice in choices.items()
        if key[0] in names and ((key[0], key[2]) in own or of_spans(key[2]))
    }
    if advice is None:
        advice = decide(Run(table, contributions, dict(record)), rules=())

    def build(symbols: Symbols) -> RenderableType:
        parts = [_scan_header(record, table, symbols)]
        if columns:
            parts.append(Padding(_scan_layers(columns, table, symbols), (0, 0, 0, 1)))
        parts.append(_scan_footnotes(columns, record, symbols))
        if columns:
            parts.append(_preferences(preferred, table, measures, symbols))
        if (dynamics := dynamics_table(table, symbols)) is not None:
            parts.append(dynamics)
        if columns:
            parts.append(_scan_advice(advice, symbols))
        return Group(*parts)

    return Adaptive(build)


def preference_table(
    choices: Mapping[Key, Choice],
    table: pd.DataFrame,
    *,
    measures: Sequence[Measure] = CATALOGUE,
) -> RenderableType:
    """Return the table of preferred layers alone."""
    return Adaptive(lambda symbols: _preferences(choices, table, measures, symbols))


def _scan_header(
    record: Mapping[str, Any], table: pd.DataFrame, symbols: Symbols
) -> RenderableType:
    model = record.get("model", {})
    name = model.get("name") or table["model"].iloc[0]
    revision = model.get("revision")
    title = Text(symbols.text(name), style="bold")
    title.append(symbols.text(f" @ {revision}") if revision else "", style="dim")
    texts = None if table["n"].dropna().empty else int(table["n"].max())
    lines = [Text(symbols.text(line)) for line in settings_lines(record, texts)]
    return Padding(Group(title, *lines), (0, 0, 1, 1))


def _scan_layers(
    columns: Sequence[Column], table: pd.DataFrame, symbols: Symbols
) -> RenderableType:
    """Return the table with a row per layer and a column per measure."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    grid.add_column("layer\n", Text("shape", "dim"), justify="right", no_wrap=True, width=5)
    grid.add_column("depth\n", justify="right", no_wrap=True, width=5)
    for item in columns:
        head = Text(symbols.text(SHORT_HEADS.get(item.measure.name, item.measure.title)))
        head.append(f"\n{_wanted(item.measure)}", style="dim")
        shape = Text(sparkline(list(item.values.values()), symbols), style="cyan")
        grid.add_column(head, shape, justify="right", no_wrap=True, width=SHAPE_WIDTH)
    blocks = evidence.number_of_blocks(table)
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


def _scan_footnotes(
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
    choices: Mapping[Key, Choice],
    table: pd.DataFrame,
    measures: Sequence[Measure],
    symbols: Symbols,
) -> RenderableType:
    """Return one row a measure: the preferred layer, its value, whether conventions agree.

    Measures on parts of texts have tables of their own, one for each kind.
    """
    parts: list[RenderableType] = []
    labels = dict.fromkeys(key[2] if of_spans(key[2]) else "" for key in choices)
    for label in sorted(labels, key=bool):
        own = {k: c for k, c in choices.items() if (k[2] if of_spans(k[2]) else "") == label}
        if label:
            parts.append(Text(symbols.text(f"\non {label}:"), "bold"))
        parts.append(_preference_grid(own, table, measures, symbols))
    legend = f"paper: layer on raw states; {symbols.same} same, {symbols.overlap} within noise, "
    parts.append(Text(f"{legend}{symbols.differ} another", "dim"))
    return Padding(Group(*parts), (0, 0, 1, 1))


def _preference_grid(
    choices: Mapping[Key, Choice],
    table: pd.DataFrame,
    measures: Sequence[Measure],
    symbols: Symbols,
) -> RenderableType:
    grid = grid_of(
        "measure", "prefers", "layer", "there", "last", "middle", "within noise", "paper"
    )
    grid.columns[0].min_width = 15  # tables below one another align
    for index in (2, 3, 4, 5):
        grid.columns[index].justify = "right"
    order = [measure.name for measure in measures]
    for key in sorted(_decisive(choices), key=lambda key: order.index(key[0])):
        choice, measure = choices[key], measures[order.index(key[0])]
        values = evidence.beside_baselines(table, key, choice.layer)
        digits = decimals([value for value in values if value is not None])
        grid.add_row(
            Text(symbols.text(measure.title)),
            Text(str(measure.direction), "dim"),
            Text(str(choice.layer), "bold green"),
            *(Text(number(value, digits, symbols)) for value in values),
            Text(layer_ranges(choice.within_noise)),
            _paper(choices, key, symbols),
        )
    return grid


def _decisive(choices: Mapping[Key, Choice]) -> list[Key]:
    """Return one choice a measure: normalized, or where that is missing, the first."""
    found: dict[str, Key] = {}
    for key, choice in choices.items():
        better = key[1] == evidence.NORMALIZED or key[0] not in found
        if choice.layer is not None and better:
            found[key[0]] = key
    return list(found.values())


def _paper(choices: Mapping[Key, Choice], key: Key, symbols: Symbols) -> Text:
    raw = choices.get((key[0], evidence.PAPER, key[2]))
    if raw is None or raw.layer is None or key[1] != evidence.NORMALIZED:
        return Text(symbols.undefined, "dim")
    signs = {
        "same": (symbols.same, "green"),
        "within noise": (symbols.overlap, ""),
        "another": (symbols.differ, "red"),
    }
    sign, style = signs[choose.agreement(raw, choices[key])]
    return Text(f"{raw.layer} {sign}", style)


def _scan_advice(advice: Selection, symbols: Symbols) -> RenderableType:
    """Return the layer to use with the sentence that says how sure it is."""
    head, by, rest = symbols.text(advice.sentence).partition(" by the rule")
    text = Text.assemble((head, "bold green"), by, rest) if rest else Text(head)
    return Padding(text, (0, 0, 0, 1))


_MOST_LAYERS: Final = 3  # of different sets of texts, listed one by one
_MOST_TASKS: Final = 12


def selection_summary(
    found: Selection, record: Mapping[str, Any], *, every: bool = False
) -> RenderableType:
    """Return what `select` prints: the layer and how sure it is, the rules, what they gained.

    Args:
        found: what `decision.decide` returned.
        record: run.json as a dict; whatever it lacks is left out.
        every: whether to show every rule and task, not only the main ones.
    """

    def build(symbols: Symbols) -> RenderableType:
        parts = [
            _selection_header(record, symbols),
            _selection_advice(found, symbols),
            _choices(found, every, symbols),
        ]
        if found.gains:
            parts.append(_gains(found, every, symbols))
            parts.extend(_by_task(found, every, symbols))
        parts.extend(_selection_footnotes(found, every, symbols))
        return Group(*parts)

    return Adaptive(build)


def _selection_header(record: Mapping[str, Any], symbols: Symbols) -> RenderableType:
    model = record.get("model", {})
    title = Text(symbols.text(model.get("name", "")), style="bold")
    title.append(symbols.text(f" @ {model['revision']}") if model.get("revision") else "", "dim")
    lines = [Text(symbols.text(line)) for line in settings_lines(record)]
    return Padding(Group(title, *lines), (0, 0, 1, 1))


def _selection_advice(found: Selection, symbols: Symbols) -> RenderableType:
    words = symbols.text(found.sentence)
    head, _, rest = words.partition(" by the rule")
    text = Text.assemble((head, "bold green"), f" by the rule{rest}") if rest else Text(words)
    return Padding(text, (0, 0, 1, 1))


def _shown(found: Selection, every: bool) -> list[str]:
    """Return the rules to show: the one that is followed first."""
    names = [rule.name for rule in found.rules if every or rule.main]
    return list(dict.fromkeys([found.rule, *names]))


def _choices(found: Selection, every: bool, symbols: Symbols) -> RenderableType:
    """Return a row a rule: its layer, what is within noise, how often it wins, what flips it."""
    sets = {(choice.model, choice.data) for choice in found.choices}
    one = len(sets) == 1
    heads = ("within noise", "wins", "other conventions") if one else ()
    grid = grid_of("rule", "layer", *heads)
    for index in (1, 3) if one else (1,):
        grid.columns[index].justify = "right"
    for name in _shown(found, every):
        chosen = found.of(name)
        if chosen:
            label = Text(symbols.text(name), "bold green" if name == found.rule else "")
            sureness = _sureness(chosen[0], symbols) if one else ()
            grid.add_row(label, Text(_selection_layers(chosen)), *sureness)
    notes = []
    if any(choice.stage == table_module.FINAL_NORM for choice in found.choices):
        notes.append("norm: what the model gives, after its final norm")
    if not one:
        notes.append(f"the layers of {len(sets)} sets of texts")
    elif any(choice.wins for choice in found.choices):
        notes.append("wins: share of the resamples of the texts that choose the layer again")
    lines = [Text(note, "dim") for note in notes]
    return Padding(Group(grid, *lines), (0, 0, 1, 1))


def _sureness(choice: Choice, symbols: Symbols) -> tuple[Text, Text, Text]:
    won = "" if choice.won is None else f"{100 * choice.won:.0f} %"
    near = "" if choice.fixed else layer_ranges(choice.within_noise)
    others = Text(_others(choice, symbols), "red" if choice.agrees is False else "")
    return Text(near), Text(won), others


def _selection_layers(chosen: Sequence[Choice]) -> str:
    """Return the layer of a rule, or of several sets of texts the range that its layers span."""
    if all(choice.stage == table_module.FINAL_NORM for choice in chosen):
        return "norm"
    layers = [choice.layer for choice in chosen if choice.layer is not None]
    return _span(layers) if layers else "any" if chosen[0].rule == RANDOM.name else "none"


def _span(layers: Iterable[int]) -> str:
    """Return layers as short text.

    >>> _span([3, 3]), _span([1, 2, 9]), _span([1, 4, 6, 9])
    ('3', '1, 2, 9', '1..9')
    """
    known = sorted(set(layers))
    few = len(known) <= _MOST_LAYERS
    return layer_ranges(known) if few else f"{known[0]}..{known[-1]}"


def _others(choice: Choice, symbols: Symbols) -> str:
    """Return whether other conventions take the same layer, and which they take if not."""
    if choice.agrees is None:
        return ""
    if choice.agrees:
        return symbols.same
    others = [f"{name} {k}" for name, k in choice.conventions if k != choice.layer]
    return f"{', '.join(others)} {symbols.differ}"


def _gains(found: Selection, every: bool, symbols: Symbols) -> RenderableType:
    """Return two lines a rule: mean score and gains over the baselines, and their intervals."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    heads = ("rule", "score", *(f"over {baseline.name}" for baseline in BASELINES), "of the best")
    for head, width in zip(heads, (20, 5, 10, 10, 10, 10, 8), strict=True):
        grid.add_column(head, width=width, justify="right", overflow="fold")
    grid.columns[0].justify = "left"
    most = max(len(gain.tasks) for gain in found.gains)
    named = [gain for name in _shown(found, every) if (gain := found.gain(name)) is not None]
    for gain in (*named, *found.labeled):
        grid.add_row(
            _label(gain, found, most, symbols),
            Text(f"{100 * gain.score.value:.2f}"),
            *(_interval(gain.over[baseline.name], 100.0) for baseline in BASELINES),
            _interval(gain.share, 100.0, " %"),
        )
    notes = (
        "Scores x 100, with 95 % intervals over tasks; a gain is over the rule's own tasks. Of the "
        "best: share of what the best layer of each task gains over the last. No rule finds the "
        "layers of the last rows, only labels do."
    )
    return Padding(Group(grid, Text(notes, "dim")), (0, 0, 1, 1))


def _label(gain: Gain, found: Selection, most: int, symbols: Symbols) -> Text:
    """Return a rule's name, and below it what it does not share with the other rows."""
    labeled = gain in found.labeled
    style = "bold green" if gain.rule == found.rule else ""
    label = Text(symbols.text(gain.rule), style)
    below = []
    if labeled:
        below.append(
            f"labels: layer {_span(unit.layer for unit in gain.units if unit.layer is not None)}"
        )
    if len(gain.tasks) < most:
        below.append(f"{len(gain.tasks)} tasks")
    return label.append("\n" + ", ".join(below), "dim") if below else label


def _interval(interval: Interval | None, factor: float, unit: str = "") -> Text:
    """Return a number and below it, dim, its limits; nothing for a comparison with itself."""
    if interval is None or interval == Interval(0.0, 0.0, 0.0):
        return Text("")
    sign = "" if unit else "+"
    digits = 0 if unit else 2
    text = Text(f"{factor * interval.value:{sign}.{digits}f}{unit}")
    if interval.low is not None and interval.high is not None and interval.low < interval.high:
        limits = [factor * limit for limit in (interval.low, interval.high)]
        places = 0 if unit or max(map(abs, limits)) >= 10 else 1
        text.append("\n" + "..".join(f"{limit:.{places}f}" for limit in limits), "dim")
    return text


def _by_task(found: Selection, every: bool, symbols: Symbols) -> list[RenderableType]:
    """Return a row a task with the chosen layer beside last, middle and best; few tasks, or all."""
    gain = found.gain(found.rule)
    if gain is None or (len(gain.units) > _MOST_TASKS and not every):
        return []
    several = len(gain.models) > 1
    grid = grid_of(*(["model"] if several else []), "task", "layer", "score", "last", "middle",
                   "two thirds", "best", "at")  # fmt: skip
    for column in grid.columns[1 + several :]:
        column.justify = "right"
    for unit in gain.units:
        values = (unit.score, unit.last, unit.middle, unit.two_thirds, unit.best)
        scores = [Text(f"{100 * value:.2f}") for value in values]
        grid.add_row(
            *([Text(symbols.text(unit.model))] if several else []),
            Text(symbols.text(unit.task)),
            Text("any" if unit.layer is None else str(unit.layer), "bold green"),
            *scores,
            Text(str(unit.best_layer)),
        )
    return [Padding(grid, (0, 0, 1, 1))]


def _selection_footnotes(found: Selection, every: bool, symbols: Symbols) -> list[RenderableType]:
    lines = []
    if found.gains:
        tasks = max((gain.tasks for gain in found.gains), key=len)
        lines.append(f"{len(tasks)} tasks: {', '.join(sorted(tasks))}")
    if every:
        lines.extend(f"{rule} needs {what}" for rule, what in found.lacking.items())
    elif found.lacking:
        lines.append(
            f"{len(found.lacking)} rules need measures that this run lacks; --all names them"
        )
    return [Padding(Text(symbols.text("\n".join(lines)), "dim"), (0, 0, 0, 1))] if lines else []
