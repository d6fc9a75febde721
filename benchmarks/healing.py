"""What healing gives back: dropped and healed models beside random subsets, tasks and perplexity.

Each model without some blocks is healed and tried once and kept as a file in `runs/heal/MODEL`, so that a
run that was stopped goes on. Maps are fitted on paragraphs of WikiText-2's training part and chosen on a
fifth of them; blocks are chosen on the same. Perplexity is of its validation part, tasks are those of
`benchmarks.pruning`. Run: `python -m benchmarks heal` for the tables of what was tried, or
`python -m benchmarks.healing --model "SmolLM2 135M" --rules healing` to fill the files of one model.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd
import torch

import layerscope
from benchmarks.materials import READOUT_MODELS
from benchmarks.subsets import (
    BLOCKS,
    DATA,
    DTYPES,
    ENCODERS,
    RUNS,
    Memo,
    tests_for,
)
from benchmarks.tables import markdown
from layerscope.data.files import write_json
from layerscope.data.tokens import tokenize
from layerscope.decisions.prune import Measured, budgets, eligible_blocks, measured_by, rule
from layerscope.decisions.subsets import random_subsets
from layerscope.export.heal import Judge, criteria, divided, heal
from layerscope.export.patches import HealingTexts, healed
from layerscope.export.runs import left_by_runs
from layerscope.export.trial import PERPLEXITY, Trial, TrialPlan, attempt, costs, tried
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.results.resampling import Against, against
from layerscope.results.table import Run, conform, load_run, no_contributions
from layerscope.settings import ModelOptions
from layerscope.states.extract import silent

KEPT = RUNS / "heal"
BUDGETS = (0.10, 0.20, 0.05, 0.15, 0.25)  # the ones that are asked about first
RULES = ("angular", "angular-contiguous", "healing", "gfmi-gain", "nrs", "frenet")
RANDOM = "random"
FITTED = 120  # paragraphs of WikiText-2's training part
SINGLE = 48  # of them are fitted on one by one
JUDGED = 1500  # held-out tokens that models are judged on
BRIEFLY = 500  # that the form of a random subset's maps is chosen on
STATES = ("dropped", "healed")
POINTS = "points"  # mean change of the tasks, score x 100
_BATCH = 4096


def texts() -> list[str]:
    """The paragraphs that blocks are chosen on."""
    found = pd.read_parquet(DATA / "WikiText-2" / "train_5k.parquet")["text"].tolist()
    return [text for text in found if len(text.split()) >= 20][:FITTED]


def mixed() -> list[str]:
    """What maps are fitted on: the same paragraphs, of which the later ones are joined by fours."""
    single, joined = texts()[:SINGLE], texts()[SINGLE:]
    return single + ["\n\n".join(joined[start : start + 4]) for start in range(0, len(joined), 4)]


# --- filling the files -------------------------------------------------------------------------


def folder(name: str) -> Path:
    """Where the trials of a model are kept."""
    return KEPT / name.replace(" ", "-")


def file_of(name: str, removed: Sequence[int]) -> Path:
    """Where the trials of one subset are kept."""
    return folder(name) / f"{'-'.join(map(str, removed)) or 'full'}.json"


def chosen(name: str, backbone: Backbone, which: str) -> dict[str, list[int]]:
    """Number of blocks -> those that a rule removes; kept for all rules in one file."""
    file = folder(name) / "chosen.json"
    known: dict[str, dict[str, list[int]]] = json.loads(file.read_text()) if file.exists() else {}
    if which not in known:
        eligible, counts = eligible_blocks(BLOCKS[name]), counts_of(name)
        measured = _measured(name, backbone, which)
        known[which] = {
            str(count): sorted(rule(which).choose(measured, eligible, count, 0).blocks)
            for count in counts
        }
        write_json(file, known)
    return known[which]


def _measured(name: str, backbone: Backbone, which: str) -> Measured:
    """What a rule reads."""
    depth = BLOCKS[name]
    if rule(which).heals:
        tokens, longest = tokenize(backbone.tokenizer, texts(), 512), max(counts_of(name))
        left = left_by_runs(backbone, eligible_blocks(depth), longest, tokens, _BATCH, silent)
        return Measured(
            Run(conform(pd.DataFrame({"metric": [], "value": []})), no_contributions(), {}),
            depth,
            left,
        )
    reads = tuple(dict.fromkeys(metric for each in RULES for metric in rule(each).reads))
    place = folder(name) / "scan"
    if not (place / "run.json").exists():
        source = READOUT_MODELS[name]()
        layerscope.scan(source, texts(), metrics=reads, views=0, out=place, dtype=DTYPES[name])
    return measured_by(load_run(place), depth)


def counts_of(name: str) -> list[int]:
    """How many blocks go."""
    return [each.count for each in budgets(BUDGETS, BLOCKS[name])]


def load(name: str) -> Backbone:
    """The model, with its head where it writes text."""
    path = READOUT_MODELS[name]()
    if path is None:
        raise SystemExit(f"{name} is not installed.")
    return loading.load(path, ModelOptions(dtype=DTYPES[name]), head=name not in ENCODERS)


def fill(name: str, rules: Sequence[str], counts: Sequence[int]) -> None:
    """Heal and try what the rules choose, and as many random subsets as asked for."""
    backbone = load(name)
    tests = tests_for(name, backbone)
    memo = Memo(backbone)
    with memo.entered():  # first, so that it is the full model that is remembered
        whole = tried(backbone, (), tests)
    if not file_of(name, ()).exists():
        write_json(file_of(name, ()), {"full": asdict(whole)})
    how = tests.settings.changed(batch_tokens=_BATCH)
    used = divided(tokenize(backbone.tokenizer, mixed(), 512), how)
    by = criteria(backbone, vectors=True, text=True)
    bench = Bench(name, memo, tests, used, Judge(backbone, used, by, JUDGED))
    brief = Judge(backbone, used, by[:1], BRIEFLY)
    eligible = eligible_blocks(BLOCKS[name])
    for count in counts or counts_of(name):
        for each in rules:
            if each == RANDOM:
                for removed in random_subsets(eligible, count).subsets:
                    replace(bench, judge=brief).keep(removed)
            else:
                removed = chosen(name, backbone, each)[str(count)]
                bench.keep(tuple(removed), costly=each == RULES[0])


@dataclass(frozen=True)
class Bench:
    """A model, the tests of its subsets, and the texts that they are healed on."""

    name: str
    memo: Memo
    tests: TrialPlan
    used: HealingTexts
    judge: Judge

    def keep(self, removed: tuple[int, ...], costly: bool = False) -> None:
        """Try one subset, dropped and healed, unless its file is there."""
        file = file_of(self.name, removed)
        if file.exists():
            return
        backbone = self.memo.backbone
        with self.memo.entered():
            healing = heal(backbone, removed, self.used, silent, judge=self.judge)
            dropped = attempt(backbone, removed, self.tests)
            with healed(backbone, removed, healing.patches) as shorter:
                better = tried(shorter, removed, self.tests)
        facts = {"dropped": asdict(dropped), "healed": asdict(better)}
        if costly:
            spent = costs(backbone, removed, self.used.held_out, _BATCH)
            facts["costs"] = [asdict(each) for each in spent]
        write_json(file, facts | {"healing": healing.as_dict()})
        print(self.name, removed, healing.sentence(), dropped, better, sep="\n  ", flush=True)


# --- the tables ---------------------------------------------------------------------------------


def read(name: str, removed: Sequence[int]) -> dict[str, Any] | None:
    """What was found of one subset: trials "full", or "dropped" and "healed"; None if untried."""
    path = file_of(name, removed)
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
            for each in RULES
            if str(count) in known.get(each, {})
        }
        drawn = random_subsets(eligible, count)
        tried = {each: read(name, each) for each in (*chosen.values(), *drawn.subsets)}
        found = {removed: facts for removed, facts in tried.items() if facts is not None}
        random = drawn.subsets if found.keys() >= set(drawn.subsets) else ()
        chosen = {each: removed for each, removed in chosen.items() if removed in found}
        result.append(Cell(full["full"], count, chosen, found, random, drawn.exhaustive))
    return result


def model_table(name: str) -> str:
    """One model: each rule at each number of blocks, dropped and healed, and random subsets."""
    rows = []
    for cell in cells(name):
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
            row[f"{test} {state}"] = _number(cell.value(removed, state, test), test)
            if cell.random:
                row[f"p {test} {state}"] = f"{cell.beside(name, state, test).p:.2f}"
    row["kept"] = "yes" if healing["kept"] else "no"
    return row


def _random_row(cell: Cell) -> dict[str, Any]:
    row: dict[str, Any] = {"blocks": cell.count}
    row["rule"] = f"Random, median of {'all ' * cell.exhaustive}{len(cell.random)}"
    for test in _tests(cell):
        for state in STATES:
            row[f"{test} {state}"] = _number(median(cell.drawn(state, test)), test)
    better = sum(
        cell.value(each, "healed", POINTS) > cell.value(each, "dropped", POINTS)
        for each in cell.random
    )
    row["kept"] = f"tasks better healed: {better}"
    return row


def _tests(cell: Cell) -> tuple[str, ...]:
    return (POINTS, PERPLEXITY) if cell.full.perplexity else (POINTS,)


def _number(value: float, test: str) -> str:
    return f"{value:+.2f}" if test == POINTS else f"{value:.4g}"


def rules_table() -> str:
    """The rules over all models and budgets whose random subsets were all tried."""
    known = [cell for name in BLOCKS for cell in cells(name) if cell.random]
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
    runs: list[list[int]] = []
    for block in removed:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def main() -> str:
    """Return the tables of all that has been tried."""
    parts = [rules_table()]
    for name in BLOCKS:
        if known := cells(name):
            full = known[0].full
            scores = ", ".join(f"{task} {100 * value:.2f}" for task, value in full.scores.items())
            said = f"; {PERPLEXITY} {full.perplexity:.2f}" if full.perplexity else ""
            parts += [f"### {name}, {BLOCKS[name]} blocks", f"Full model: {scores}{said}."]
            parts += [model_table(name), cost_table(name)]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(BLOCKS), help="else the tables of what was tried")
    parser.add_argument("--rules", nargs="*", default=RULES, choices=(*RULES, RANDOM))
    parser.add_argument("--counts", nargs="*", type=int, default=(), help="else all budgets")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.model is None:
        print(main())
    else:
        fill(given.model, given.rules, given.counts)
