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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
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
    MEAN,
    RUNS,
    Memo,
    changes,
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
from layerscope.results.resampling import against
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
    eligible = eligible_blocks(BLOCKS[name])
    for count in counts or counts_of(name):
        for each in rules:
            if each == RANDOM:
                for removed in random_subsets(eligible, count).subsets:
                    bench.keep(removed)
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


def model_table(name: str) -> str:
    """One model: each rule at each number of blocks, dropped and healed, and random subsets."""
    known = json.loads((folder(name) / "chosen.json").read_text())
    full = read(name, ())
    eligible, rows = eligible_blocks(BLOCKS[name]), []
    for count in sorted(counts_of(name)):
        draws = random_subsets(eligible, count).subsets
        random = [found for removed in draws if (found := read(name, removed))]
        random = random if len(random) == len(draws) else []  # a part of them is no baseline
        for each in RULES:
            removed = known.get(each, {}).get(str(count))
            if full is not None and removed and (found := read(name, removed)) is not None:
                rows.append(_row(full["full"], eligible, each, removed, found, random))
        if full is not None and random:
            rows.append(_random_row(full["full"], count, random))
    return markdown(rows)


def _row(
    full: Trial, eligible: Sequence[int], name: str, removed: Sequence[int],
    found: dict[str, Any], random: Sequence[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    count = len(removed)
    row: dict[str, Any] = {"blocks": count, "rule": name, "which": _spans(removed)}
    judgments = {each["by"]: each for each in found["healing"]["judgments"]}
    for state in ("dropped", "healed"):
        trial = found[state]
        if full.perplexity:
            row[f"perplexity {state}"] = _perplexity(trial)
        row[f"distance {state}"] = f"{judgments['distance of vectors'][state]:.3f}"
        row[f"mean {state} %"] = f"{changes(full, trial)[MEAN]:+.1f}"
        if random:
            others = [changes(full, each[state])[MEAN] for each in random]
            whole = len(random) == random_subsets(eligible, count).total
            beside = against(changes(full, trial)[MEAN], others, exhaustive=whole)
            row[f"p {state}"] = f"{beside.p:.2f}"
    row["kept"] = "yes" if found["healing"]["kept"] else "no"
    row["seconds"] = round(found["healing"]["seconds"])
    return row


def _random_row(full: Trial, count: int, random: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"blocks": count, "rule": f"Random, mean of {len(random)}"}
    for state in ("dropped", "healed"):
        row[f"mean {state} %"] = (
            f"{fmean(changes(full, each[state])[MEAN] for each in random):+.1f}"
        )
    return row


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


def _perplexity(trial: Trial) -> str:
    return "none" if trial.perplexity is None else f"{trial.perplexity:.4g}"


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
    parts = []
    for name in BLOCKS:
        if (folder(name) / "chosen.json").exists() and (full := read(name, ())):
            trial: Trial = full["full"]
            scores = ", ".join(f"{task} {100 * value:.2f}" for task, value in trial.scores.items())
            known = f"; {PERPLEXITY} {trial.perplexity:.2f}" if trial.perplexity else ""
            parts += [f"### {name}, {BLOCKS[name]} blocks", f"Full model: {scores}{known}."]
            parts += [model_table(name), cost_table(name)]
    return "\n\n".join(parts)


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
