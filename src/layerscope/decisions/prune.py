"""Rules that say which blocks to drop first, and the Random baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd

from layerscope.decisions import evidence
from layerscope.errors import InputError, unknown_name
from layerscope.metrics import catalogue
from layerscope.metrics.measure import Measure
from layerscope.results.table import TASK, Run
from layerscope.settings import DRAWS

FINAL: Final = 1.0  # GFMI of the final layer with itself
_LRD: Final = "measure named in Jiang, Yang, Tam 2026; the rule is ours"
Scores = Mapping[int, float]


@dataclass(frozen=True)
class Removal:
    """Which blocks a rule drops.

    Attributes:
        blocks: in the order in which they go.
        scores: block -> what it was chosen by, lowest first; of a contiguous rule, the first block of
            a span -> the span's. Empty where a rule measures nothing.
    """

    blocks: tuple[int, ...]
    scores: Scores


@dataclass(frozen=True)
class Measured:
    """What rules read of a model: the rows of a run.

    Attributes:
        run: a scan of the model.
        blocks: L.
    """

    run: Run
    blocks: int

    def layers(self, metric: str, convention: str = "") -> Scores:
        """Return layer -> value of a measure of single layers."""
        return _by_layer(evidence.of_measure(self.run.table, metric, convention))

    def path(self, metric: str) -> Scores:
        """Return layer -> value of a measure of several layers: steps by the block that makes them."""
        return _by_layer(evidence.of_path(self.run.table, metric))

    def pairs(self, metric: str) -> dict[tuple[int, int], float]:
        """Return (lower layer, higher layer) -> value of a measure of every two layers."""
        table = self.run.table
        rows = table[table["metric"] == metric]
        places = zip(rows["layer"].astype(int), rows["other_layer"].astype(int), strict=True)
        return dict(zip(places, rows["value"].astype(float), strict=True))

    def reason(self, metrics: Sequence[str]) -> str:
        """Return why a measure has no value somewhere, as the record says it."""
        for entry in self.run.record.get("undefined", ()):
            if entry.get("metric") in metrics:
                return str(entry.get("reason", ""))
        return ""


def _by_layer(rows: pd.DataFrame) -> Scores:
    return dict(zip(rows.index.astype(int), rows["value"].astype(float), strict=True))


def measured_by(run: Run, blocks: int) -> Measured:
    """Return a run as rules read it.

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
    """One way to choose the blocks that go.

    Attributes:
        name: its name in tables and commands.
        title: what goes first, in a few words.
        formula: the block's score, of which the lowest goes first.
        reads: names of measures in the catalogue; none where nothing is measured.
        choose: of the measures, the eligible blocks, their number and a seed, to the removal.
        source: who proposed it.
        convention: in which it reads them, "" where they have none.
        own_reading: whether the source could not be read, so that the rule is our reading of it.
        at_once: whether the blocks are only chosen together, so that they cannot go one by one.
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


def _lowest(reads: tuple[str, ...], score: Callable[[Measured], Scores], name: str) -> Choose:
    """Return the choice of the lowest scores; of equal ones the deeper block goes first."""

    def choose(measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
        scores = {block: value for block, value in score(measured).items() if block in eligible}
        lacking = [block for block in eligible if not math.isfinite(scores.get(block, math.nan))]
        if lacking:
            raise _no_score(name, lacking, measured, reads)
        order = sorted(eligible, key=lambda block: (scores[block], -block))
        return Removal(tuple(order[:count]), scores)

    return choose


def _no_score(
    name: str, lacking: Sequence[int], measured: Measured, reads: tuple[str, ...]
) -> InputError:
    if found := _lacks(name, measured, reads):
        return found
    why = measured.reason(reads)
    shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
    return InputError(
        f"the rule {name!r} has no score for block {shown}"
        + (f": {why.rstrip('.')}" if why else "")
        + "; choose another rule, another --pooling or more texts."
    )


def _lacks(name: str, measured: Measured, reads: tuple[str, ...]) -> InputError | None:
    """Return what to say of a run without the measures of a rule, None if it has or explains them."""
    absent = [metric for metric in reads if not (measured.run.table["metric"] == metric).any()]
    if not absent or measured.reason(absent):
        return None
    return InputError(
        f"the rule {name!r} reads {', '.join(absent)}, which the run lacks; scan again without "
        f"--metrics, or with --metrics {','.join(reads)}."
    )


def refuse_lacking(rule: Rule, run: Run) -> None:
    """Refuse, before a model is loaded, a run that a rule cannot read.

    Raises:
        InputError: it lacks the rule's measures, or holds those of several sets of texts.
    """
    if rule.reads and (found := _lacks(rule.name, measured_by(run, 0), rule.reads)):
        raise found


def _steps(metric: str, turn: Callable[[float], float]) -> Callable[[Measured], Scores]:
    return lambda measured: {b: turn(value) for b, value in measured.path(metric).items()}


def _gfmi(reading: Callable[[float, float], float]) -> Callable[[Measured], Scores]:
    """Return the scores by g before and after each block, g the GFMI of a layer to the final one."""

    def score(measured: Measured) -> Scores:
        found = measured.path("gfmi_edge")
        if not found:
            return {}
        g = {measured.blocks: FINAL} | dict(found)
        return {
            b: reading(g[b - 1], g[b])
            for b in range(1, measured.blocks + 1)
            if {b - 1, b} <= g.keys()
        }

    return score


def _scored(
    name: str,
    title: str,
    formula: str,
    reads: str,
    score: Callable[[Measured], Scores],
    source: str,
) -> Rule:
    choose = _lowest((reads,), score, name)
    return Rule(
        name=name, title=title, formula=formula, reads=(reads,), choose=choose, source=source
    )


def _of_lrd(
    name: str, title: str, formula: str, reads: str, score: Callable[[Measured], Scores]
) -> Rule:
    """Return our reading of a rule by a measure that Jiang, Yang, Tam 2026 name."""
    return replace(_scored(name, title, formula, reads, score, _LRD), own_reading=True)


def _contiguous(measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
    """Choose the span of blocks between the two layers whose vectors point most alike."""
    pairs = measured.pairs("angular_matrix")
    spans = {
        first: pairs.get((first - 1, first - 1 + count), math.nan)
        for first in eligible
        if set(range(first, first + count)) <= set(eligible)
    }
    lacking = [first for first, value in spans.items() if not math.isfinite(value)]
    if lacking:
        raise _no_score("angular-contiguous", lacking, measured, ("angular_matrix",))
    first = min(spans, key=lambda block: (spans[block], -block))
    return Removal(tuple(range(first, first + count)), spans)


def _deepest(_measured: Measured, eligible: Sequence[int], count: int, _seed: int) -> Removal:
    return Removal(tuple(sorted(eligible, reverse=True)[:count]), {})


def _random(_measured: Measured, eligible: Sequence[int], count: int, seed: int) -> Removal:
    order = np.random.default_rng(seed).permutation(np.asarray(eligible))
    return Removal(tuple(int(block) for block in order[:count]), {})


RULES: Final[tuple[Rule, ...]] = (
    _of_lrd("frenet", "least motion of the subspace", "Frenet speed of the step b - 1 to b",
            "frenet_speed_k32", _steps("frenet_speed_k32", lambda v: v)),
    _of_lrd("nrs", "most neighbors kept", "1 - NRS(b - 1, b)",
            "nrs_k10", _steps("nrs_k10", lambda v: 1 - v)),
    _of_lrd("gfmi-gain", "least change of alignment with the final layer", "|g_b - g_b-1|",
            "gfmi_edge", _gfmi(lambda before, after: abs(after - before))),
    _of_lrd("gfmi-signed-gain", "what moves away from the final layer", "g_b - g_b-1",
            "gfmi_edge", _gfmi(lambda before, after: after - before)),
    _of_lrd("gfmi-level-low", "what is least aligned with the final layer", "g_b",
            "gfmi_edge", _gfmi(lambda _before, after: after)),
    _of_lrd("gfmi-level-high", "what is most aligned with the final layer", "-g_b",
            "gfmi_edge", _gfmi(lambda _before, after: -after)),
    _scored("block-influence", "least turn of each token",
            "1 - mean cos of a token before and after block b",
            "block_influence", _steps("block_influence", lambda v: v), "Men et al. 2024, ShortGPT"),
    Rule(name="angular-contiguous", title="the span of n blocks that turns vectors least",
         formula="mean angle of a text's vector before and after the span",
         reads=("angular_matrix",), choose=_contiguous, at_once=True,
         source="Gromov et al. 2024, on pooled vectors rather than the last token"),
    _scored("angular", "least turn of each text's vector",
            "mean angle of a text's vector before and after block b",
            "angular_distance", _steps("angular_distance", lambda v: v),
            "Gromov et al. 2024 for one block, on pooled vectors"),
    _scored("cka", "most similar by CKA", "-unbiased CKA(b - 1, b)",
            "cka_unbiased", _steps("cka_unbiased", lambda v: -v), "Kornblith et al. 2019"),
    Rule(name="deepest-first", title="the deepest before the protected ones", formula="-b",
         reads=(), choose=_deepest, source="Gromov et al. 2024, their simple rule"),
    Rule(name="random", title="drawn by the seed", formula="none", reads=(), choose=_random,
         source="baseline"),
)  # fmt: skip
ALIASES: Final[Mapping[str, str]] = {"gfmi": "gfmi-gain"}


def rule(name: str) -> Rule:
    """Return the rule of that name: one of `RULES`, or a measure, whose change across a block counts.

    A measure of single layers gives the rule |m_b - m_b-1|, in the convention after a colon
    ("dataset_entropy:paper"), by default normalized where it has conventions.

    Raises:
        InputError: nobody knows the name, or the measure has no value at a layer.
    """
    for known in RULES:
        if known.name == ALIASES.get(name, name):
            return known
    metric, _, convention = name.partition(":")
    try:
        measure = catalogue.measure(metric)
    except InputError:
        names = [*(known.name for known in RULES), *ALIASES, *(m.name for m in _changing())]
        raise unknown_name("rule", name, names) from None
    return _change(metric, measure, convention)


def _changing() -> list[Measure]:
    return [measure for measure in catalogue.CATALOGUE if measure.place in ("", "layer", "final")]


def _change(metric: str, measure: Measure, convention: str) -> Rule:
    """Return the rule that drops the blocks across which a measure changes least."""
    if measure not in _changing():
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
    return Rule(
        name=name,
        title=f"least change of {metric}",
        formula="|m_b - m_b-1|",
        reads=(measure.name,),
        choose=_lowest((metric,), score, name),
        source="ours",
        convention=convention,
    )


# --- how many, and which may go --------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How many blocks go.

    Attributes:
        asked: the budgets as they were asked for; several where they mean the same number.
        count: n.
        blocks: L.
    """

    asked: tuple[str, ...]
    count: int
    blocks: int

    def __str__(self) -> str:
        """Return n/L."""
        return f"{self.count}/{self.blocks}"


