"""Several runs in one figure: a panel a measure, a line for each model, revision or perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from layerscope.errors import InputError, unknown_name
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.render.charts import CURVES
from layerscope.render.drawing import Figure, Line, Panel, Point
from layerscope.results.runs import RUN, blanked, in_order, named_apart, numbered
from layerscope.results.table import BLOCK, FINAL_NORM
from layerscope.settings import PlotConfig

# Okabe and Ito's colors, the light ones darker; dashes tell further lines apart.
_COLORS: Final = (
    "#2a7ab9", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7b3294", "#555555",
)  # fmt: skip
_IN_ORDER: Final = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (217, 184, 15))
_DASHES: Final = ("solid", "dash", "dot")
_ORDERED: Final = ("revision", "perturbation", "layer", "seed")
_FACETS: Final = ("model", "revision", "data", "perturbation", "layer")
_MOST_LISTED: Final = 12  # lines in an order; of more, the legend names some
_MOST_LAYERS: Final = 6
MOST_PANELS: Final = 24
_PREFERRED: Final = ("normalized", "reference", "paper", "")
_MEASURES: Final = {name: each for each in CATALOGUE for name in (each.name, *each.variants)}

_OF: Final = {"model": "of", "data": "on"}

Key = tuple[str, ...]


def overlay(table: pd.DataFrame, config: PlotConfig) -> Figure:
    """Return the curves of several runs: panels of measures, a line for each thing asked for.

    What differs between runs and is not a line of its own gets panels; of several seeds the mean is
    drawn, with a band from the least to the greatest.

    Args:
        table: as `runs.one_table` makes it.
        config: what runs along x, what the lines are, which measures.

    Raises:
        InputError: nothing to draw, an unknown measure, no step or position, more panels than can be
            read, or several values where one is expected.
    """
    over_layers = config.x in ("layer", "depth")
    by = config.by or (("model",) if over_layers else ("layer",))
    rows = _chosen(table, config, by)
    if not over_layers:
        rows = _placed(rows, config)
    rows = rows.assign(model=short_names(rows["model"]))
    facets = [each for each in _FACETS if each not in by and not (over_layers and each == "layer")]
    looks = looks_of(rows, by)
    panels = []
    for metric, own in rows.groupby("metric", sort=False):
        varied = [each for each in facets if own[each].nunique() > 1]
        for key, part in grouped(own, ["convention", *varied]):
            lines = [_line(found, looks[name], config) for name, found in grouped(part, by)]
            which = words_of(["convention", *varied], key)
            panels.append(_panel(str(metric), which, lines, apart=config.minus is not None))
    _refuse_many(panels, [each for each in facets if rows[each].nunique() > 1])
    blocks = _blocks(rows)
    return Figure(
        _title(rows, by, config.x), tuple(panels), blocks[-1], config.x, mixed=len(blocks) > 1
    )


def _title(rows: pd.DataFrame, by: Sequence[str], x: str) -> str:
    """Return what is drawn, and the one model or data set that all of it is of."""
    single = {
        name: str(rows[name].iloc[0])
        for name in ("model", "data")
        if name not in by and rows[name].nunique() == 1 and rows[name].iloc[0]
    }
    of = "".join(f" {word} {single[name]}" for name, word in _OF.items() if name in single)
    return f"{' and '.join(by)} over {x}".capitalize() + of


def _refuse_many(panels: Sequence[Panel], varied: Sequence[str]) -> None:
    if len(panels) > MOST_PANELS:
        besides = f" and {' and '.join(varied)}" if varied else ""
        raise InputError(
            f"expected at most {MOST_PANELS} panels, got {len(panels)}, one for each measure{besides}; "
            "choose measures (metric), or draw what differs as lines (by)."
        )


# --- which rows -----------------------------------------------------------------------------------


def _chosen(table: pd.DataFrame, config: PlotConfig, by: Sequence[str]) -> pd.DataFrame:
    curves = [name for name, each in _MEASURES.items() if each.place in CURVES]
    single = table["other_layer"].isna() | table["metric"].isin(curves)
    rows = table[single & table["value"].notna() & table["layer"].notna()]
    blank = ("convention", "revision", "perturbation", "data", "model")
    rows = blanked(rows, blank)
    if "stage" in by or config.x not in ("layer", "depth"):
        rows = rows[rows["stage"] != FINAL_NORM]
    if "stage" not in by:
        rows = rows[rows["stage"].isin([BLOCK, FINAL_NORM])]
    if config.layers is not None:
        rows = rows[rows["layer"].isin(config.layers)]
    metrics = _metrics(rows, config.metric)
    rows = in_convention(rows[rows["metric"].isin(metrics)], config.convention)
    if rows.empty:
        raise InputError("the runs hold no value to draw in that convention and at those layers.")
    return rows.iloc[rows["metric"].map(metrics.index).argsort(kind="stable")]


def _metrics(rows: pd.DataFrame, asked: Sequence[str] | None) -> list[str]:
    there = list(dict.fromkeys(map(str, rows["metric"])))
    if not there:
        raise InputError("expected runs with values at these layers, got none to draw.")
    if asked is None:
        main = [each.name for each in CATALOGUE if each.paper_seven and each.name in there]
        return main or there
    found: list[str] = []
    for name in asked:
        known = [each for each in there if each == name or each.startswith(f"mteb/{name}/")]
        if not known:
            raise unknown_name("measure of these runs", name, there)
        found += known
    return list(dict.fromkeys(found))


def shown_together(table: pd.DataFrame) -> tuple[str, ...] | None:
    """Return the measures of a page of several runs: the main ones, and scores while they are few."""
    there = set(table.loc[table["layer"].notna(), "metric"].astype(str))
    main = [each.name for each in CATALOGUE if each.paper_seven and each.name in there]
    scores = sorted(name for name in there if name.startswith(("mteb/", "probe/")))
    few = scores if len(main) + len(scores) <= MOST_PANELS // 2 else []
    return (*main, *few) or None


def in_convention(rows: pd.DataFrame, asked: str | None) -> pd.DataFrame:
    """Return the rows in a convention; by default in that of each measure to decide by."""
    if asked == "all":
        return rows
    if asked is not None:
        return rows[rows["convention"].isin([asked, ""])]
    place = rows["convention"].map(_PREFERRED.index)
    return rows[place == place.groupby(rows["metric"]).transform("min")]


def _placed(rows: pd.DataFrame, config: PlotConfig) -> pd.DataFrame:
    """Return the rows with what runs along x, which their names lose.

    Without layers asked for, of many layers only some from the first to the last are kept.

    Raises:
        InputError: the names of a run hold none.
    """
    layers = sorted(rows["layer"].unique())
    if config.layers is None and len(layers) > _MOST_LAYERS:
        rows = rows[rows["layer"].isin(spread_layers(layers, _MOST_LAYERS - 1))]
    return numbered(rows, config.x)


def spread_layers(layers: Sequence[int], most: int) -> list[int]:
    """Return at most so many layers, evenly from the first to the last."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round((len(layers) - 1) * place / (most - 1))] for place in range(most)]


