"""Task scores and correlations in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.decisions import evidence, rules
from layerscope.decisions.curves import Findings, Summary, labels
from layerscope.evaluation.run import EvaluationEstimates
from layerscope.render.terminal import duration, size_words
from layerscope.render.words import MAX_ROWS, Adaptive, Symbols, grid_of, settings_lines
from layerscope.results import table as table_module

_TASKS_SHOWN: Final = 6  # columns of scores that fit beside layer, depth and mean
_WIDTH: Final = 9
_DROPPED: Final = ("Classification", "Clustering", "Reranking")


Place = tuple[int, str]


@dataclass(frozen=True)
class Curve:
    """The scores of one task, or their mean.

    Attributes:
        name: short, and unlike the others'.
        score: the main score's name.
        values: by layer and stage.
        probe: whether a probe's accuracy rather than mteb's score; it enters no mean.
    """

    name: str
    score: str
    values: Mapping[Place, float]
    probe: bool = False

    @property
    def best(self) -> Place:
        """The shallowest place of the greatest score."""
        return max(self.values, key=lambda place: (self.values[place], -place[0]))

    def last(self, blocks: int) -> float | None:
        """Return the score of what the model itself outputs: after the final norm, if it has one."""
        normed = self.values.get((blocks, table_module.FINAL_NORM))
        return self.values.get((blocks, table_module.BLOCK)) if normed is None else normed


def evaluation_summary(table: pd.DataFrame, record: Mapping[str, Any]) -> RenderableType:
    """Return what `evaluate` prints: the run, layers by tasks, each task's best layer, what failed.

    Args:
        table: Results of one run; rows that are no task scores are left out.
        record: run.json as a dict; whatever it lacks is left out.
    """
    curves = task_curves(table)
    mean = mean_curve(curves)
    blocks = evidence.number_of_blocks(table)

    def build(symbols: Symbols) -> RenderableType:
        parts: list[RenderableType] = [_header(record, symbols)]
        if curves:
            parts.append(Padding(_layers(curves, mean, blocks, symbols), (0, 0, 1, 1)))
            parts.append(Padding(_tasks(curves, mean, blocks, symbols), (0, 0, 1, 1)))
        parts.append(Padding(_remarks(record, symbols), (0, 0, 0, 1)))
        return Group(*parts)

    return Adaptive(build)


def evaluation_estimate_table(estimates: EvaluationEstimates) -> RenderableType:
    """Return what an evaluation would take, as `--dry-run` prints it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right")
    for label, words in (
        ("tasks", f"{estimates.tasks:,}"),
        ("layers", f"{estimates.sites:,}"),
        ("distinct texts", f"{estimates.texts:,}"),
        ("of them not in the bank yet", f"{estimates.forward_passes:,}"),
        ("their tokens", f"{estimates.tokens:,}"),
        ("time of the pass, about", duration(estimates.pass_seconds)),
        ("time of mteb's scoring, about", duration(estimates.score_seconds)),
        ("memory", size_words(estimates.memory_bytes)),
        ("disk, for the bank", size_words(estimates.disk_bytes)),
    ):
        grid.add_row(label, words)
    failing = [f"! {task} would fail: {why}" for task, why in estimates.failing.items()]
    return Group(grid, *(Text(line, "red") for line in failing))


def task_curves(table: pd.DataFrame) -> list[Curve]:
    """Return the scores of each task that a table holds, in its order."""
    rows = table[(table["level"] == table_module.TASK) & table["value"].notna()]
    found: dict[str, dict[Place, float]] = {}
    for row in rows.to_dict("records"):
        place = (int(row["layer"]), str(row["stage"]))
        found.setdefault(str(row["metric"]), {})[place] = float(row["value"])
    names = short_names(list(found))
    return [
        Curve(names[metric], metric.rpartition("/")[2], values, metric.startswith("probe/"))
        for metric, values in found.items()
    ]


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """Return the mean of several tasks, unless one of them lacks a layer that another has."""
    curves = [curve for curve in curves if not curve.probe]
    if len(curves) < 2 or any(curve.values.keys() != curves[0].values.keys() for curve in curves):
        return None
    values = {
        place: sum(curve.values[place] for curve in curves) / len(curves)
        for place in curves[0].values
    }
    return Curve(f"mean of {len(curves)} tasks", "", values)


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


