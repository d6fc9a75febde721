"""A choice of a layer in a terminal: the layer, every rule beside it, and what each one gained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope import selection
from layerscope.decision import Selection
from layerscope.gains import Gain, Interval
from layerscope.rules import BASELINES, RANDOM
from layerscope.selection import Choice
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import layer_ranges, settings_lines

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
        parts = [_header(record, symbols), _advice(found, symbols), _choices(found, every, symbols)]
        if found.gains:
            parts.append(_gains(found, every, symbols))
            parts.extend(_by_task(found, every, symbols))
        parts.extend(_footnotes(found, every, symbols))
        return Group(*parts)

    return Adaptive(build)


def _header(record: Mapping[str, Any], symbols: Symbols) -> RenderableType:
    model = record.get("model", {})
    title = Text(symbols.text(model.get("name", "")), style="bold")
    title.append(symbols.text(f" @ {model['revision']}") if model.get("revision") else "", "dim")
    lines = [Text(symbols.text(line)) for line in settings_lines(record)]
    return Padding(Group(title, *lines), (0, 0, 1, 1))


def _advice(found: Selection, symbols: Symbols) -> RenderableType:
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
            grid.add_row(label, Text(_layers(chosen)), *sureness)
    notes = []
    if any(choice.stage == selection.FINAL_NORM for choice in found.choices):
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


def _layers(chosen: Sequence[Choice]) -> str:
    """Return the layer of a rule, or of several sets of texts the range that its layers span."""
    if all(choice.stage == selection.FINAL_NORM for choice in chosen):
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


def _footnotes(found: Selection, every: bool, symbols: Symbols) -> list[RenderableType]:
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
