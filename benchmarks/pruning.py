"""Which rule drops the right blocks? Every rule and random subsets, on real models and tasks.

Each subset of blocks is tried once, whichever rules choose it, and kept as a file in `runs/prune/MODEL`:
a run that was stopped goes on. States before the first missing block are those of the full model, and
are computed once. Run: `python -m benchmarks prune`, or `python -m benchmarks.pruning
--model "Gemma 3 270M"` to fill the files of one model, which takes half an hour on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

import layerscope
from benchmarks.materials import MODELS
from benchmarks.subsets import (
    BLOCKS,
    DATA,
    DTYPES,
    MEAN,
    PARTS,
    RUNS,
    TRIALS,
    Memo,
    changes,
    tests_for,
)
from benchmarks.tables import markdown
from layerscope.data.files import write_json
from layerscope.decisions.prune import (
    RULES,
    Budget,
    Rule,
    budgets,
    eligible_blocks,
    measured_by,
    rule,
)
from layerscope.decisions.subsets import Subsets, random_subsets
from layerscope.export.trial import PERPLEXITY, Trial, attempt, tried
from layerscope.models import loading
from layerscope.results.resampling import Against, against
from layerscope.results.table import load_run
from layerscope.settings import ModelOptions

SCANS = RUNS / "rules"
BUDGETS = (0.15, 0.20, 0.10, 0.05)  # the ones that are asked about first
PARAGRAPHS = 300
COMPARED: tuple[Rule, ...] = (
    *(known for known in RULES if known.name != "random"),
    *map(rule, ("prompt_entropy", "dataset_entropy", "curvature")),
)
READINGS = tuple(known.name for known in COMPARED if known.name.startswith("gfmi"))


# --- what is tried -----------------------------------------------------------------------------


def removals(name: str) -> tuple[tuple[Budget, dict[str, tuple[int, ...]], Subsets], ...]:
    """For each number of blocks, what each rule removes and the random subsets beside it."""
    blocks = BLOCKS[name]
    run = load_run(SCANS / name.replace(" ", "-"))
    measured, eligible = measured_by(run, blocks), eligible_blocks(blocks)
    found = []
    for budget in budgets(BUDGETS, blocks):
        chosen = {
            each.name: tuple(sorted(each.choose(measured, eligible, budget.count, 0).blocks))
            for each in COMPARED
        }
        found.append((budget, chosen, random_subsets(eligible, budget.count)))
    return tuple(found)


# --- filling the files -------------------------------------------------------------------------


def file_of(name: str, removed: Sequence[int]) -> Path:
    """Where the trial of one subset is kept."""
    return TRIALS / name.replace(" ", "-") / f"{'-'.join(map(str, removed)) or 'full'}.json"


def read_trial(name: str, removed: Sequence[int]) -> Trial:
    """A trial from its file."""
    found = json.loads(file_of(name, removed).read_text())
    found["removed"] = tuple(found["removed"])
    found.pop("seconds", None)
    return Trial(**found)


def fill(name: str, most: int | None = None, check: bool = False) -> None:
    """Try every subset of a model that has no file yet."""
    wanted: dict[tuple[int, ...], None] = {(): None}
    for _, chosen, subsets in removals(name):
        wanted |= dict.fromkeys((*chosen.values(), *subsets.subsets))
    missing = [removed for removed in wanted if not file_of(name, removed).exists()][:most]
    if not missing:
        return
    path = MODELS[name]()
    if path is None:
        raise SystemExit(f"{name} is not installed.")
    backbone = loading.load(path, ModelOptions(dtype=DTYPES[name]), head=name != "MiniLM")
    tests = tests_for(name, backbone)
    memo = Memo(backbone)
    with memo.entered():
        _keep(name, tried(backbone, (), tests), 0.0)
    for number, removed in enumerate(missing):
        if not removed:
            continue
        started = time.perf_counter()
        with memo.entered():
            trial = attempt(backbone, removed, tests)
        if check:
            print(
                "shared states give the same:",
                attempt(backbone, removed, tests) == trial,
                flush=True,
            )
        seconds = time.perf_counter() - started
        _keep(name, trial, seconds)
        print(f"{number}/{len(missing)} {removed} {seconds:.0f} s {trial}", flush=True)


def _keep(name: str, trial: Trial, seconds: float) -> None:
    write_json(file_of(name, trial.removed), asdict(trial) | {"seconds": round(seconds, 1)})


def scan(name: str) -> None:
    """Scan a model on WikiText paragraphs unless that lies in `runs/rules`."""
    folder = SCANS / name.replace(" ", "-")
    path = MODELS[name]()
    if not (folder / "run.json").exists() and path is not None:
        texts = DATA / "WikiText-2" / "test.parquet"
        layerscope.scan(path, texts, limit=PARAGRAPHS, out=folder)


# --- the tables ---------------------------------------------------------------------------------

LUCK = 10_000  # times that as many drawn "rules" are compared as there are real ones


@dataclass(frozen=True)
class Result:
    """The changes of one model at one number of blocks, in percent of the full model.

    Attributes:
        model: its name.
        budget: how many blocks.
        full: the full model's trial.
        removed: rule -> blocks.
        rules: rule -> task -> change; "perplexity" is among them, where less is better.
        draws: the same of each random subset.
        exhaustive: whether those are all subsets.
    """

    model: str
    budget: Budget
    full: Trial
    removed: dict[str, tuple[int, ...]]
    rules: dict[str, dict[str, float]]
    draws: list[dict[str, float]]
    exhaustive: bool

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.full.scores)

    def beside(self, rule_name: str, test: str) -> Against:
        """A rule's change of one test beside those of the random subsets."""
        others = [draw[test] for draw in self.draws]
        lower = test == PERPLEXITY
        value = self.rules[rule_name][test]
        return against(value, others, exhaustive=self.exhaustive, lower=lower)


