"""Tables of measures: values by layer, the layer that each one prefers, the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from layerscope.data.views import of_spans
from layerscope.decisions import choose, evidence
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render import charts, words
from layerscope.render.view import (
    DIFFERENT,
    LEAST,
    MOST,
    NEAR,
    NONE,
    SAME,
    Cell,
    Head,
    Style,
    Table,
    heads,
)
from layerscope.results.table import BLOCK, FINAL_NORM, TASK

_SHORT: Final = {
    "prompt_entropy": "prompt S",
    "dataset_entropy": "data S",
    "effective_rank": "eff.rank",
    "curvature": "curv",
    "infonce": "InfoNCE",
    "lidar": "LiDAR",
    "dime": "DiME",
}
_AGREEMENT: Final[dict[str, tuple[str, Style]]] = {
    "same": (SAME, "good"),
    "within noise": (NEAR, ""),
    "another": (DIFFERENT, "bad"),
}


@dataclass(frozen=True)
class Column:
    """One measure in one convention on one kind of views: its values at the blocks and the end."""

    measure: Measure
    convention: str
    perturbation: str
    values: Mapping[int, float]
    final: float | None

    @property
    def key(self) -> Key:
        """Metric, convention and perturbation."""
        return self.measure.name, self.convention, self.perturbation

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
        return words.decimals([*self.values.values(), self.final])


# --- values by layer --------------------------------------------------------------------------------


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
    return tuple(
        column(table, measure, convention, _own_views(table, measure, convention))
        for measure, convention in seven or list(found.values())[:7]
    )


def _own_views(table: pd.DataFrame, measure: Measure, convention: str) -> str:
    """Return the views to show a measure on: the first of the kind that it is meant for, or any."""
    labels = evidence.perturbations(table, measure.name, convention)
    return next((label for label in labels if of_spans(label) == measure.on_spans), labels[0])


def column(table: pd.DataFrame, measure: Measure, convention: str, perturbation: str) -> Column:
    """Return one measure's values by layer."""

    def at(stage: str) -> pd.Series[float]:
        return evidence.of_measure(table, measure.name, convention, stage, perturbation)["value"]

    blocks, normed = at(BLOCK), at(FINAL_NORM)
    values = {int(str(layer)): float(value) for layer, value in blocks.items()}
    final = float(normed.iloc[0]) if len(normed) else None
    return Column(measure, convention, perturbation, values, final)


def values(
    table: pd.DataFrame, columns: Sequence[Column], choices: Mapping[Key, Choice]
) -> Table | None:
    """Return a row a layer and a column a measure, the ends marked."""
    if not columns:
        return None
    layers = sorted({layer for item in columns for layer in item.values})
    ends = {end for item in columns for end in (item.least, item.greatest) if end is not None}
    shown = words.evenly(layers, {0, *ends} & set(layers))
    made = [
        Head(
            _SHORT.get(item.measure.name, item.measure.title),
            _wanted(item.measure) or " ",
            width=words.SHAPE_WIDTH,
            foot=words.sparkline(list(item.values.values())),
            title=f"{item.measure.title}: {item.measure.formula}",
        )
        for item in columns
    ]
    conventions = ", ".join(dict.fromkeys(c.convention for c in columns if c.convention))
    legend = [f"{LEAST} least", f"{MOST} greatest"]
    legend += [f"convention: {conventions}"] if conventions else []
    notes = []
    if any(item.final is not None for item in columns):
        legend.append("norm: after the final norm")
    if len(shown) < len(layers):
        notes.append(
            f"{len(shown)} of {len(layers)} layers shown: evenly spaced ones and all that are marked"
        )
    return Table(
        (Head("layer", width=5, foot="shape"), Head("depth", width=5), *made),
        _layer_rows(table, columns, shown, choices),
        notes=("; ".join(legend), *notes),
        tight=True,
    )


def _layer_rows(
    table: pd.DataFrame,
    columns: Sequence[Column],
    layers: Iterable[int],
    choices: Mapping[Key, Choice],
) -> tuple[tuple[Cell, ...], ...]:
    blocks = evidence.number_of_blocks(table)
    limits = _limits(table)
    found = [
        (
            Cell(str(layer), "strong"),
            Cell(f"{layer / blocks if blocks else 0:.2f}", "soft"),
            *(_cell(item, layer, choices.get(item.key), limits) for item in columns),
        )
        for layer in layers
    ]
    if any(item.final is not None for item in columns):
        final = (
            Cell(words.number(item.final, item.decimals), mark=" ",
                 title=limits.get((*item.key, blocks, FINAL_NORM), ""))
            for item in columns
        )  # fmt: skip
        found.append((Cell("norm", "strong"), Cell("out", "soft"), *final))
    return tuple(found)


def _cell(
    item: Column, layer: int, choice: Choice | None, limits: Mapping[tuple[Any, ...], str]
) -> Cell:
    """Return a value with its mark; the end that the measure prefers stands out."""
    text = words.number(item.values.get(layer), item.decimals)
    title = limits.get((*item.key, layer, BLOCK), "")
    mark, style = " ", "" if layer in item.values else "soft"
    if item.least != item.greatest and layer in (item.least, item.greatest):
        mark, end = (LEAST, "least") if layer == item.least else (MOST, "most")
        style = "good" if str(item.measure.direction) == end else "mark"
    if style in ("", "mark") and choice is not None and layer in choice.within_noise:
        style = "near"
    return Cell(text, style, mark=mark, title=title)  # type: ignore[arg-type]


