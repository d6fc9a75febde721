"""Cut and pruned models, rankings and diagnoses in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from layerscope.analysis.run import Estimates
from layerscope.decisions.agreement import FEWEST, Agreement, Correlation
from layerscope.decisions.predictors import PREDICTORS, RANDOM, TRIVIAL, Predictor, predictor
from layerscope.decisions.prune import Rule
from layerscope.decisions.rank import Place, Ranking
from layerscope.diagnosis.results import Check, Diagnosis, LayerFacts, Verdict
from layerscope.export.cut import Cut, CutEstimates
from layerscope.export.prune import Outcome
from layerscope.export.ship import Shipped
from layerscope.export.shorten import LAST
from layerscope.export.trial import PERPLEXITY, Comparison, Cost
from layerscope.render.terminal import duration, estimate_table, size_words
from layerscope.render.words import (
    Adaptive,
    Symbols,
    decimals,
    evenly,
    grid_of,
    layer_ranges,
    settings_lines,
)


def cut_summary(found: Cut) -> RenderableType:
    """Return what `cut` prints: the layer, what it took, what was compared, how to use it."""

    def build(symbols: Symbols) -> RenderableType:
        behind = ", behind the final norm" if found.stage == "final_norm" else ""
        title = Text(f"Layer {found.layer} of {found.of}{behind}", style="bold green")
        title.append(symbols.text(f" saved in {found.folder}"), "not bold default")
        facts = [
            ("blocks", f"{found.blocks} of {found.of}"),
            (
                "weights",
                f"{megabytes(found.shipped.weights)} (source {megabytes(found.source_size)})",
            ),
            *_where(found),
            *checked(found.shipped),
        ]
        parts: list[RenderableType] = [Padding(title, (0, 0, 1, 1)), rows(facts)]
        if found.blocks == found.of and found.settings.kind == "cut":
            parts.append(Text("\n Every block is needed for the last layer: nothing was left out."))
        said = [Text(symbols.text(note)) for note in (*found.evidence, *found.notes)]
        if said:
            parts.append(Padding(Group(*said), (1, 0, 0, 1)))
        code = Text(symbols.text(found.usage), style="cyan", overflow="fold", no_wrap=False)
        parts.append(Padding(code, (1, 0, 0, 1)))
        return Group(*parts)

    return Adaptive(build)


def cut_estimate_table(found: CutEstimates) -> RenderableType:
    """Return what a cut would take, as `--dry-run` prints it."""
    layer = "chosen by the scan" if found.layer is None else f"{found.layer} of {found.of}"
    at_most = "at most " if found.layer is None else ""
    facts = [
        ("layer", layer),
        ("weights to write", f"{at_most}{megabytes(found.weight_bytes)}"),
        ("free there", megabytes(found.free_bytes)),
    ]
    parts: list[RenderableType] = [rows(facts)]
    if found.scan is not None:
        parts += [Text("\n The scan that chooses it:"), estimate_table(found.scan)]
    return Group(*parts)


def pruning_estimate_table(
    facts: Sequence[tuple[str, str]],
    weights: int,
    free: int | None,
    scan: Estimates | None,
) -> RenderableType:
    """Return what a pruning would take, as `--dry-run` prints it.

    Args:
        facts: labels and values.
        weights: bytes that are written at most.
        free: bytes that are free there; None where nothing is saved.
        scan: what one scan that chooses the blocks would take, if there has to be one.
    """
    saved = []
    if free is not None:
        saved = [
            ("weights to write", f"at most {megabytes(weights)}"),
            ("free there", megabytes(free)),
        ]
    parts: list[RenderableType] = [rows([*facts, *saved])]
    if scan is not None:
        parts += [Text("\n A scan that chooses them:"), estimate_table(scan)]
    return Group(*parts)


def _where(found: Cut) -> list[tuple[str, str]]:
    if found.settings.format == "sentence-transformers" or found.output == LAST:
        return []
    return [("in the output", f"hidden_states[{found.output[1]}]")]


def checked(shipped: Shipped) -> list[tuple[str, str]]:
    """Return what the new process found, as labels and values."""
    check = shipped.verification
    apart = (
        f"largest difference {check.largest:.0e} (limit {check.limit:.0e})"
        if check.largest
        else "no difference"
    )
    said = [("checked", f"{check.reader} in a new process, {check.texts} texts: {apart}")]
    if check.generated is not None:
        said.append(("", "text generated alike with and without the cache"))
    return said


def megabytes(size: int) -> str:
    """Return bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"


def rows(facts: Sequence[tuple[str, str]]) -> Table:
    """Return labels and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, value in facts:
        table.add_row(f" {label}", value)
    return table


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
            Text(symbols.text(_short_change(found.name))),
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


def _short_change(name: str) -> str:
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


_HEADS: Final = {"d_0L": "d_0,L", "dataset_entropy": "dataset\nentropy", "rankme": "RankMe",
                 "prompt_entropy": "prompt\nentropy", "mean_nrs": "mean\nNRS",
                 "mean_gfmi": "mean\nGFMI", "parameters": "param."}  # fmt: skip


def ranking_summary(found: Ranking) -> RenderableType:
    """Return what `rank` prints: the order and how sure it is, sizes, and what orders are worth."""

    def build(symbols: Symbols) -> RenderableType:
        parts = [_ranking_header(found, symbols), _order(found, symbols), _beside(found, symbols)]
        if found.agreements:
            parts.append(_agreements(found, symbols))
        parts.append(_notes(found, symbols))
        return Group(*parts)

    return Adaptive(build)


def _ranking_header(found: Ranking, symbols: Symbols) -> RenderableType:
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
        _short_model(each.spearman_by_task, symbols),
        *(_short_model(value, symbols) for value in partial),
    ]


def _correlation(found: Correlation | None, symbols: Symbols) -> Text:
    if found is None:
        return Text(symbols.undefined)
    text = _short_model(found.value, symbols)
    if found.low is not None and found.high is not None:
        text.append(f"\n{found.low:z.1f}..{found.high:z.1f}", "dim")
    return text


def _short_model(value: float | None, symbols: Symbols) -> Text:
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


_STYLES: Final = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}


def diagnosis_table(found: Diagnosis) -> RenderableType:
    """Return what `doctor` prints: the model, the verdict, every check, the layers."""

    def build(symbols: Symbols) -> RenderableType:
        parts = [_diagnosis_header(found, symbols), _checks(found, symbols)]
        if found.layers:
            parts.append(_layers(found, symbols))
        return Group(*parts)

    return Adaptive(build)


def _diagnosis_header(found: Diagnosis, symbols: Symbols) -> RenderableType:
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