def results(name: str) -> list[Result]:
    """The results of a model at every number of blocks whose subsets have all been tried."""
    found = []
    for budget, chosen, subsets in removals(name):
        wanted = {(), *chosen.values(), *subsets.subsets}
        if not all(file_of(name, removed).exists() for removed in wanted):
            continue
        full = read_trial(name, ())
        found.append(
            Result(
                name,
                budget,
                full,
                chosen,
                {each: changes(full, read_trial(name, blocks)) for each, blocks in chosen.items()},
                [changes(full, read_trial(name, blocks)) for blocks in subsets.subsets],
                subsets.exhaustive,
            )
        )
    return sorted(found, key=lambda result: result.budget.count)


def model_table(result: Result) -> str:
    """One model at one number of blocks: each rule, and the random subsets."""
    tests = [*result.tasks, MEAN, *([PERPLEXITY] if result.full.perplexity else [])]
    rows = []
    order = sorted(result.rules, key=lambda each: -result.rules[each][MEAN])
    for name in order:
        row: dict[str, Any] = {"rule": name, "blocks": ", ".join(map(str, result.removed[name]))}
        for test in tests:
            found = result.beside(name, test)
            row[test] = f"{found.value:+.1f}" if abs(found.value) < 1e4 else f"{found.value:+.0e}"
            if test in (MEAN, PERPLEXITY):
                row[f"p {test}"] = f"{found.p:.2f}"
        rows.append(row)
    for label, pick in (("mean", lambda found: found.mean), ("median", lambda found: found.median)):
        row = {"rule": f"Random, {label}", "blocks": f"{len(result.draws)} subsets"}
        for test in tests:
            value = pick(result.beside(order[0], test))
            row[test] = f"{value:+.1f}" if abs(value) < 1e4 else f"{value:+.0e}"
        rows.append(row)
    return markdown(rows)


def summary_table(found: Sequence[Result], texts: bool = True) -> str:
    """Over models and tasks: the median change, how often a rule beats the mean of Random, its rank.

    With `texts`, how many times the perplexity grows as well, model by model.
    """
    rows = []
    for name in (each.name for each in COMPARED):
        units = [(result, task) for result in found for task in result.tasks]
        beside = [result.beside(name, task) for result, task in units]
        written = [result.beside(name, PERPLEXITY) for result in found if texts]
        rows.append(
            {
                "rule": name,
                "median change %": f"{median(each.value for each in beside):+.1f}",
                "beats Random": f"{sum(each.beats_random for each in beside)} of {len(beside)}",
                "tasks won": _won(found, name),
                "mean p": f"{fmean(each.p for each in beside):.2f}",
                "perplexity x": ", ".join(f"{1 + each.value / 100:.3g}" for each in written),
                "its p": ", ".join(f"{each.p:.2f}" for each in written),
            }
        )
    rows.sort(key=lambda row: -float(row["median change %"]))
    everything = [draw[task] for result in found for draw in result.draws for task in result.tasks]
    rows.append(
        {
            "rule": "Random, all draws",
            "median change %": f"{median(everything):+.1f}",
            "beats Random": f"{_typical(found):.0%} of them",
            "perplexity x": ", ".join(
                f"{1 + median(draw[PERPLEXITY] for draw in result.draws) / 100:.3g}"
                for result in found
                if texts
            ),
        }
    )
    drop = () if texts else ("perplexity x", "its p")
    shown = [{key: row[key] for key in row if key not in drop} for row in rows]
    return markdown(shown)