def budgets(asked: Iterable[float | str], blocks: int) -> tuple[Budget, ...]:
    """Return the numbers of blocks that some budgets mean, equal ones merged, in their order.

    A part of the blocks is rounded to the nearest whole number and at least 1: max(1, floor(b L + 1/2)).

    >>> [(budget.asked, str(budget)) for budget in budgets([0.05, "10 %", 2], 12)]
    [(('0.05', '10 %'), '1/12'), (('2',), '2/12')]

    Raises:
        InputError: not a budget.
    """
    merged: dict[int, list[str]] = {}
    for each in asked:
        part = parsed_budget(each)
        whole = isinstance(part, int)
        count = part if whole else max(1, int(part * blocks + Decimal("0.5")))
        merged.setdefault(int(count), []).append(str(each).strip())
    return tuple(Budget(tuple(names), count, blocks) for count, names in merged.items())


def parsed_budget(asked: float | str) -> Decimal | int:
    """Return a part of the blocks below 1, or a number of blocks.

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


def eligible_blocks(blocks: int, protect: tuple[int, int] = (1, 1)) -> tuple[int, ...]:
    """Return the blocks that may go: all but so many at the start and at the end.

    Raises:
        InputError: nothing is left.
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
    """Raise an InputError if a budget takes more blocks than may go."""
    if budget.count > len(eligible):
        raise InputError(
            f"a budget of {', '.join(budget.asked)} removes {budget.count} of {budget.blocks} blocks, "
            f"but only {len(eligible)} are not protected; lower --budget or --protect."
        )


