"""Rules that order the blocks of a model for removal, budgets, and the random baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

import numpy as np

from layerscope.decisions import evidence
from layerscope.decisions.subsets import least_error
from layerscope.errors import InputError, unknown_name
from layerscope.metrics import catalogue
from layerscope.metrics.measure import Measure
from layerscope.results.table import TASK, Run

_LRD: Final = "measure named in Jiang, Yang, Tam 2026; the rule is ours"
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Removal:
    """The blocks that a rule removes.

    Attributes:
        blocks: in the order of removal.
        scores: block -> its score, the lowest removed first; for a contiguous rule, first block of a
            span -> score of the span. Empty where a rule measures nothing.
    """

    blocks: tuple[int, ...]
    scores: Scores


@dataclass(frozen=True)
class Measured:
    """The measures of a model that rules read, from the rows of a run.

    Attributes:
        run: a scan of the model.
        blocks: L.
        left: (first block, blocks) of a run of blocks -> the squared error that a map in their place
            leaves, as a share of the states' own length; of runs that a map can stand in for.
    """

    run: Run
    blocks: int
    left: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def layers(self, metric: str, convention: str = "") -> Scores:
        """Return layer -> value of a measure of single layers."""
        rows = evidence.of_measure(self.run.table, metric, convention)
        return dict(zip(rows.index.astype(int), rows["value"].astype(float), strict=True))

    def path(self, metric: str) -> Scores:
        """Return layer -> value of a measure of several layers: steps by the block that makes them."""
        rows = evidence.of_path(self.run.table, metric)
        return dict(zip(rows.index.astype(int), rows["value"].astype(float), strict=True))

    def reason(self, metric: str) -> str:
        """Return the run's first reason why a measure has no value somewhere, "" if none."""
        undefined = self.run.record.get("undefined", ())
        return next((str(e.get("reason", "")) for e in undefined if e.get("metric") == metric), "")


def measured_by(run: Run, blocks: int) -> Measured:
    """Return the measures of a run, checked.

    Raises:
        InputError: it holds measures of several sets of texts.
    """
    table = run.table
    sets = table.loc[(table["level"] != TASK), "data"].dropna().unique()
    if len(sets) > 1:
        raise InputError(
            f"expected a scan of one set of texts to prune by, the run holds {len(sets)}: "
            f"{', '.join(map(str, sets))}."
        )
    return Measured(run, blocks)


