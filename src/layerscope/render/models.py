"""Views of models made smaller, and of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from layerscope.decisions.prune import Rule
from layerscope.diagnosis.results import Check, Diagnosis, LayerFacts, Verdict
from layerscope.export.cut import Cut
from layerscope.export.outcomes import BudgetOutcome
from layerscope.export.ship import Shipped
from layerscope.export.shorten import LAST
from layerscope.export.trial import MEAN, PERPLEXITY, Comparison, Cost
from layerscope.render import words
from layerscope.render.view import (
    DIFFERENT,
    NONE,
    SAME,
    Answer,
    Cell,
    Code,
    Facts,
    Notes,
    Style,
    Table,
    View,
    heads,
    section,
    sections,
)
from layerscope.results.table import BLOCK, FINAL_NORM


def cut_view(found: Cut) -> View:
    """Return what `cut` did: the layer, what it took, what was compared, how to use it."""
    after = ", after the final norm" if found.stage == FINAL_NORM else ""
    facts = [
        ("blocks", f"{found.blocks} of {found.of}"),
        (
            "weights",
            f"{words.size(found.shipped.weights)} (source {words.size(found.source_size)})",
        ),
    ]
    if found.settings.format != "sentence-transformers" and found.output != LAST:
        facts.append(("in the output", f"hidden_states[{found.output[1]}]"))
    whole = found.blocks == found.of and found.settings.kind == "cut"
    said = ["Every block is needed for the last layer: nothing was left out."] if whole else []
    return View(
        "",
        answers=(Answer(f"Layer {found.layer} of {found.of}{after} saved in {found.folder}"),),
        sections=sections(
            section("", Facts((*facts, *_checked(found.shipped)))),
            section("", Notes((*said, *found.evidence, *found.notes), "")),
            section("", Code(found.usage)),
        ),
    )


def _checked(shipped: Shipped) -> list[tuple[str, str]]:
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


# --- a pruning --------------------------------------------------------------------------------------

_NAME_WIDTH: Final = 24
_MORE: Final = 8  # blocks shown after those that are dropped


def pruning_view(
    rule: Rule,
    outcomes: Sequence[BudgetOutcome],
    *,
    model: str,
    scheme: str,
    kinds: Sequence[str],
    eligible: Sequence[int],
    costs: tuple[Cost, Cost] | None = None,
    shipped: Shipped | None = None,
    usage: str = "",
    notes: Sequence[str] = (),
) -> View:
    """Return what `prune` found.

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
    most = max(outcomes, key=lambda outcome: outcome.budget.count)
    parts: list[Table | None] = []
    for outcome in outcomes:
        # The scores are the same for every number of blocks, unless a span is chosen.
        if outcome.removal.scores and (rule.at_once or outcome is most):
            parts.append(_block_scores(outcome, rule, kinds, eligible))
        parts.append(_comparisons(outcome) if outcome.comparisons else None)
    saved = () if shipped is None else (("files", words.size(shipped.size)), *_checked(shipped))
    return View(
        model,
        lines=(f"rule {rule.name}: {rule.title} ({rule.formula}), {scheme}",),
        answers=tuple(_removed(outcome) for outcome in outcomes),
        sections=sections(
            section("", *parts),
            section("", None if costs is None else _costs(*costs)),
            section("", Notes(tuple(notes))),
            section("" if shipped is None else f"saved in {shipped.folder}", Facts(saved)),
            section("", Code(usage if shipped is not None else "")),
        ),
    )


def _removed(outcome: BudgetOutcome) -> Answer:
    """Return which blocks to drop, and on what evidence."""
    many = len(outcome.removed) > 1
    blocks = f"block{'s' if many else ''} {', '.join(map(str, outcome.removed))}"
    if outcome.part is not None:
        blocks = f"the {'MLP' if outcome.part == 'mlp' else outcome.part} of {blocks}"
    asked = f"budget {', '.join(outcome.budget.asked)}"
    kinds = f"of type {', '.join(dict.fromkeys(outcome.kinds))}"
    return Answer(
        f"Drop {blocks} of {outcome.budget.blocks}: {outcome.budget}.",
        "; ".join([asked, kinds, *_cost(outcome)]),
    )