def one_by_one(
    rule: Rule,
    rescored: Callable[[tuple[int, ...]], Measured],
    eligible: Sequence[int],
    count: int,
    seed: int,
) -> Removal:
    """Choose blocks greedily: after each removal the model that is left is measured again.

    Args:
        rule: how to choose one; not a rule that chooses all at once.
        rescored: removed blocks -> measures of the model without them, its blocks numbered anew.
        eligible: the blocks that may go.
        count: how many do.
        seed: for rules that draw.

    Returns:
        The removal, each block with the score it had when it went.
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


@dataclass(frozen=True)
class Subsets:
    """Subsets of the blocks that may go, all of one size.

    Attributes:
        subsets: each in ascending order.
        total: how many there are of this size.
    """

    subsets: tuple[tuple[int, ...], ...]
    total: int

    @property
    def exhaustive(self) -> bool:
        """Whether these are all."""
        return len(self.subsets) == self.total


def random_subsets(
    eligible: Sequence[int], count: int, draws: int = DRAWS, seed: int = 0
) -> Subsets:
    """Return `draws` different subsets, uniformly, or all of them where there are no more.

    >>> random_subsets([2, 3, 4], 2).subsets
    ((2, 3), (2, 4), (3, 4))
    """
    ordered = sorted(eligible)
    total = math.comb(len(ordered), count)
    if total <= draws:
        return Subsets(tuple(combinations(ordered, count)), total)
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        picks = generator.choice(ordered, size=count, replace=False)
        found[tuple(sorted(int(pick) for pick in picks))] = None
    return Subsets(tuple(found), total)
