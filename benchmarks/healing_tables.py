"""What healing gives back: dropped and healed models beside random subsets, tasks and perplexity.

The tables of what `benchmarks.healing` has tried. Run: `python -m benchmarks heal`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.healing import KEEPING, RULES, TASKS, WIKITEXT, builders, counts_of, file_of, folder
from benchmarks.subsets import BLOCKS
from benchmarks.tables import markdown
from layerscope.decisions.prune import eligible_blocks
from layerscope.decisions.subsets import random_subsets
from layerscope.export.patches import runs_of
from layerscope.export.trial import PERPLEXITY, Trial
from layerscope.results.resampling import Against, against

STATES = ("dropped", "healed")
POINTS = "points"  # mean change of the tasks, score x 100


def read(name: str, removed: Sequence[int], on: str = WIKITEXT) -> dict[str, Any] | None:
    """What was found of one subset: trials "full", or "dropped" and "healed"; None if untried."""
    path = file_of(name, removed, on)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    for each in ("full", "dropped", "healed"):
        if each in found:
            found[each] = Trial(**found[each] | {"removed": tuple(found[each]["removed"])})
    return found


@dataclass(frozen=True)
class Cell:
    """Random subsets of one size of one model, and what rules chose beside them.

    Attributes:
        full: the full model.
        count: how many blocks are gone.
        chosen: rule -> blocks, of those that were tried.
        found: blocks -> what came of them.
        random: the random subsets; none if one of them was not tried, as a part is no baseline.
        exhaustive: whether those are all subsets.
    """

    full: Trial
    count: int
    chosen: dict[str, tuple[int, ...]]
    found: dict[tuple[int, ...], dict[str, Any]]
    random: tuple[tuple[int, ...], ...]
    exhaustive: bool

    def value(self, removed: tuple[int, ...], state: str, test: str) -> float:
        """The perplexity, or the mean change of the tasks in points (score x 100)."""
        trial: Trial = self.found[removed][state]
        if test == PERPLEXITY:
            return math.inf if trial.perplexity is None else trial.perplexity
        return 100 * fmean(trial.scores[task] - score for task, score in self.full.scores.items())

    def drawn(self, state: str, test: str) -> list[float]:
        """The same of each random subset."""
        return [self.value(removed, state, test) for removed in self.random]

    def beside(self, name: str, state: str, test: str) -> Against:
        """What a rule chose beside the random subsets, both dropped or both healed."""
        own, others = self.value(self.chosen[name], state, test), self.drawn(state, test)
        return against(own, others, exhaustive=self.exhaustive, lower=test == PERPLEXITY)


def cells(name: str) -> list[Cell]:
    """What was tried of a model, by the number of blocks."""
    file, full = folder(name) / "chosen.json", read(name, ())
    if not file.exists() or full is None:
        return []
    known, eligible = json.loads(file.read_text()), eligible_blocks(BLOCKS[name])
    result = []
    for count in sorted(counts_of(name)):
        chosen = {
            each: tuple(known[each][str(count)])
            for each in (*RULES, KEEPING)
            if str(count) in known.get(each, {})
        }
        if chosen.get(KEEPING) == chosen.get(RULES[0]):
            chosen.pop(KEEPING, None)
        drawn = random_subsets(eligible, count)
        tried = {each: read(name, each) for each in (*chosen.values(), *drawn.subsets)}
        found = {removed: facts for removed, facts in tried.items() if facts is not None}
        random = drawn.subsets if found.keys() >= set(drawn.subsets) else ()
        chosen = {each: removed for each, removed in chosen.items() if removed in found}
        result.append(Cell(full["full"], count, chosen, found, random, drawn.exhaustive))
    return result


def model_table(known: Sequence[Cell]) -> str:
    """One model: each rule at each number of blocks, dropped and healed, and random subsets."""
    rows = []
    for cell in known:
        rows += [_row(cell, each) for each in cell.chosen]
        rows += [_random_row(cell)] if cell.random else []
    return markdown(rows)


def _row(cell: Cell, name: str) -> dict[str, Any]:
    removed = cell.chosen[name]
    row: dict[str, Any] = {"blocks": cell.count, "rule": name, "which": _spans(removed)}
    healing = cell.found[removed]["healing"]
    distances = [each for each in healing["judgments"] if each["by"] == "distance of vectors"]
    row["distance"] = ", ".join(f"{each[state]:.3f}" for each in distances for state in STATES)
    for test in _tests(cell):
        for state in STATES:
            p = f" (p {cell.beside(name, state, test).p:.2f})" if cell.random else ""
            row[f"{test} {state}"] = _number(cell.value(removed, state, test), test) + p
    row["kept"] = "yes" if healing["kept"] else "no"
    return row


def _random_row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"blocks": cell.count}
    row["rule"] = f"Random, median of {'all ' * cell.exhaustive}{len(cell.random)}"
    row |= _medians(cell, cell.random)
    better = [
        sum(
            _better(cell.value(each, "healed", test), cell.value(each, "dropped", test), test)
            for each in cell.random
        )
        for test in _tests(cell)
    ]
    row["kept"] = "healed better by " + ", ".join(
        f"{test} in {found}" for test, found in zip(_tests(cell), better, strict=True)
    )
    return row


def _tests(cell: Cell) -> tuple[str, ...]:
    return (POINTS, PERPLEXITY) if cell.full.perplexity else (POINTS,)


def _number(value: float, test: str) -> str:
    return f"{value:+.2f}" if test == POINTS else f"{value:.4g}"


def rules_table(tried: Sequence[Cell]) -> str:
    """The rules over all models and budgets whose random subsets were all tried."""
    known = [cell for cell in tried if cell.random]
    rows = []
    for each in RULES:
        with_rule = [cell for cell in known if each in cell.chosen]
        row: dict[str, Any] = {"rule": each, "cells": len(with_rule)}
        for test in (POINTS, PERPLEXITY):
            for state in STATES:
                found = [
                    cell.beside(each, state, test) for cell in with_rule if test in _tests(cell)
                ]
                if found:
                    better = sum(_better(one.value, one.median, test) for one in found)
                    row[f"{test} {state}: better than the median of Random"] = (
                        f"{better} of {len(found)}, mean p {fmean(one.p for one in found):.2f}"
                    )
        rows.append(row)
    return markdown(rows)


def sink_table(known: Sequence[Cell], block: int) -> str:
    """Random subsets that drop a block that builds an attention sink, beside those that keep it."""
    rows = []
    for cell in known:
        gone = [each for each in cell.random if block in each]
        kept = [each for each in cell.random if block not in each]
        for words, subsets in ((f"block {block} gone", gone), ("kept", kept)):
            if subsets:
                row = {"blocks": cell.count, "": words, "subsets": len(subsets)}
                rows.append(row | _medians(cell, subsets))
    return markdown(rows)


def _medians(cell: Cell, subsets: Sequence[tuple[int, ...]]) -> dict[str, str]:
    """The median of some subsets by each test, dropped and healed."""
    return {
        f"{test} {state}": _number(median(cell.value(each, state, test) for each in subsets), test)
        for test in _tests(cell)
        for state in STATES
    }


def texts_table() -> str:
    """What the default rule chooses on other texts, and what maps that are fitted on them give."""
    rows = []
    for name in BLOCKS:
        for count in sorted(counts_of(name)):
            known = [
                _of_texts(name, count, *texts)
                for texts in ((WIKITEXT, WIKITEXT), (WIKITEXT, TASKS), (TASKS, TASKS))
            ]
            rows += known if all(known) else []
    return markdown(rows) if rows else ""


def _of_texts(name: str, count: int, chosen_on: str, fitted_on: str) -> dict[str, Any]:
    """A row, empty if that was not tried."""
    file, full = folder(name, chosen_on) / "chosen.json", read(name, ())
    known = json.loads(file.read_text()) if file.exists() else {}
    removed = tuple(known.get(RULES[0], {}).get(str(count), ()))
    found = read(name, removed, fitted_on) if removed else None
    if found is None or full is None:
        return {}
    cell = Cell(full["full"], count, {RULES[0]: removed}, {removed: found}, (), False)
    row = _row(cell, RULES[0])
    labels = {"model": name, "chosen on": chosen_on, "fitted on": fitted_on}
    return labels | {column: row[column] for column in row if column not in ("rule", "kept")}


def _better(value: float, other: float, test: str) -> bool:
    return value < other if test == PERPLEXITY else value > other


def cost_table(name: str) -> str:
    """The size and the speed of the full model and of those without blocks, where they were measured."""
    known = json.loads((folder(name) / "chosen.json").read_text()).get(RULES[0], {})
    rows: list[dict[str, Any]] = []
    for count in sorted(counts_of(name)):
        found = read(name, known[str(count)]) if str(count) in known else None
        if found is None or "costs" not in found:
            continue
        full, pruned = found["costs"]
        faster = pruned["tokens_per_second"] / full["tokens_per_second"]
        rows.append(
            {
                "blocks gone": f"{count} of {BLOCKS[name]}",
                "parameters": f"{pruned['parameters'] / 1e6:.1f} M of {full['parameters'] / 1e6:.1f} M",
                "MB in memory": f"{pruned['bytes'] / 1e6:.0f} of {full['bytes'] / 1e6:.0f}",
                "speed": f"{faster:.2f} x",
            }
        )
    return markdown(rows) if rows else ""


def _spans(removed: Sequence[int]) -> str:
    """Blocks, runs of them as 3-5."""
    return ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs_of(removed)
    )


def main() -> str:
    """Return the tables of all that has been tried."""
    by_model = {name: cells(name) for name in BLOCKS}
    parts = [rules_table([cell for known in by_model.values() for cell in known])]
    for name, known in by_model.items():
        if known:
            full = known[0].full
            scores = ", ".join(f"{task} {100 * value:.2f}" for task, value in full.scores.items())
            said = f"; {PERPLEXITY} {full.perplexity:.2f}" if full.perplexity else ""
            parts += [f"### {name}, {BLOCKS[name]} blocks", f"Full model: {scores}{said}."]
            parts += [model_table(known), cost_table(name)]
            for block in builders(name) if any(cell.random for cell in known) else ():
                parts += [
                    f"Random subsets with and without block {block}, which builds an attention sink; "
                    "medians:",
                    sink_table(known, block),
                ]
    parts += ["### On other texts", texts_table()]
    return "\n\n".join(part for part in parts if part)