def _cost(outcome: BudgetOutcome) -> list[str]:
    """Return what it costs on the tasks, and what random subsets cost; nothing where none was tried."""
    if not outcome.comparisons:
        return []
    mean = next((each for each in outcome.comparisons if each.name == MEAN), outcome.comparisons[0])
    said = f"{mean.name} {words.percent(mean.change)} %"
    if mean.random is None or mean.dropped is not None:
        return [said]
    return [f"{said}, random {words.percent(mean.random.median)} %, p {mean.random.p:.2f}"]


def _block_scores(
    outcome: BudgetOutcome, rule: Rule, kinds: Sequence[str], eligible: Sequence[int]
) -> Table:
    """Return blocks, or spans of them, in the order of their scores, and which of them go."""
    scores, order = outcome.removal.scores, outcome.removal.blocks
    ranked = sorted(scores, key=lambda block: (scores[block], -block))
    digits = words.decimals(scores.values())
    varied = ("type",) if len(set(kinds)) > 1 else ()
    shown = ranked[: (1 if rule.spans else len(order)) + _MORE]
    lines = []
    for block in shown:
        last = block + outcome.budget.count - 1 if rule.spans else block
        goes = "" if block not in order else str(order.index(block) + 1)
        if rule.at_once:
            goes = "together" if block in (order[:1] if rule.spans else order) else ""
        lines.append(
            (
                Cell(str(block) if last == block else f"{block}-{last}"),
                *(Cell(", ".join(dict.fromkeys(kinds[block - 1 : last]))) for _ in varied),
                Cell(f"{scores[block]:.{digits}f}"),
                Cell(goes, "good"),
            )
        )
    left = f", {len(ranked) - len(shown)} more in --json" if len(ranked) > len(shown) else ""
    note = f"lowest score first{left}; {len(eligible)} of {len(kinds)} blocks may go"
    named = heads("blocks" if rule.spans else "block", *varied, "score", "goes",
                  left=(1, 3) if varied else (2,))  # fmt: skip
    return Table(named, tuple(lines), notes=(note,))


def _comparisons(outcome: BudgetOutcome) -> Table:
    """Return a row a test: full, pruned, change; and the change that random subsets make."""
    healed = bool(outcome.patches)
    lines = tuple(
        (
            Cell(_shortened(found.name)),
            Cell(_quality(found.full, found.name)),
            *((Cell(_quality(found.dropped, found.name)),) if healed else ()),
            Cell(_quality(found.pruned, found.name)),
            Cell(words.percent(found.change), _judged(found)),
            *_random(found),
        )
        for found in outcome.comparisons
    )
    notes = ["change in % of the full model; scores x 100"]
    compared = next((found.random for found in outcome.comparisons if found.random), None)
    if compared is not None:
        every = compared.exhaustive
        drawn = "all" if every else "a draw of"
        of = "" if every else f" of {outcome.total:,}"
        share = "of them" if every else "of them, this one counted in,"
        notes.append(
            f"random: median of {drawn} {compared.subsets} subsets{of} of as many blocks; "
            f"p: share {share} at least as good"
            f"{' as dropped, since they are not healed either' if healed else ''}"
        )
    pruned = ("dropped", "healed") if healed else ("pruned",)
    named = heads("", "full", *pruned, "change", "random", "10..90 %", "p")
    return Table(named, lines, notes=tuple(notes))


def _random(found: Comparison) -> tuple[Cell, Cell, Cell]:
    if found.random is None:
        return Cell(), Cell(), Cell()
    middle, low, high = (
        words.percent(value) for value in (found.random.median, found.random.low, found.random.high)
    )
    return Cell(middle), Cell(f"{low}..{high}"), Cell(f"{found.random.p:.2f}")


def _judged(found: Comparison) -> Style:
    if found.random is None:
        return ""
    return "good" if found.random.beats_random else "bad"


def _shortened(name: str) -> str:
    name = name.removesuffix("Classification") if len(name) > _NAME_WIDTH else name
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."


