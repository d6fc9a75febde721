"""Numbers, limits, layers and settings in words: the one place that formats them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from layerscope.data.views import of_spans
from layerscope.render.view import NONE
from layerscope.results import table as table_module

MAX_ROWS: Final = 40
SHAPE_WIDTH: Final = 8
_RAMP: Final = "▁▂▃▄▅▆▇█"


def decimals(values: Iterable[float | None]) -> int:
    """Return the decimals that show four digits of the greatest of the values, 0 to 4.

    >>> decimals([171.5, 88.0]), decimals([0.78, -2.4]), decimals([0.012]), decimals([])
    (1, 3, 4, 3)
    """
    size = max((abs(value) for value in values if value is not None), default=1.0)
    return min(4, max(0, 3 - math.floor(math.log10(size)))) if size > 0 else 3


def number(value: float | None, digits: int) -> str:
    """Return a value with its decimals, or a dash for none.

    >>> number(2.34567, 2), number(1234567.0, 1)
    ('2.35', '1.2e+06')
    """
    if value is None:
        return NONE
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.1e}"


def score(value: float | None, *, signed: bool = False) -> str:
    """Return a score, which is in mteb's unit 0 to 1, times 100.

    >>> score(0.61234), score(0.01, signed=True)
    ('61.23', '+1.00')
    """
    if value is None:
        return NONE
    return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def coefficient(value: float | None) -> str:
    """Return a correlation with two decimals and no zero before them: it lies within -1 and 1.

    >>> coefficient(-0.456), coefficient(1.0)
    ('-.46', '1.00')
    """
    return NONE if value is None else f"{value:z.2f}".replace("0.", ".", 1)


def p_value(value: float | None) -> str:
    """Return a p value in four signs at most.

    >>> p_value(0.0312), p_value(0.00002), p_value(1.0)
    ('.031', '2e-5', '1')
    """
    if value is None:
        return NONE
    if value < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else "1"


def percent(value: float) -> str:
    """Return a change that is in percent as short text.

    >>> percent(-3.14159), percent(412.5), percent(5.2e7)
    ('-3.1', '+412', '+5.2e+07')
    """
    if math.isnan(value):
        return ""
    if abs(value) >= 1e5:
        return f"{value:+.1e}"
    return f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.1f}"


def limits(low: float | None, high: float | None, digits: int | str = ".4g") -> str:
    """Return the limits of a value; nothing where it has none.

    >>> limits(0.25, 0.5), limits(-1.0, 2.25, 1), limits(None, 1.0)
    ('0.25..0.5', '-1.0..2.2', '')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    spec = f".{digits}f" if isinstance(digits, int) else digits
    return f"{low:{spec}}..{high:{spec}}"


def count(value: float | None) -> str:
    """Return a count, large ones in thousands or millions.

    >>> count(384), count(260032), count(22713216)
    ('384', '260 k', '22.7 M')
    """
    if value is None:
        return NONE
    if value >= 1e6:
        return f"{value / 1e6:,.1f} M"
    return f"{value / 1e3:.0f} k" if value >= 1e5 else f"{value:.0f}"


def rough(value: float) -> str:
    """Return a number with the two digits that a timing is good for.

    >>> rough(1234.5), rough(87.6), rough(0.456)
    ('1,200', '88', '0.46')
    """
    return f"{float(f'{value:.2g}'):,.10g}"


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


def size(number: int) -> str:
    """Return bytes in a unit that leaves few digits.

    >>> size(900), size(2_500_000), size(3_200_000_000)
    ('900 B', '2.5 MB', '3.2 GB')
    """
    amount = float(number)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"


def score_over(tasks: Sequence[str]) -> str:
    """Return whose score a number is: a task's, or the mean over several.

    >>> score_over(["STS17"]), score_over(["STS17", "STS12"])
    ('STS17', 'mean score of 2 tasks')
    """
    return tasks[0] if len(tasks) == 1 else f"mean score of {len(tasks)} tasks"


def several(number: int, noun: str) -> str:
    """Return a number of things.

    >>> several(1, "task"), several(2, "task")
    ('1 task', '2 tasks')
    """
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def counted(names: Iterable[str], kind: str) -> str:
    """Return the only name, or how many there are.

    >>> counted(["bert"], "models"), counted("abc", "models")
    ('bert', '3 models')
    """
    known = list(names)
    return known[0] if len(known) == 1 else f"{len(known)} {kind}"


