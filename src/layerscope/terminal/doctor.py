"""A diagnosis in a terminal: a line a check with its numbers, and what to do about those that failed."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from layerscope.doctor import Check, Diagnosis, LayerFacts, Verdict
from layerscope.terminal.catalogue import duration, size_words
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import evenly, settings_lines

_STYLES: Final = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}


def diagnosis_table(found: Diagnosis) -> RenderableType:
    """Return what `doctor` prints: the model, the verdict, every check, the layers."""

    def build(symbols: Symbols) -> RenderableType:
        parts = [_header(found, symbols), _checks(found, symbols)]
        if found.layers:
            parts.append(_layers(found, symbols))
        return Group(*parts)

    return Adaptive(build)


def _header(found: Diagnosis, symbols: Symbols) -> RenderableType:
    title = Text(symbols.text(found.model.get("name", "")), style="bold")
    record = {"model": found.model, "data": found.data if found.data.get("texts") else {}}
    lines = [Text(symbols.text(line)) for line in settings_lines(record)]
    equal = Text(f"States count as equal within {found.tolerance:.0e} of their own size.", "dim")
    return Padding(Group(title, *lines, equal, _verdict(found)), (0, 0, 1, 1))


def _verdict(found: Diagnosis) -> Text:
    counts = {verdict: len(found.of(verdict)) for verdict in Verdict}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    style = "bold green" if found.healthy else "bold red"
    head = "Layer k is layer k" if found.healthy else "Do not trust this model's layers yet"
    return Text.assemble((head, style), f": {words} in {duration(found.seconds)}")


def _checks(found: Diagnosis, symbols: Symbols) -> RenderableType:
    grid = grid_of("", "", "")
    grid.show_header = False
    grid.columns[1].no_wrap = True
    for check in found.checks:
        grid.add_row(_sign(check, symbols), check.name.replace("_", " "), _said(check, symbols))
    return Padding(grid, (0, 0, 1, 1))


def _sign(check: Check, symbols: Symbols) -> Text:
    signs = {
        Verdict.PASSED: "ok" if symbols.ascii_only else symbols.same,
        Verdict.FAILED: symbols.differ,
        Verdict.SKIPPED: symbols.undefined,
    }
    return Text(signs[check.verdict], _STYLES[check.verdict])


def _said(check: Check, symbols: Symbols) -> Text:
    prefix = {Verdict.FAILED: "failed: ", Verdict.SKIPPED: "skipped: "}.get(check.verdict, "")
    style = "" if check.verdict is Verdict.PASSED else _STYLES[check.verdict]
    text = Text(symbols.text(prefix + check.said), style)
    return text.append(symbols.text(f"\n{check.advice}"), "yellow") if check.advice else text


def _layers(found: Diagnosis, symbols: Symbols) -> RenderableType:
    """Return a row a layer: what its block weighs, how large its states are, how much it changes."""
    grid = grid_of("layer", "block's weights", "largest |state|", "changes tokens by")
    for column in grid.columns:
        column.justify = "right"
    blocks = [fact for fact in found.layers if fact.stage == "block"]
    shown = set(evenly([fact.layer for fact in blocks]))
    rest = [fact for fact in found.layers if fact.stage != "block"]
    for fact in [*(fact for fact in blocks if fact.layer in shown), *rest]:
        grid.add_row(*_row(fact, symbols))
    return Padding(grid, (0, 0, 0, 1))


def _row(fact: LayerFacts, symbols: Symbols) -> tuple[str, ...]:
    largest = symbols.undefined
    if fact.largest is not None:
        largest = f"{fact.largest:,.0f}" if fact.largest >= 1000 else f"{fact.largest:.4g}"
    return (
        str(fact.layer) if fact.stage == "block" else "norm",
        "" if fact.weights is None else size_words(fact.weights),
        largest if fact.finite else f"{largest} and NaN or infinity",
        ""
        if fact.change is None
        else f"{100 * fact.change:,.0f} %"
        if fact.change >= 0.1
        else f"{100 * fact.change:.2g} %",
    )