def _quality(value: float | None, name: str) -> str:
    if value is None or name != PERPLEXITY:
        return "" if value is None else words.score(value)
    return f"{value:.2f}" if value < 1e4 else f"{value:.1e}"


def _costs(full: Cost, pruned: Cost) -> Table:
    faster = pruned.tokens_per_second / full.tokens_per_second
    lines = (
        ("parameters", words.count(full.parameters), words.count(pruned.parameters),
         f"{100 * (pruned.parameters / full.parameters - 1):+.1f} %"),
        ("weights in memory", words.size(full.bytes), words.size(pruned.bytes),
         f"{100 * (pruned.bytes / full.bytes - 1):+.1f} %"),
        ("tokens a second", f"{full.tokens_per_second:,.0f}", f"{pruned.tokens_per_second:,.0f}",
         f"{faster:.2f} x"),
    )  # fmt: skip
    cpu = "1 CPU thread" if full.threads == 1 else f"{full.threads} CPU threads"
    note = f"forward passes without the head, on {cpu if full.device == 'cpu' else full.device}"
    cells = tuple(tuple(Cell(word) for word in line) for line in lines)
    return Table(heads("", "full", "pruned", ""), cells, notes=(note,))


# --- a diagnosis ------------------------------------------------------------------------------------

_VERDICTS: Final[dict[Verdict, tuple[str, Style, str]]] = {
    Verdict.PASSED: (SAME, "good", ""),
    Verdict.FAILED: (DIFFERENT, "bad", "failed: "),
    Verdict.SKIPPED: (NONE, "soft", "skipped: "),
}


def diagnosis_view(found: Diagnosis) -> View:
    """Return what `doctor` found: the model, the verdict, every check, the layers."""
    record = {"model": found.model, "data": found.data if found.data.get("texts") else {}}
    counts = {verdict: len(found.of(verdict)) for verdict in Verdict}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lead = "Layer k is layer k" if found.healthy else "Do not trust this model's layers yet"
    equal = f"States count as equal within {found.tolerance:.0e} of their own size."
    checks = Table(
        heads("", "check", "found", left=(0, 1, 2)),
        tuple(cells for check in found.checks for cells in _check(check)),
        bare=True,
    )
    return View(
        str(found.model.get("name", "")),
        lines=(*words.settings_lines(record), *words.detail_lines(record), equal),
        answers=(
            Answer(f"{lead}: {counted} in {words.duration(found.seconds)}", "", found.healthy),
        ),
        sections=sections(section("Checks", checks), section("Layers", _layers(found))),
    )


def _check(check: Check) -> list[tuple[Cell, ...]]:
    sign, style, prefix = _VERDICTS[check.verdict]
    said = Cell(f"{prefix}{check.said}", "" if check.verdict is Verdict.PASSED else style)
    lines: list[tuple[Cell, ...]] = [(Cell(sign, style), Cell(check.name.replace("_", " ")), said)]
    return [*lines, (Cell(), Cell(), Cell(check.advice, "mark"))] if check.advice else lines


def _layers(found: Diagnosis) -> Table | None:
    """Return a row a layer: what its block weighs, how large its states are, how much it changes."""
    shown = words.evenly([fact.layer for fact in found.layers if fact.stage == BLOCK])
    facts = [fact for fact in found.layers if fact.stage != BLOCK or fact.layer in shown]
    named = heads("layer", "block's weights", "largest |state|", "changes tokens by", left=())
    return Table(named, tuple(_row(fact) for fact in facts)) if facts else None


def _row(fact: LayerFacts) -> tuple[Cell, ...]:
    largest, change = NONE, ""
    if fact.largest is not None:
        largest = f"{fact.largest:,.0f}" if fact.largest >= 1000 else f"{fact.largest:.4g}"
    if fact.change is not None:
        percent = 100 * fact.change
        change = f"{percent:,.0f} %" if fact.change >= 0.1 else f"{percent:.2g} %"
    return (
        Cell(str(fact.layer) if fact.stage == BLOCK else "norm"),
        Cell("" if fact.weights is None else words.size(fact.weights)),
        Cell(largest if fact.finite else f"{largest} and NaN or infinity"),
        Cell(change),
    )
