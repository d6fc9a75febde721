"""A ranking in a terminal: the models in order, what else was measured, what the orders are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.estimates import Estimates
from layerscope.ranking import (
    FEWEST,
    PREDICTORS,
    RANDOM,
    TRIVIAL,
    Agreement,
    Correlation,
    Place,
    Predictor,
    Ranking,
    predictor,
)
from layerscope.terminal.catalogue import duration, size_words
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import layer_ranges

_HEADS: Final = {"d_0L": "d_0,L", "dataset_entropy": "dataset\nentropy", "rankme": "RankMe",
                 "prompt_entropy": "prompt\nentropy", "mean_nrs": "mean\nNRS",
                 "mean_gfmi": "mean\nGFMI", "parameters": "param."}  # fmt: skip


def ranking_summary(found: Ranking) -> RenderableType:
    """Return what `rank` prints: the order and how sure it is, sizes, and what orders are worth."""

    def build(symbols: Symbols) -> RenderableType:
        parts = [_header(found, symbols), _order(found, symbols), _beside(found, symbols)]
        if found.agreements:
            parts.append(_agreements(found, symbols))
        parts.append(_notes(found, symbols))
        return Group(*parts)

    return Adaptive(build)


def _header(found: Ranking, symbols: Symbols) -> RenderableType:
    head, comes, rest = found.sentence.partition(" comes first of ")
    text = Text.assemble((symbols.text(head), "bold green"), symbols.text(comes + rest))
    data = found.data
    where = Text(symbols.text(f"{data['texts']:,} texts of {data['name']}, no labels"), "dim")
    return Padding(Group(text, where), (0, 0, 1, 1))


def _order(found: Ranking, symbols: Symbols) -> RenderableType:
    """Return a row a model, in order: what it is ordered by, how sure that is, size, mean score."""
    scores = found.scores
    means = {} if scores is None else dict(zip(scores.models, scores.means.tolist(), strict=True))
    by = predictor(found.by)
    heads = () if by.kind == "size" else (" ".join(_heading(by).split()), "95 %", "within noise")
    grid = _packed_grid("#", "model")
    sizes = [_HEADS.get(each.name, each.name) for each in TRIVIAL]
    for head in (*heads, *sizes, *(["score"] if means else [])):
        grid.add_column(head, justify="right", overflow="fold")
    named = {model.name: model for model in found.models}
    for place in found.places:
        raw = [named[place.model].values[each.name].raw for each in TRIVIAL]
        counts = [symbols.undefined if number is None else _count(number) for number in raw]
        mean = means.get(place.model)
        scored = [symbols.undefined if mean is None else f"{100 * mean:.2f}"] if means else []
        value = symbols.undefined if place.value is None else f"{place.value:.3f}"
        cells = [value, _limits(place), _tied(place, found)] if heads else []
        grid.add_row(*_label(place, found, symbols), *cells, *counts, *scored)
    reading = (
        "95 %: limits over texts. within noise: models, by their #, that these texts cannot tell "
        "from this one"
    )
    return Padding(Group(grid, *([Text(reading, "dim")] if heads else [])), (0, 0, 1, 1))


def _beside(found: Ranking, symbols: Symbols) -> RenderableType:
    """Return a row a model, in order: the other measured predictors with their limits."""
    others = [each for each in PREDICTORS if each.name != found.by]
    grid = _packed_grid("\n#", "\nmodel")
    for each in others:
        grid.add_column(_heading(each), justify="right", no_wrap=True)
    for place in found.places:
        cells = [_number(found.place(place.model, each.name), each, symbols) for each in others]
        grid.add_row(*_label(place, found, symbols), *cells)
    reading = (
        f"{symbols.greatest} or {symbols.least} comes first by that predictor, of which most or least "
        "is better. RankMe and the entropies are of the last layer, after the final norm where there "
        "is one, as shares of the most that texts, width and tokens allow."
    )
    return Padding(Group(grid, Text(symbols.text(reading), "dim")), (0, 0, 1, 1))


def _heading(each: Predictor) -> str:
    """Return two lines, the first one empty for a single word."""
    words = _HEADS.get(each.name, each.name)
    return words if "\n" in words else f"\n{words}"


def _label(place: Place, found: Ranking, symbols: Symbols) -> tuple[str, Text]:
    number = symbols.undefined if place.rank is None else str(place.rank)
    first = place.rank == 1 and len(found.places) > 1
    return number, Text(symbols.text(place.model), "bold green" if first else "")


def _packed_grid(*heads: str) -> Table:
    """Return a table whose first columns are a number and a name, which takes what room is left."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, expand=True)
    for head in heads[:-1]:
        table.add_column(head, justify="right")
    table.add_column(heads[-1], overflow="fold", ratio=1, min_width=10)
    return table


def _tied(place: Place, found: Ranking) -> str:
    """Return the ranks of the models that a model cannot be told from."""
    if place.unsure and not place.tied:
        return "unknown"
    ranks = {each.model: each.rank for each in found.places}
    return layer_ranges({rank for name in place.tied if (rank := ranks[name]) is not None})


