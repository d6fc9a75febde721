"""What `prune` did, in a terminal: the blocks that go, what that changed, and what random ones change."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from layerscope.pruning import PERPLEXITY, Comparison, Cost, Outcome, Rule
from layerscope.surgery import Shipped
from layerscope.terminal.shipping import checked, megabytes, rows
from layerscope.terminal.signs import Adaptive, Symbols, grid_of
from layerscope.terminal.words import decimals

_NAME_WIDTH = 24
_MORE = 8  # blocks shown behind those that go


def pruning_summary(
    rule: Rule,
    outcomes: Sequence[Outcome],
    *,
    model: str,
    scheme: str,
    kinds: Sequence[str],
    eligible: Sequence[int],
    costs: tuple[Cost, Cost] | None = None,
    shipped: Shipped | None = None,
    usage: str = "",
    notes: Sequence[str] = (),
) -> RenderableType:
    """Return what `prune` prints.

    Args:
        rule: by which the blocks were chosen.
        outcomes: budget by budget.
        model: its name.
        scheme: "one-shot" or "greedy".
        kinds: of each block.
        eligible: the blocks that were not protected.
        costs: of the full model and the smaller one.
        shipped: what was saved.
        usage: Python that loads it.
        notes: what there is to know.
    """

    def build(symbols: Symbols) -> RenderableType:
        head = Text(symbols.text(model), style="bold")
        how = Text(symbols.text(f"rule {rule.name}: {rule.title} ({rule.formula}), {scheme}"))
        parts: list[RenderableType] = [Padding(Group(head, how), (0, 0, 1, 1))]
        most = max(outcomes, key=lambda outcome: outcome.budget.count)
        for outcome in outcomes:
            parts.append(_removed(outcome, symbols))
            # The scores are the same for every number of blocks, unless a span is chosen.
            if outcome.removal.scores and (rule.at_once or outcome is most):
                parts.append(_scores(outcome, rule, kinds, eligible, symbols))
            if outcome.comparisons:
                parts.append(_comparisons(outcome, symbols))
        if costs is not None:
            parts.append(_costs(*costs))
        if notes:
            parts.append(Padding(Text(symbols.text("\n".join(notes)), "dim"), (0, 0, 1, 1)))
        if shipped is not None:
            parts.append(_saved(shipped, usage, symbols))
        return Group(*parts)

    return Adaptive(build)


def _removed(outcome: Outcome, symbols: Symbols) -> RenderableType:
    many = len(outcome.removed) > 1
    title = Text.assemble(
        (f"block{'s' if many else ''} {', '.join(map(str, outcome.removed))}", "bold green"),
        f" of {outcome.budget.blocks} go{'' if many else 'es'}: {outcome.budget} "
        f"(budget {', '.join(outcome.budget.asked)})",
    )
    kinds = ", ".join(dict.fromkeys(outcome.kinds))
    return Padding(Group(title, Text(symbols.text(f"of type {kinds}"), "dim")), (0, 0, 1, 1))


def _scores(
    outcome: Outcome, rule: Rule, kinds: Sequence[str], eligible: Sequence[int], symbols: Symbols
) -> RenderableType:
    """Return blocks, or spans of them, in the order of their scores, and which of them go."""
    scores, order = outcome.removal.scores, outcome.removal.blocks
    ranked = sorted(scores, key=lambda block: (scores[block], -block))
    digits = decimals(scores.values())
    varied = len(set(kinds)) > 1
    name = "blocks" if rule.at_once else "block"
    grid = grid_of(name, *(["type"] if varied else []), "score", "goes")
    grid.columns[0].justify = grid.columns[1 + varied].justify = "right"
    shown = ranked[: (1 if rule.at_once else len(order)) + _MORE]
    for block in shown:
        last = block + outcome.budget.count - 1 if rule.at_once else block
        goes = "" if block not in order else str(order.index(block) + 1)
        if rule.at_once:
            goes = "together" if block == order[0] else ""
        kind = ", ".join(dict.fromkeys(kinds[block - 1 : last]))
        grid.add_row(
            str(block) if last == block else f"{block}-{last}",
            *([Text(symbols.text(kind))] if varied else []),
            f"{scores[block]:.{digits}f}",
            Text(goes, "bold green"),
        )
    left = f", {len(ranked) - len(shown)} more in --json" if len(ranked) > len(shown) else ""
    note = f"lowest score first{left}; {len(eligible)} of {len(kinds)} blocks may go"
    return Padding(Group(grid, Text(note, "dim")), (0, 0, 1, 1))


def _comparisons(outcome: Outcome, symbols: Symbols) -> RenderableType:
    """Return a row a test: full, pruned, change; and the change that random subsets make."""
    grid = grid_of("", "full", "pruned", "change", "random", "10..90 %", "p")
    for column in grid.columns[1:]:
        column.justify = "right"
    for found in outcome.comparisons:
        beside = found.random
        grid.add_row(
            Text(symbols.text(_short(found.name))),
            _value(found.full, found.name),
            _value(found.pruned, found.name),
            Text(_percent(found.change), _style(found)),
            "" if beside is None else _percent(beside.median),
            "" if beside is None else f"{_percent(beside.low)}..{_percent(beside.high)}",
            "" if beside is None else f"{beside.p:.2f}",
        )
    compared = [found.random for found in outcome.comparisons if found.random is not None]
    notes = ["change in % of the full model; scores x 100"]
    if compared:
        which = "all" if compared[0].exhaustive else "a draw of"
        of = "" if compared[0].exhaustive else f" of {outcome.total:,}"
        notes.append(
            f"random: median of {which} {compared[0].subsets} subsets{of} of as many blocks; p: share "
            + ("of them" if compared[0].exhaustive else "of them, this one counted in,")
            + " at least as good"
        )
    lines = [Text(note, "dim") for note in notes]
    return Padding(Group(grid, *lines), (0, 0, 1, 1))


def _short(name: str) -> str:
    name = name.removesuffix("Classification") if len(name) > _NAME_WIDTH else name
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."


def _style(found: Comparison) -> str:
    if found.random is None:
        return ""
    return "bold green" if found.random.beats_random else "red"


def _value(value: float | None, name: str) -> str:
    if value is None:
        return ""
    if name == PERPLEXITY:
        return f"{value:.2f}" if value < 1e4 else f"{value:.1e}"
    return f"{100 * value:.2f}"


def _percent(value: float) -> str:
    """Return a change in percent as short text.

    >>> _percent(-3.14159), _percent(412.5), _percent(5.2e7)
    ('-3.1', '+412', '+5.2e+07')
    """
    if math.isnan(value):
        return ""
    if abs(value) >= 1e5:
        return f"{value:+.1e}"
    return f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.1f}"


def _costs(full: Cost, pruned: Cost) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "right"):
        grid.add_column(justify=justify)
    grid.add_row("", Text("full", "dim"), Text("pruned", "dim"), "")
    lines = (
        ("parameters", f"{full.parameters / 1e6:,.1f} M", f"{pruned.parameters / 1e6:,.1f} M",
         pruned.parameters / full.parameters - 1),
        ("weights in memory", megabytes(full.bytes), megabytes(pruned.bytes),
         pruned.bytes / full.bytes - 1),
    )  # fmt: skip
    for label, before, after, change in lines:
        grid.add_row(label, before, after, f"{100 * change:+.1f} %")
    faster = pruned.tokens_per_second / full.tokens_per_second
    grid.add_row(
        "tokens a second", f"{full.tokens_per_second:,.0f}", f"{pruned.tokens_per_second:,.0f}",
        f"{faster:.2f} x",
    )  # fmt: skip
    where = "1 CPU thread" if full.threads == 1 else f"{full.threads} CPU threads"
    note = f"forward passes without the head, on {where if full.device == 'cpu' else full.device}"
    return Padding(Group(grid, Text(note, "dim")), (0, 0, 1, 1))


def _saved(shipped: Shipped, usage: str, symbols: Symbols) -> RenderableType:
    title = Text.assemble(("saved", "bold green"), symbols.text(f" in {shipped.folder}"))
    facts = [("files", megabytes(shipped.size)), *checked(shipped)]
    code = Syntax(usage, "python", theme="ansi_dark", background_color="default")
    return Group(Padding(title, (0, 0, 1, 1)), rows(facts), Padding(code, (1, 0, 0, 1)))