def _typical(found: Sequence[Result]) -> float:
    """The share of drawn subsets that beat the mean of Random, which few disasters pull down."""
    return fmean(
        draw[task] > fmean(other[task] for other in result.draws)
        for result in found
        for task in result.tasks
        for draw in result.draws
    )


def _won(found: Sequence[Result], name: str) -> str:
    """Tasks, each one cluster, on which a rule beats Random over the models; two-sided sign p."""
    tasks = sorted({_base(task) for result in found for task in result.tasks})
    wins = 0
    for task in tasks:
        gains = [
            result.rules[name][own] - result.beside(name, own).mean
            for result in found
            for own in result.tasks
            if _base(own) == task
        ]
        wins += fmean(gains) > 0
    tail = min(
        1.0,
        2
        * sum(math.comb(len(tasks), k) for k in range(max(wins, len(tasks) - wins), len(tasks) + 1))
        / 2 ** len(tasks),
    )
    return f"{wins} of {len(tasks)} (p {tail:.2f})"


def _base(task: str) -> str:
    """The task that a part of its data is of."""
    return next(name for name in PARTS if task.startswith(name))


def luck(found: Sequence[Result]) -> str:
    """How good the best of as many drawn "rules" looks as there are real ones, by the median change."""
    generator = np.random.default_rng(0)
    units = [
        np.array([[draw[task] for task in result.tasks] for draw in result.draws])
        for result in found
    ]
    picks = [generator.integers(len(draws), size=(LUCK, len(COMPARED))) for draws in units]
    values = np.concatenate([draws[pick] for draws, pick in zip(units, picks, strict=True)], axis=2)
    best = np.median(values, axis=2).max(axis=1)
    real = {
        each.name: median(
            result.rules[each.name][task] for result in found for task in result.tasks
        )
        for each in COMPARED
    }
    first = max(real, key=lambda name: real[name])
    share = float((best >= real[first]).mean())
    return (
        f"Best median change: {first}, {real[first]:+.1f} %. Were all {len(COMPARED)} rules drawn at "
        f"random, the best of them would do as well in {share:.1%} of cases (median of the best: "
        f"{np.median(best):+.1f} %)."
    )


def main() -> str:
    """Return the tables of all that has been tried, after trying what has not."""
    for name in MODELS:
        if MODELS[name]() is not None:
            scan(name)
            fill(name)
    return report()


def report() -> str:
    """Return the tables of all that has been tried."""
    everything = {name: results(name) for name in BLOCKS if file_of(name, ()).exists()}
    parts = ["### The full models (scores x 100)", full_table(everything)]
    for asked in sorted(BUDGETS):
        found = [
            result
            for each in everything.values()
            for result in each
            if str(asked) in result.budget.asked
        ]
        decoders = [result for result in found if result.model != "MiniLM"]
        if decoders:
            which = ", ".join(f"{result.model} {result.budget}" for result in decoders)
            parts += [f"### {asked:.0%}: {which}", summary_table(decoders), luck(decoders)]
    decoders = [
        result for each in everything.values() for result in each if result.model != "MiniLM"
    ]
    if decoders:
        parts += ["### The decoders, all budgets together", summary_table(decoders, texts=False)]
    for name, each in everything.items():
        for result in each:
            asked = ", ".join(f"{float(part):.0%}" for part in result.budget.asked)
            parts += [f"### {name}, {result.budget} blocks ({asked})", model_table(result)]
    return "\n\n".join(parts)


def full_table(everything: dict[str, list[Result]]) -> str:
    """What the full models score, and what was tried."""
    rows = []
    for name in everything:
        full = read_trial(name, ())
        row: dict[str, Any] = {"model": name, "blocks": BLOCKS[name], "dtype": DTYPES[name]}
        row |= {_base(task): f"{100 * score:.2f}" for task, score in full.scores.items()}
        row[PERPLEXITY] = f"{full.perplexity:.2f}" if full.perplexity else ""
        spent = [json.loads(file.read_text()) for file in file_of(name, ()).parent.glob("*.json")]
        row["subsets tried"] = len(spent) - 1
        row["minutes"] = f"{sum(each['seconds'] for each in spent) / 60:.0f}"
        rows.append(row)
    return markdown(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), help="else the tables of what was tried")
    parser.add_argument("--most", type=int, help="only so many subsets")
    parser.add_argument("--check", action="store_true", help="also without sharing states")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.model is None:
        print(report())
    else:
        scan(given.model)
        fill(given.model, given.most, given.check)