def _wanted(measure: Measure) -> str:
    return "" if str(measure.direction) == "none" else str(measure.direction)


def _limits(table: pd.DataFrame) -> dict[tuple[Any, ...], str]:
    """Return, for every (metric, convention, views, layer, stage), its limits and texts in words."""
    known = table[table["other_layer"].isna() & table["value"].notna() & (table["level"] != TASK)]
    text = known[["metric", "convention", "perturbation"]].astype("string").fillna("")
    keys = zip(*(text[name] for name in text), known["layer"], known["stage"], strict=True)
    numbers = zip(known["low"], known["high"], known["n"], strict=True)
    return {
        key: f"{'' if pd.isna(low) else words.limits(low, high)} of {n:,} texts".strip()
        for key, (low, high, n) in zip(keys, numbers, strict=True)
    }


def all_values(
    table: pd.DataFrame, choices: Mapping[Key, Choice], measures: Sequence[Measure]
) -> Table | None:
    """Return a row a layer and a column for each measure, convention and kind of views."""
    columns = [
        column(table, measure, convention, views)
        for measure, convention in evidence.measured(table, measures)
        for views in evidence.perturbations(table, measure.name, convention)
    ]
    made = [Head(item.measure.title, _below(item), title=item.measure.formula) for item in columns]
    layers = sorted({layer for item in columns for layer in item.values})
    named = (Head("layer", left=True), Head("depth"), *made)
    return Table(named, _layer_rows(table, columns, layers, choices)) if columns else None


def _below(item: Column) -> str:
    """Return what stands under a measure's title: convention, direction, and views if it has any."""
    views = f"on {item.perturbation}" if item.measure.level == "view" else ""
    return " ".join(filter(None, (item.convention, _wanted(item.measure), views)))


# --- what each measure prefers ----------------------------------------------------------------------


_PREFERS: Final = heads(
    "measure", "prefers", "layer", "there", "last", "middle", "within noise", "paper",
    left=(0, 1, 6, 7),
)  # fmt: skip


def preferred_tables(
    choices: Mapping[Key, Choice], table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE
) -> list[Table]:
    """Return one row a measure: the layer it prefers, its value, whether conventions agree.

    Measures on parts of texts have tables of their own, one for each kind.
    """
    main = {item.key[::2] for item in main_columns(table, measures)}
    views = {measure.name for measure in measures if measure.main and measure.level == "view"}
    groups: dict[str, dict[Key, Choice]] = {}
    for key, choice in choices.items():
        spans = key[2] if of_spans(key[2]) and key[0] in views else ""
        if spans or key[::2] in main:
            groups.setdefault(spans, {})[key] = choice
    legend = f"paper: layer on raw states; {SAME} same, {NEAR} within noise, {DIFFERENT} another"
    labels = sorted(groups, key=bool)
    return [
        Table(
            _PREFERS,
            tuple(
                _prefers_row(key, groups[label], table, measures)
                for key in _decisive(groups[label], measures)
            ),
            title=f"on {label}:" if label else "",
            notes=(legend,) if label == labels[-1] else (),
        )
        for label in labels
    ]


def _decisive(choices: Mapping[Key, Choice], measures: Sequence[Measure]) -> list[Key]:
    """Return one choice a measure: normalized, or where that is missing, the first."""
    found: dict[str, Key] = {}
    for key, choice in choices.items():
        better = key[1] == evidence.NORMALIZED or key[0] not in found
        if choice.layer is not None and better:
            found[key[0]] = key
    return [found[measure.name] for measure in measures if measure.name in found]


def _prefers_row(
    key: Key, choices: Mapping[Key, Choice], table: pd.DataFrame, measures: Sequence[Measure]
) -> tuple[Cell, ...]:
    measure = next(measure for measure in measures if measure.name == key[0])
    choice, raw = choices[key], choices.get((key[0], evidence.PAPER, key[2]))
    agreed = Cell(NONE, "soft")
    if raw is not None and raw.layer is not None and key[1] == evidence.NORMALIZED:
        sign, style = _AGREEMENT[choose.agreement(raw, choice)]
        agreed = Cell(f"{raw.layer} {sign}", style)
    values = evidence.with_baselines(table, key, choice.layer)
    digits = words.decimals(values)
    return (
        Cell(measure.title),
        Cell(str(measure.direction), "soft"),
        Cell(NONE if choice.layer is None else str(choice.layer), "good"),
        *(Cell(words.number(value, digits)) for value in values),
        Cell(words.layer_ranges(choice.within_noise) or choice.reason),
        agreed,
    )


def all_preferred(
    table: pd.DataFrame, choices: Mapping[Key, Choice], measures: Sequence[Measure]
) -> Table:
    """Return a row for each measure, convention and kind of views."""
    order, conventions = [measure.name for measure in measures], list(charts.STYLES)
    lines = []
    for key in sorted(choices, key=lambda k: (order.index(k[0]), conventions.index(k[1]))):
        title, *cells = _prefers_row(key, choices, table, measures)
        views = "" if key[2] == "none" else key[2]
        lines.append((title, Cell(key[1], "soft"), Cell(views, "soft"), *cells))
    first, *rest = _PREFERS
    return Table((first, *heads("in", "on views", left=(0, 1)), *rest), tuple(lines))