def short_names(models: pd.Series[str]) -> pd.Series[str]:
    """Return names of models without what all of them share."""
    names = list(dict.fromkeys(models))
    return models.map(dict(zip(names, named_apart(names), strict=True)))


def _blocks(rows: pd.DataFrame) -> list[int]:
    """Return the numbers of blocks of the models, read from layer and depth."""
    deep = rows[rows["depth"].fillna(0) > 0]
    if deep.empty:
        return [int(rows["layer"].max())]
    return sorted(
        set((deep["layer"].astype(float) / deep["depth"].astype(float)).round().astype(int))
    )


# --- lines and panels -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Name, color and dashes of a line, and whether the legend names it."""

    name: str
    color: str
    dash: str
    listed: bool


def _natural(column: str, value: str) -> tuple[tuple[float, str], ...]:
    """Return what puts step9 before step10, and what is not perturbed before what is."""
    if column == "perturbation" and value in ("", "none"):
        return ()
    return in_order(value)


def _values(rows: pd.DataFrame, column: str) -> list[str]:
    """Return the values of a column in the order in which they are drawn."""
    found = list(dict.fromkeys(map(str, rows[column])))
    if column == "convention":
        return sorted(found, key=_PREFERRED.index)
    return sorted(found, key=lambda value: _natural(column, value)) if column in _ORDERED else found


def grouped(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[Key, pd.DataFrame]]:
    """Return the rows by the values of some columns, in the order in which they are drawn."""
    if not columns:
        return [((), rows)]
    orders = {column: _values(rows, column) for column in columns}
    found = [
        (tuple(map(str, key)), part)
        for key, part in rows.groupby(list(columns), sort=False, dropna=False)
    ]
    places = {
        key: tuple(orders[column].index(value) for column, value in zip(columns, key, strict=True))
        for key, _ in found
    }
    return sorted(found, key=lambda each: places[each[0]])