def _layers(
    curves: Sequence[Curve], mean: Curve | None, blocks: int, symbols: Symbols
) -> RenderableType:
    """Return a row a layer and a column a task; with many tasks, only their mean."""
    shown = list(curves) if len(curves) <= _TASKS_SHOWN else []
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    grid.add_column("layer", justify="right", no_wrap=True, width=5)
    grid.add_column("depth", justify="right", no_wrap=True, width=6)
    for curve in shown:
        grid.add_column(symbols.text(curve.name), justify="right", overflow="fold", width=_WIDTH)
    if mean is not None:
        grid.add_column("mean", justify="right", no_wrap=True, width=_WIDTH)
        shown.append(mean)
    for layer, stage in _shown_places(shown or curves):
        normed = stage == table_module.FINAL_NORM
        depth = "out" if normed else f"{layer / blocks if blocks else 0:.2f}"
        cells = [_cell(curve, (layer, stage), symbols) for curve in shown]
        grid.add_row(Text("norm" if normed else str(layer), "bold"), Text(depth, "dim"), *cells)
    notes = [f"{symbols.greatest} the best layer; scores of mteb x 100"]
    if mean is not None:
        names = ", ".join(curve.name for curve in curves if not curve.probe)
        notes.append(f"{mean.name}: {names}")
    return Group(grid, Text(symbols.text("\n".join(notes)), "dim"))


def _shown_places(curves: Sequence[Curve]) -> list[Place]:
    """Return at most about MAX_ROWS places: evenly spaced ones, the last two, and every best one."""
    found = {place for curve in curves for place in curve.values}
    places = sorted(found, key=lambda place: (place[0], place[1] == table_module.FINAL_NORM))
    stride = max(1, -(-len(places) // MAX_ROWS))
    kept = {*places[::stride], *places[-2:], *(curve.best for curve in curves)}
    return [place for place in places if place in kept]


def _cell(curve: Curve, place: Place, symbols: Symbols) -> Text:
    if place not in curve.values:
        return Text(symbols.undefined, "dim")
    best = place == curve.best
    mark = symbols.greatest if best else " "
    return Text(f"{100 * curve.values[place]:.2f}{mark}", "bold green" if best else "")


def _tasks(
    curves: Sequence[Curve], mean: Curve | None, blocks: int, symbols: Symbols
) -> RenderableType:
    """Return a row a task: its best layer, and the scores of the baselines."""
    grid = grid_of("task", "main score", "best layer", "best", "last", "middle", "best - last")
    for index in range(2, 7):
        grid.columns[index].justify = "right"
    for curve in [*curves, *([] if mean is None else [mean])]:
        layer, stage = curve.best
        best, last = curve.values[layer, stage], curve.last(blocks)
        middle = curve.values.get((rules.middle_layer(blocks), table_module.BLOCK))
        grid.add_row(
            Text(symbols.text(curve.name)),
            Text(symbols.text(curve.score), "dim"),
            Text("norm" if stage == table_module.FINAL_NORM else str(layer), "bold green"),
            *(_percent(value, symbols) for value in (best, last, middle)),
            _percent(None if last is None else best - last, symbols, signed=True),
        )
    return grid


def _percent(value: float | None, symbols: Symbols, *, signed: bool = False) -> Text:
    if value is None:
        return Text(symbols.undefined, "dim")
    return Text(f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}")


def _remarks(record: Mapping[str, Any], symbols: Symbols) -> RenderableType:
    lines = [
        Text(symbols.text(f"! {entry['task']} failed: {entry['reason']}"), "red")
        for entry in record.get("failed_tasks", ())
    ]
    notes = [*record.get("evaluation", {}).get("notes", ())]
    for name, facts in record.get("tasks", {}).items():
        notes.extend(f"{name}: {note}" for note in facts.get("notes", ()))
    return Group(*lines, *(Text(symbols.text(f"! {note}"), "dim") for note in notes))


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
