"""The scores of every layer in a terminal: layers by tasks, and the best layer beside the baselines."""

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
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import MAX_ROWS, settings_lines

_TASKS_SHOWN: Final = 6  # columns of scores that fit beside layer, depth and mean
_HEAD: Final = 8
_DROPPED: Final = ("Classification", "Clustering", "Reranking")


def evaluation_summary(table: pd.DataFrame, record: Mapping[str, Any]) -> RenderableType:
    """Return what `evaluate` prints: the run, layers by tasks, each task's best layer, what failed.

    Args:
        table: Results of one run; rows that are no task scores are left out.
        record: run.json as a dict; whatever it lacks is left out.
    """
    scores = scores_by_site(table)

    def build(symbols: Symbols) -> RenderableType:
        parts: list[RenderableType] = [_header(record, symbols)]
        if not scores.empty:
            parts.append(Padding(_layers(scores, table, symbols), (0, 0, 1, 1)))
            parts.append(Padding(_tasks(scores, table, symbols), (0, 0, 1, 1)))
        parts.append(Padding(_failures(record, symbols), (0, 0, 0, 1)))
        return Group(*parts)

    return Adaptive(build)


def scores_by_site(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of a table: a row a (layer, stage), a column a metric, in their order."""
    rows = table[table["level"] == selection.TASK]
    wide = rows.pivot(index=["layer", "stage"], columns="metric", values="value").astype(float)
    order = sorted(wide.index, key=lambda site: (site[0], site[1] == selection.FINAL_NORM))
    return wide.loc[order, list(dict.fromkeys(rows["metric"]))]


def short_names(metrics: Sequence[str]) -> dict[str, str]:
    """Return a short distinct name for each metric of a task.

    >>> short_names(["mteb/Banking77Classification/accuracy"])
    {'mteb/Banking77Classification/accuracy': 'Banking77'}
    """
    found: dict[str, str] = {}
    for metric in metrics:
        kind, _, rest = metric.partition("/")
        name, _, score = rest.rpartition("/")
        for ending in _DROPPED:
            name = name.removesuffix(ending) or name
        name = f"{name} {score.partition('_')[0]}" if kind == "probe" else name
        found[metric] = name if name not in found.values() else rest
    return found


def _header(record: Mapping[str, Any], symbols: Symbols) -> RenderableType:
    model, evaluation = record.get("model", {}), record.get("evaluation", {})
    title = Text(symbols.text(model.get("name", "")), style="bold")
    title.append(symbols.text(f" @ {model['revision']}") if model.get("revision") else "", "dim")
    settings = dict(evaluation.get("settings", {}))
    settings["first_token_ratio"] = evaluation.get("first_token_ratio")
    shown = {"model": model, "settings": settings, "times": evaluation.get("times", {})}
    lines = [*settings_lines(shown), _vectors_line(settings), _bank_line(evaluation)]
    return Padding(
        Group(title, *(Text(symbols.text(line)) for line in lines if line)), (0, 0, 1, 1)
    )


def _vectors_line(settings: Mapping[str, Any]) -> str:
    prompts = {"prompt": settings.get("prompt"), "query prompt": settings.get("query_prompt")}
    if prompts["query prompt"] == prompts["prompt"]:
        del prompts["query prompt"]
    parts = ["vectors at unit length"] if settings.get("normalize") else []
    parts += [f"{name} {text!r}" for name, text in prompts.items() if text]
    return ", ".join(parts)


def _bank_line(evaluation: Mapping[str, Any]) -> str:
    encoded, bank = evaluation.get("encoded"), evaluation.get("bank")
    if not encoded or not bank:
        return ""
    return (
        f"{encoded['texts']:,} texts through the model, {bank['texts']:,} in the bank "
        f"({bank['bytes'] / 1e6:,.0f} MB)"
    )


def _layers(scores: pd.DataFrame, table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    """Return a row a layer and a column a task; with many tasks, only their mean."""
    names = short_names(list(scores.columns))
    shown = list(scores.columns) if scores.shape[1] <= _TASKS_SHOWN else []
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    grid.add_column("layer", justify="right", no_wrap=True, width=5)
    grid.add_column("depth", justify="right", no_wrap=True, width=6)
    for metric in shown:
        grid.add_column(
            symbols.text(names[metric]), justify="right", overflow="fold", width=_HEAD + 1
        )
    mean = _mean(scores)
    if mean is not None:
        grid.add_column("mean", justify="right", no_wrap=True, width=_HEAD + 1)
    columns = [scores[metric] for metric in shown] + ([] if mean is None else [mean])
    best = [column.idxmax() for column in columns]
    blocks = selection.number_of_blocks(table)
    for layer, stage in _shown(list(scores.index), best):
        cells = [
            _cell(column[layer, stage], (layer, stage) == top, symbols)
            for column, top in zip(columns, best, strict=True)
        ]
        normed = stage == selection.FINAL_NORM
        depth = "out" if normed else f"{layer / blocks if blocks else 0:.2f}"
        grid.add_row(Text("norm" if normed else str(layer), "bold"), Text(depth, "dim"), *cells)
    notes = [f"{symbols.greatest} the best layer; scores of mteb x 100"]
    if mean is not None:
        joined = ", ".join(names.values())
        notes.append(f"mean of {len(names)} tasks: {joined}")
    return Group(grid, Text(symbols.text("\n".join(notes)), "dim"))


def _mean(scores: pd.DataFrame) -> pd.Series[float] | None:
    """Return the mean over all tasks, if there are several and each has every layer."""
    complete = bool(scores.notna().all(axis=None))
    return scores.mean(axis=1) if complete and scores.shape[1] > 1 else None


def _shown(sites: Sequence[tuple[int, str]], best: Sequence[Any]) -> list[tuple[int, str]]:
    """Return at most about MAX_ROWS sites: evenly spaced ones, the last two, and every best one."""
    stride = max(1, -(-len(sites) // MAX_ROWS))
    kept = {*sites[::stride], *sites[-2:], *best}
    return [site for site in sites if site in kept]


def _cell(value: float, best: bool, symbols: Symbols) -> Text:
    if pd.isna(value):
        return Text(symbols.undefined, "dim")
    mark = symbols.greatest if best else " "
    return Text(f"{100 * value:.2f}{mark}", "bold green" if best else "")


def _tasks(scores: pd.DataFrame, table: pd.DataFrame, symbols: Symbols) -> RenderableType:
    """Return a row a task: its best layer, and the scores of the baselines."""
    names = short_names(list(scores.columns))
    grid = grid_of("task", "main score", "best layer", "best", "last", "middle", "best - last")
    for index in range(2, 7):
        grid.columns[index].justify = "right"
    rows = [(names[metric], metric.rpartition("/")[2], scores[metric]) for metric in scores.columns]
    mean = _mean(scores)
    if mean is not None:
        rows.append((f"mean of {len(names)} tasks", "", mean))
    blocks = selection.number_of_blocks(table)
    for name, score, column in rows:
        present = column.dropna()
        top = present.idxmax()
        last = _last(present, blocks)
        middle = present.get((selection.middle_layer(blocks), selection.BLOCK))
        grid.add_row(
            Text(symbols.text(name)),
            Text(symbols.text(score), "dim"),
            Text("norm" if top[1] == selection.FINAL_NORM else str(top[0]), "bold green"),
            *(_percent(value, symbols) for value in (present[top], last, middle)),
            _percent(None if last is None else present[top] - last, symbols, signed=True),
        )
    return grid


def _last(column: pd.Series[float], blocks: int) -> float | None:
    """Return what the model itself outputs: after the final norm, where there is one."""
    for stage in (selection.FINAL_NORM, selection.BLOCK):
        if (blocks, stage) in column.index:
            return float(column[blocks, stage])
    return None


def _percent(value: float | None, symbols: Symbols, *, signed: bool = False) -> Text:
    if value is None:
        return Text(symbols.undefined, "dim")
    return Text(f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}")


def _failures(record: Mapping[str, Any], symbols: Symbols) -> RenderableType:
    lines = [
        Text(symbols.text(f"! {entry['task']} failed: {entry['reason']}"), "red")
        for entry in record.get("failed_tasks", ())
    ]
    notes = [*record.get("evaluation", {}).get("notes", ())]
    for name, facts in record.get("tasks", {}).items():
        notes.extend(f"{name}: {note}" for note in facts.get("notes", ()))
    return Group(*lines, *(Text(symbols.text(f"! {note}"), "dim") for note in notes))