def looks_of(rows: pd.DataFrame, by: Sequence[str]) -> dict[Key, Look]:
    """Return name, color and dashes of each line: the first of `by` has colors, the others dashes."""
    keys = [key for key, _ in grouped(rows, by)]
    others = list(dict.fromkeys(_rest(by, key) for key in keys))
    by_first = len(others) <= len(_DASHES)  # else each line has a color of its own
    ordered = by[0] in _ORDERED and len(keys) > 2 and len(others) < len(keys)
    stride = (
        -(-(len(keys) - 1) // (_MOST_LISTED - 1)) if ordered and len(keys) > _MOST_LISTED else 1
    )
    looks = {}
    for number, key in enumerate(keys):
        dash = others.index(_rest(by, key)) if by_first else 0
        alike = [each for each in keys if not by_first or _rest(by, each) == _rest(by, key)]
        if ordered:
            color = _in_between(alike.index(key) / max(1, len(alike) - 1))
        else:
            firsts = list(dict.fromkeys(each[:1] if by_first else each for each in keys))
            place = firsts.index(key[:1] if by_first else key)
            color, dash = _COLORS[place % len(_COLORS)], dash + place // len(_COLORS)
        listed = number % stride == 0 or number == len(keys) - 1
        looks[key] = Look(words_of(by, key) or "all", color, _DASHES[dash % len(_DASHES)], listed)
    return looks


def _rest(by: Sequence[str], key: Key) -> Key:
    """Return what dashes tell apart: all but the first of `by`, and the kind of a perturbation."""
    kind = (key[0].split()[0],) if by[0] == "perturbation" and key[0] else ()
    return (*kind, *key[1:])


def _in_between(share: float) -> str:
    """Return the color at a share of the way through those of an order."""
    place = share * (len(_IN_ORDER) - 1)
    left = min(int(place), len(_IN_ORDER) - 2)
    pairs = zip(_IN_ORDER[left], _IN_ORDER[left + 1], strict=True)
    mixed = (round(one + (place - left) * (other - one)) for one, other in pairs)
    return "#" + "".join(f"{each:02x}" for each in mixed)


def words_of(columns: Sequence[str], key: Key) -> str:
    """Return what a line or panel is of, in words."""
    named = {"layer": "layer ", "seed": "seed "}
    pairs = zip(columns, key, strict=True)
    return ", ".join(f"{named.get(column, '')}{value}" for column, value in pairs if value)


def _line(rows: pd.DataFrame, look: Look, config: PlotConfig) -> Line:
    normed = rows["stage"] == FINAL_NORM
    points, final = _points(rows[~normed], config.x), _points(rows[normed], config.x)
    last = final[0] if final else None
    return Line(look.name, "", points, last, None, (), look.color, look.dash, look.listed)


def _points(rows: pd.DataFrame, x: str) -> tuple[Point, ...]:
    """Return the points of a line by x, those of several seeds as their mean and range.

    Raises:
        InputError: two values with one seed.
    """
    column = "layer" if x in ("layer", "depth") else "at"
    rows = rows.drop_duplicates([column, "seed", "value"])  # one measurement in two runs
    if rows[column].duplicated().any():
        rows = _over_seeds(rows, column, x)
    rows = rows.sort_values(column)
    numbers = ("layer", "depth", "value", "low", "high", "n", "at")
    lists = [
        [None if pd.isna(each) else each for each in rows[name]]
        if name in rows
        else [None] * len(rows)
        for name in numbers
    ]
    points = zip(*lists, rows["stage"], strict=True)
    return tuple(
        Point(layer, depth, value, low, high, n, str(stage), at=at)
        for layer, depth, value, low, high, n, at, stage in points
    )


def _over_seeds(rows: pd.DataFrame, column: str, x: str) -> pd.DataFrame:
    seeds = rows.assign(seed=rows["seed"].fillna(-1))
    if (twice := seeds.duplicated([column, "seed"], keep=False)).any():
        same = rows[twice]
        place = same[same[column] == same[column].iloc[0]]
        runs = " and ".join(repr(str(each)) for each in list(dict.fromkeys(place[RUN]))[:2])
        raise InputError(
            f"expected one value of {same['metric'].iloc[0]} at {x} {same[column].iloc[0]:g} in a line, "
            f"got several, of {runs}; draw by what they differ in, or by run."
        )
    first = rows.drop_duplicates(column).set_index(column)
    values = rows.groupby(column)["value"]
    spread = {"value": values.mean(), "low": values.min(), "high": values.max()}
    return first.assign(**spread).reset_index()


def _panel(metric: str, which: str, lines: Sequence[Line], *, apart: bool) -> Panel:
    measure = _MEASURES.get(metric)
    if measure is None:
        name, scored = metric.removeprefix("mteb/"), metric.startswith(("mteb/", "probe/"))
        title = f"{name} ({which})" if which else name
        return Panel(metric, title, "score" if scored else "", tuple(lines), (), main=True)
    name = measure.title if metric == measure.name else f"{measure.title}, {metric}"
    wanted = "" if apart or measure.direction == "none" else f"{measure.direction} is preferred"
    unit = ", ".join(part for part in (measure.unit, wanted) if part)
    return Panel(
        metric, f"{name} ({which})" if which else name, unit, tuple(lines), (),
        main=measure.paper_seven, between=measure.level == "pair",
    )  # fmt: skip