def _number(place: Place, by: Predictor, symbols: Symbols) -> Text:
    """Return a value with a sign where it is the first, and below it, dim, its limits."""
    if place.value is None:
        return Text(symbols.undefined)
    sign = symbols.greatest if by.direction == "most" else symbols.least
    text = Text(f"{place.value:.3f}{sign if place.rank == 1 else ''}")
    if place.rank == 1:
        text.stylize("bold")
    if place.low is not None:
        text.append(f"\n{_limits(place)}", "dim not bold")
    return text


def _limits(place: Place) -> str:
    """Return the limits of shares, which lie within 0 and 1, in few signs."""
    if place.low is None or place.high is None:
        return ""
    return "-".join(f"{limit:.3f}".removeprefix("0") for limit in (place.low, place.high))


def _count(number: float) -> str:
    """Return a count, large ones in thousands or millions.

    >>> _count(384), _count(260032), _count(22713216)
    ('384', '260 k', '22.7 M')
    """
    if number >= 1e6:
        return f"{number / 1e6:,.1f} M"
    return f"{number / 1e3:.0f} k" if number >= 1e5 else f"{number:.0f}"


def _agreements(found: Ranking, symbols: Symbols) -> RenderableType:
    """Return a row a predictor: correlations with the scores, given sizes, regret and recall."""
    grid = _packed_grid("\npredictor")
    correlated = any(each.spearman for each in found.agreements)
    middle = ("\nSpearman", "\np", "\ntau", "by\ntask") if correlated else ()
    given = ("given\nwidth", "\ndepth", "\npar.", "\nall") if correlated else ()
    for head in (*middle, *given, "regret", "top3"):
        grid.add_column(head if "\n" in head else f"\n{head}", justify="right", no_wrap=True)
    for each in found.agreements:
        cells = _correlations(each, symbols) if correlated else []
        recall = symbols.undefined if each.recall is None else f"{each.recall:.2f}"
        style = "bold green" if each.predictor == found.by else ""
        grid.add_row(Text(each.predictor, style), *cells, f"{100 * each.regret:.1f}", recall)
    return Padding(Group(grid, Text(_reading(correlated), "dim")), (0, 0, 1, 1))


def _correlations(each: Agreement, symbols: Symbols) -> list[Text]:
    partial = [each.partial.get(name) for name in (*(size.name for size in TRIVIAL), "all")]
    return [
        _correlation(each.spearman, symbols),
        Text("" if each.p is None else f"{each.p:.3f}".replace("0.", ".", 1)),
        _correlation(each.kendall, symbols),
        _short(each.spearman_by_task, symbols),
        *(_short(value, symbols) for value in partial),
    ]


def _correlation(found: Correlation | None, symbols: Symbols) -> Text:
    if found is None:
        return Text(symbols.undefined)
    text = _short(found.value, symbols)
    if found.low is not None and found.high is not None:
        text.append(f"\n{found.low:z.1f}..{found.high:z.1f}", "dim")
    return text


def _short(value: float | None, symbols: Symbols) -> Text:
    """Return a coefficient with two decimals and no zero before them."""
    return Text(symbols.undefined if value is None else f"{value:z.2f}".replace("0.", ".", 1))


def _reading(correlated: bool) -> str:
    words = (
        "regret: points of score lost by taking the model that comes first. top3: share of the three "
        f"best that are among the first three. {RANDOM}: an order by lot, in expectation."
    )
    if not correlated:
        return f"{words} Correlations take {FEWEST} models with scores."
    return (
        "With the mean score over models, + where the better by the predictor score higher; below, "
        "95 % limits over models; p: of other orders of the models; by task: mean Spearman within "
        f"tasks; given: Spearman's left when sizes are taken out. {words}"
    )


def _notes(found: Ranking, symbols: Symbols) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    for note in found.notes:
        grid.add_row(Text("-", "dim"), Text(symbols.text(note), "dim"))
    return Padding(grid, (0, 0, 0, 1))


def ranking_estimate_table(estimates: Sequence[tuple[str, Estimates | None]]) -> RenderableType:
    """Return what the scans of a ranking would take, as `--dry-run` prints it."""

    def build(symbols: Symbols) -> RenderableType:
        grid = grid_of("model", "texts", "tokens", "pass, about", "memory", "disk")
        for column in grid.columns[1:]:
            column.justify = "right"
        for model, each in estimates:
            cells = (
                ["scanned already", "", "", "", ""]
                if each is None
                else [
                    f"{each.texts:,}", f"{each.tokens:,}", duration(each.pass_seconds),
                    size_words(each.memory_bytes), size_words(each.disk_bytes),
                ]
            )  # fmt: skip
            grid.add_row(symbols.text(model), *cells)
        total = sum(each.pass_seconds for _, each in estimates if each is not None)
        return Group(grid, Text(f"All passes: about {duration(total)}.", "dim"))

    return Adaptive(build)