def sparkline(values: Sequence[float]) -> str:
    """Return the curve as a sparkline of at most SHAPE_WIDTH signs, long ones averaged in bins."""
    if not values:
        return ""
    width = min(SHAPE_WIDTH, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    bins = [values[start:stop] for start, stop in pairwise(edges)]
    means = [sum(part) / len(part) for part in bins]
    low, span = min(means), max(means) - min(means)
    top = len(_RAMP) - 1
    return "".join(_RAMP[round(top * (mean - low) / span) if span else 0] for mean in means)


def evenly(layers: Sequence[int], kept: Iterable[int] = ()) -> list[int]:
    """Return at most about MAX_ROWS layers: evenly spaced ones, the last, and those to be kept.

    >>> evenly(range(1, 5)), len(evenly(range(1, 127)))
    ([1, 2, 3, 4], 33)
    """
    always = {*layers[-1:], *kept}
    for stride in range(1, len(layers) + 1):
        chosen = {*layers[::stride], *always}
        if len(chosen) <= MAX_ROWS or stride == len(layers):
            return sorted(chosen)
    return list(layers)


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


def span(layers: Iterable[int]) -> str:
    """Return a few layers, or the range that many span.

    >>> span([3, 3]), span([1, 2, 9]), span([1, 4, 6, 9])
    ('3', '1, 2, 9', '1..9')
    """
    known = sorted(set(layers))
    return layer_ranges(known) if len(known) <= 3 else f"{known[0]}..{known[-1]}"


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


# --- how a result was made --------------------------------------------------------------------------


def settings_lines(record: Mapping[str, Any], texts: int | None = None) -> tuple[str, ...]:
    """Return the run in a few lines: model, texts and tokens that count, as far as known."""
    lines = (
        _model_line(record.get("model", {})),
        _data_line(record.get("data", {}), texts),
        _tokens_line(record.get("settings", _scored(record))),
    )
    return tuple(filter(None, lines))


def detail_lines(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return more on the run: what was left out, views, time and vectors, as far as known."""
    evaluation = record.get("evaluation", {})
    lines = (
        _dropped_line(record.get("data", {})),
        _views_line(record.get("augmentation", {})),
        _time_line(record.get("times", evaluation.get("times", {}))),
        _vectors_line(_scored(record)),
        _bank_line(evaluation),
    )
    return tuple(filter(None, lines))


def _scored(record: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = record.get("evaluation", {})
    first = {"first_token_ratio": evaluation.get("first_token_ratio")}
    return dict(evaluation.get("settings", {})) | first


def _joined(*parts: str | None) -> str:
    return ", ".join(filter(None, parts))


def _model_line(model: Mapping[str, Any]) -> str:
    parameters = model.get("parameters")
    return _joined(
        model.get("model_class", model.get("class")),
        None if model.get("blocks") is None else f"{model['blocks']} blocks",
        None if model.get("dim") is None else f"{model['dim']} wide",
        None if parameters is None else f"{parameters / 1e6:,.1f} M parameters",
        " on ".join(str(model[key]) for key in ("dtype", "device") if model.get(key)),
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
    dropped = ", ".join(f"{number} {words}" for number, words in counts if number)
    return f"left out: {dropped}" if dropped else ""


def _tokens_line(settings: Mapping[str, Any]) -> str:
    named = {True: "counted", False: "left out", "keep": "counted", "drop": "left out"}
    special, first = (settings.get(key) for key in ("special_tokens", "first_token"))
    ratio = settings.get("first_token_ratio")
    norm = "" if ratio is None else f" (norm {ratio:.3g} x the median)"
    return _joined(
        f"{settings['pooling']} pooling" if "pooling" in settings else "",
        "" if settings.get("alpha", 1) == 1 else f"entropies of order {settings['alpha']}",
        "" if special is None else f"special tokens {named.get(special, special)}",
        "" if first is None else f"first token {named.get(first, first)}{norm}",
    )


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


def _vectors_line(settings: Mapping[str, Any]) -> str:
    prompts = {"prompt": settings.get("prompt"), "query prompt": settings.get("query_prompt")}
    if prompts["query prompt"] == prompts["prompt"]:
        del prompts["query prompt"]
    unit = "vectors at unit length" if settings.get("normalize") else ""
    return _joined(unit, *(f"{name} {text!r}" for name, text in prompts.items() if text))


def _bank_line(evaluation: Mapping[str, Any]) -> str:
    encoded, bank = evaluation.get("encoded"), evaluation.get("bank")
    if not encoded or not bank:
        return ""
    texts, stored = f"{encoded['texts']:,} texts", f"{bank['texts']:,} in the bank"
    return f"{texts} through the model, {stored} ({size(bank['bytes'])})"


_GROUPS: Final = {
    "model": "Model",
    "data": "Texts",
    "settings": "Settings",
    "evaluation": "Evaluation",
    "tasks": "Tasks",
    "augmentation": "Augmentation",
    "versions": "Versions",
    "times": "Seconds",
}


def record_facts(record: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return a run's record in groups of (name, value), known groups first."""
    groups = [
        (heading, tuple((_spoken(name), plain(value)) for name, value in record[key].items()))
        for key, heading in _GROUPS.items()
        if isinstance(record.get(key), Mapping) and record[key]
    ]
    known = {*_GROUPS, "undefined", "notes", "edit_distance_by_text"}
    rest = tuple((_spoken(key), plain(value)) for key, value in record.items() if key not in known)
    return (*groups, ("Record", rest)) if rest else tuple(groups)


def _spoken(key: str) -> str:
    return key.replace("_", " ")


_ABSOLUTE: Final = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:\\|/)(?:[^\s'\",;\\/]+[\\/])+[^\s'\",;]+")


def plain(value: object) -> str:
    """Return a value of a record as words.

    Of an absolute path only the name is left: a page is given to others.

    >>> plain(None), plain([1, True]), plain({"first_token": "kept"}), plain("/home/me/a.csv")
    ('not set', '1, yes', 'first token kept', 'a.csv')
    """
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:.4g}"
        case Mapping():
            return "; ".join(f"{_spoken(str(key))} {plain(part)}" for key, part in value.items())
        case list() | tuple():
            return ", ".join(plain(part) for part in value) or "none"
    return _ABSOLUTE.sub(lambda found: found[0].replace("\\", "/").rpartition("/")[2], str(value))