Choose = Callable[[Measured, Sequence[int], int, int], Removal]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to choose the blocks to remove.

    Attributes:
        name: its name in tables and commands.
        title: what is removed first, in a few words.
        formula: the score of a block; the lowest is removed first.
        reads: names of measures in the catalogue; empty where nothing is measured.
        choose: (measures, eligible blocks, number of blocks, seed) -> removal.
        source: who proposed it.
        convention: of the measures, "" where they have none.
        own_reading: whether the rule is our interpretation, as the source could not be read.
        at_once: whether all blocks are chosen together, so that they cannot be removed one by one.
        spans: whether its scores are those of spans of as many blocks, by their first.
        heals: whether it reads what maps in place of blocks leave, see `Measured.left`.
    """

    name: str
    title: str
    formula: str
    reads: tuple[str, ...]
    choose: Choose
    source: str
    convention: str = ""
    own_reading: bool = False
    at_once: bool = False
    spans: bool = False
    heals: bool = False


def _no_score(name: str, lacking: Sequence[int], measured: Measured, metric: str) -> InputError:
    if found := _lacks(name, measured, metric):
        return found
    shown = ", ".join([*map(str, lacking[:5]), *["..."] * (len(lacking) > 5)])
    why = f": {reason.rstrip('.')}" if (reason := measured.reason(metric)) else ""
    return InputError(
        f"the rule {name!r} has no score for block {shown}{why}; choose another rule, another "
        "--pooling or more texts."
    )


def _lacks(name: str, measured: Measured, metric: str) -> InputError | None:
    """Return the error for a run without the measure of a rule, None if it has or explains it."""
    if (measured.run.table["metric"] == metric).any() or measured.reason(metric):
        return None
    return InputError(
        f"the rule {name!r} reads {metric}, which the run lacks; scan again without --metrics, or "
        f"with --metrics {metric}."
    )


def refuse_lacking(rule: Rule, run: Run) -> None:
    """Refuse a run that a rule cannot read; called before a model is loaded.

    Raises:
        InputError: it lacks the rule's measures, or holds those of several sets of texts.
    """
    if rule.reads and (found := _lacks(rule.name, measured_by(run, 0), rule.reads[0])):
        raise found


def _by_score(
    name: str, title: str, formula: str, metric: str, score: Callable[[Measured], Scores],
    source: str, convention: str = "",
) -> Rule:  # fmt: skip
    """Return the rule of the lowest scores; of equal scores the deeper block is removed first."""

    def choose(measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
        scores = {block: value for block, value in score(measured).items() if block in eligible}
        lacking = [block for block in eligible if not math.isfinite(scores.get(block, math.nan))]
        if lacking:
            raise _no_score(name, lacking, measured, metric)
        order = sorted(eligible, key=lambda block: (scores[block], -block))
        return Removal(tuple(order[:count]), scores)

    reads = (catalogue.measure(metric).name,)
    return Rule(
        name=name, title=title, formula=formula, reads=reads, choose=choose, source=source,
        convention=convention, own_reading=source == _LRD,
    )  # fmt: skip


def _by_step(
    name: str, title: str, formula: str, metric: str,
    turn: Callable[[float], float] = lambda value: value, source: str = _LRD,
) -> Rule:  # fmt: skip
    """Return the rule by a measure of the step that each block makes."""

    def score(measured: Measured) -> Scores:
        return {b: turn(value) for b, value in measured.path(metric).items()}

    return _by_score(name, title, formula, metric, score, source)


def _by_gfmi(name: str, title: str, formula: str, reading: Callable[[float, float], float]) -> Rule:
    """Return the rule by g before and after each block, g the GFMI of a layer with the final one."""

    def score(measured: Measured) -> Scores:
        found = measured.path("gfmi_edge")
        g = {measured.blocks: 1.0} | dict(found) if found else {}  # of the final layer with itself
        return {b: reading(g[b - 1], after) for b, after in g.items() if b - 1 in g}

    return _by_score(name, title, formula, "gfmi_edge", score, _LRD)


def _contiguous(measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
    """Choose the span of blocks across which the vectors turn least."""
    table = measured.run.table
    rows = table[table["metric"] == "angular_matrix"]
    places = zip(rows["layer"].astype(int), rows["other_layer"].astype(int), strict=True)
    angles = dict(zip(places, rows["value"].astype(float), strict=True))
    spans = {
        first: angles.get((first - 1, first - 1 + count), math.nan)
        for first in eligible
        if set(range(first, first + count)) <= set(eligible)
    }
    lacking = [first for first, value in spans.items() if not math.isfinite(value)]
    if lacking:
        raise _no_score("angular-contiguous", lacking, measured, "angular_matrix")
    first = min(spans, key=lambda block: (spans[block], -block))
    return Removal(tuple(range(first, first + count)), spans)


def _least_left(measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
    scores = {first: error for (first, length), error in measured.left.items() if length == 1}
    return Removal(least_error(measured.left, measured.blocks, eligible, count), scores)


def _deepest(_measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
    return Removal(tuple(sorted(eligible, reverse=True)[:count]), {})


def _random(_measured: Measured, eligible: Sequence[int], count: int, seed: int) -> Removal:
    order = np.random.default_rng(seed).permutation(np.asarray(eligible)).tolist()
    return Removal(tuple(order[:count]), {})


RULES: Final[tuple[Rule, ...]] = (
    _by_step("frenet", "least motion of the subspace", "Frenet speed of the step b - 1 to b",
             "frenet_speed_k32"),
    _by_step("nrs", "most neighbors kept", "1 - NRS(b - 1, b)", "nrs_k10", lambda v: 1 - v),
    _by_gfmi("gfmi-gain", "least change of alignment with the final layer", "|g_b - g_b-1|",
             lambda before, after: abs(after - before)),
    _by_gfmi("gfmi-signed-gain", "what moves away from the final layer", "g_b - g_b-1",
             lambda before, after: after - before),
    _by_gfmi("gfmi-level-low", "what is least aligned with the final layer", "g_b",
             lambda _before, after: after),
    _by_gfmi("gfmi-level-high", "what is most aligned with the final layer", "-g_b",
             lambda _before, after: -after),
    _by_step("block-influence", "least turn of each token",
             "1 - mean cos of a token before and after block b", "block_influence",
             source="Men et al. 2024, ShortGPT"),
    Rule(name="angular-contiguous", title="the span of n blocks that turns vectors least",
         formula="mean angle of a text's vector before and after the span",
         reads=("angular_matrix",), choose=_contiguous, at_once=True, spans=True,
         source="Gromov et al. 2024, on pooled vectors rather than the last token"),
    _by_step("angular", "least turn of each text's vector",
             "mean angle of a text's vector before and after block b", "angular_distance",
             source="Gromov et al. 2024 for one block, on pooled vectors"),
    _by_step("cka", "most similar by CKA", "-unbiased CKA(b - 1, b)", "cka_unbiased",
             lambda v: -v, "Kornblith et al. 2019"),
    Rule(name="healing", title="what maps in their place leave least of",
         formula="squared error that a map in place of a run of blocks leaves, summed over runs",
         reads=(), choose=_least_left, at_once=True, heals=True,
         source="ours; the map in place of blocks is ReplaceMe's (arXiv 2505.02819)"),
    Rule(name="deepest-first", title="the deepest before the protected ones", formula="-b",
         reads=(), choose=_deepest, source="Gromov et al. 2024, their simple rule"),
    Rule(name="random", title="drawn by the seed", formula="none", reads=(), choose=_random,
         source="baseline"),
)  # fmt: skip
ALIASES: Final[Mapping[str, str]] = {"gfmi": "gfmi-gain"}
_CHANGING: Final = tuple(m for m in catalogue.CATALOGUE if m.place in ("", "layer", "final"))


def rule(name: str) -> Rule:
    """Return the rule of that name: one of `RULES`, or the change of a measure across a block.

    A measure of single layers gives the rule |m_b - m_b-1|, in the convention after a colon
    ("dataset_entropy:paper"), by default normalized where it has conventions.

    Raises:
        InputError: the name is unknown, or the measure has no value at single layers.
    """
    if found := [known for known in RULES if known.name == ALIASES.get(name, name)]:
        return found[0]
    metric, _, convention = name.partition(":")
    try:
        measure = catalogue.measure(metric)
    except InputError:
        names = [*(known.name for known in RULES), *ALIASES, *(m.name for m in _CHANGING)]
        raise unknown_name("rule", name, names) from None
    return _change(metric, measure, convention)


def _change(metric: str, measure: Measure, convention: str) -> Rule:
    """Return the rule that drops the blocks across which a measure changes least."""
    if measure not in _CHANGING:
        raise InputError(
            f"{metric} has no value at single layers, so that no block changes it; rules that read "
            f"steps and pairs are {', '.join(known.name for known in RULES if known.reads)}."
        )
    conventions = [each.value for each in measure.conventions]
    if convention and convention not in conventions:
        raise unknown_name(f"convention of {metric}", convention, conventions or ["none"])
    if conventions and not convention:
        convention = "normalized" if "normalized" in conventions else conventions[0]

    def score(measured: Measured) -> Scores:
        several = measure.level == "pair"
        values = measured.path(metric) if several else measured.layers(metric, convention)
        return {b: abs(v - values[b - 1]) for b, v in values.items() if b - 1 in values}

    name = f"{metric}:{convention}" if convention else metric
    title = f"least change of {metric}"
    return _by_score(name, title, "|m_b - m_b-1|", metric, score, "ours", convention)


# --- how many, and which may be removed ------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """The number of blocks to remove.

    Attributes:
        asked: the budgets as the user wrote them; several where they mean the same number.
        count: n, the number of blocks to remove.
        blocks: L, the number of blocks of the model.
    """

    asked: tuple[str, ...]
    count: int
    blocks: int

    def __str__(self) -> str:
        """Return n/L."""
        return f"{self.count}/{self.blocks}"


def budgets(asked: Iterable[float | str], blocks: int, *, share: float = 1) -> tuple[Budget, ...]:
    """Return the numbers of blocks of some budgets, equal ones merged, in their order.

    A part of the blocks is rounded to the nearest whole number and at least 1: max(1, floor(b L + 1/2)).
    Where only a share of each block may go (its attention), a part is of the blocks' weights.

    >>> [(budget.asked, str(budget)) for budget in budgets([0.05, "10 %", 2], 12)]
    [(('0.05', '10 %'), '1/12'), (('2',), '2/12')]

    Raises:
        InputError: not a budget.
    """
    merged: dict[int, list[str]] = {}
    for each in asked:
        part = parsed_budget(each)
        whole = Decimal(blocks) if share == 1 else Decimal(blocks / share)
        count = part if isinstance(part, int) else max(1, int(part * whole + Decimal("0.5")))
        merged.setdefault(count, []).append(str(each).strip())
    return tuple(Budget(tuple(names), count, blocks) for count, names in merged.items())


def parsed_budget(asked: float | str) -> Decimal | int:
    """Return a budget as a fraction of the blocks below 1, or as a number of blocks.

    >>> parsed_budget("15%"), parsed_budget(0.05), parsed_budget("3")
    (Decimal('0.15'), Decimal('0.05'), 3)

    Raises:
        InputError: neither.
    """
    text = str(asked).strip()
    percent = text.endswith("%")
    try:
        number = Decimal(text.rstrip("% ")) / (100 if percent else 1)
    except InvalidOperation:
        number = Decimal("nan")
    if number.is_finite() and 0 < number < 1:
        return number
    if number.is_finite() and number >= 1 and number % 1 == 0 and not percent:
        return int(number)
    raise InputError(
        "expected a budget as a part of the blocks above 0 and below 1 (0.15 or 15%), or as a number of "
        f"blocks, 1 or more; got {text!r}."
    )


ENDS: Final = (1, 1)  # blocks at the start and at the end that stay unless one asks otherwise


def eligible_blocks(blocks: int, protect: tuple[int, int] = ENDS) -> tuple[int, ...]:
    """Return the blocks that may be removed: all but the protected ones at the start and the end.

    Raises:
        InputError: all blocks are protected.
    """
    first, last = protect
    found = tuple(range(1 + first, blocks - last + 1))
    if not found:
        raise InputError(
            f"protecting {first} blocks at the start and {last} at the end leaves none of the "
            f"model's {blocks} to remove; lower --protect."
        )
    return found


def refuse_too_many(budget: Budget, eligible: Sequence[int]) -> None:
    """Raise an InputError if a budget removes more blocks than are eligible."""
    if budget.count > len(eligible):
        raise InputError(
            f"a budget of {', '.join(budget.asked)} removes {budget.count} of {budget.blocks} blocks, "
            f"but only {len(eligible)} may go; lower --budget, or protect fewer (--protect 0,0: none)."
        )


def one_by_one(
    rule: Rule,
    rescored: Callable[[tuple[int, ...]], Measured],
    eligible: Sequence[int],
    count: int,
    seed: int,
) -> Removal:
    """Choose blocks greedily: the remaining model is measured again after each removal.

    Args:
        rule: how to choose one block; not a rule that chooses all at once.
        rescored: removed blocks -> measures of the model without them, its blocks renumbered.
        eligible: the blocks that may be removed.
        count: the number to remove.
        seed: for random rules.

    Returns:
        The removal, each block with its score at the time of its removal.
    """
    removed: dict[int, float] = {}
    for step in range(count):
        measured = rescored(tuple(removed))
        kept = [b for b in range(1, measured.blocks + len(removed) + 1) if b not in removed]
        left = [place for place, block in enumerate(kept, start=1) if block in eligible]
        choice = rule.choose(measured, left, 1, seed + step)
        place = choice.blocks[0]
        removed[kept[place - 1]] = choice.scores.get(place, math.nan)
    scores = {block: score for block, score in removed.items() if not math.isnan(score)}
    return Removal(tuple(removed), scores)
