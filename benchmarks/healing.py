"""Heal models without some blocks, chosen by rules and at random, and try them on tasks and text.

Each model without some blocks is healed and tried once and kept as a file in `runs/heal/MODEL`, so that a
run that was stopped goes on. Maps are fitted on paragraphs of WikiText-2's training part and chosen on a
fifth of them; blocks are chosen on the same. With `--texts tasks` both are done on unlabelled texts of
three tasks. Perplexity is of WikiText-2's validation part, tasks are those of `benchmarks.pruning`. Run
`python -m benchmarks.healing --model "SmolLM2 135M" --rules healing random` to fill the files of one
model, and `python -m benchmarks heal` for the tables of what was tried.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import torch

import layerscope
from benchmarks.materials import READOUT_MODELS
from benchmarks.subsets import (
    BLOCKS,
    DATA,
    DTYPES,
    ENCODERS,
    PARTS,
    RUNS,
    Memo,
    tests_for,
)
from layerscope.data.files import write_json
from layerscope.data.tokens import tokenize
from layerscope.decisions.prune import Measured, budgets, eligible_blocks, measured_by, rule
from layerscope.decisions.subsets import random_subsets
from layerscope.export.heal import divided, heal
from layerscope.export.judge import Judge, criteria
from layerscope.export.patches import HealingTexts, healed
from layerscope.export.runs import left_by_runs
from layerscope.export.trial import TrialPlan, attempt, costs, tried
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.results.table import Run, conform, load_run, no_contributions
from layerscope.settings import ModelOptions
from layerscope.states.encode import sample_ratios
from layerscope.states.extract import silent
from layerscope.states.pooling import sink_builders

KEPT = RUNS / "heal"
BUDGETS = (0.10, 0.20, 0.05, 0.15, 0.25)  # the ones that are asked about first
RULES = ("angular", "angular-contiguous", "healing", "gfmi-gain", "nrs", "frenet")
KEEPING = "angular, sink kept"  # the same without the blocks that build an attention sink
RANDOM = "random"
FITTED = 120  # paragraphs of WikiText-2's training part
SINGLE = 48  # of them are fitted on one by one
OF_EACH = 400  # texts of a task
JUDGED = 1500  # held-out tokens that models are judged on
BRIEFLY = 500  # that the form of a random subset's maps is chosen on
_BATCH = 4096


def paragraphs() -> list[str]:
    """Paragraphs of WikiText-2's training part."""
    found = pd.read_parquet(DATA / "WikiText-2" / "train_5k.parquet")["text"].tolist()
    return [text for text in found if len(text.split()) >= 20][:FITTED]


def mixed() -> list[str]:
    """The same paragraphs, of which the later ones are joined by fours."""
    single, joined = paragraphs()[:SINGLE], paragraphs()[SINGLE:]
    return single + ["\n\n".join(joined[start : start + 4]) for start in range(0, len(joined), 4)]


def of_tasks() -> list[str]:
    """Texts of three tasks, none of which is in what models are tried on, without labels; mixed."""
    sentences = pd.read_parquet(DATA / "STSBenchmark" / "train.parquet")["sentence1"]
    requests = pd.read_parquet(DATA / "MTOPDomainClassification" / "train.parquet")["text"]
    source, rows = PARTS["Banking77Pairs"]
    pairs = pd.read_parquet(DATA / source / "test.parquet")
    tried_on = pairs.sample(rows, random_state=0)
    used = {*tried_on["sentence1"], *tried_on["sentence2"]}
    questions = pairs["sentence1"][~pairs["sentence1"].isin(used)]
    each = [
        found.drop_duplicates().sample(OF_EACH, random_state=0)
        for found in (sentences, requests, questions)
    ]
    return pd.concat(each).sample(frac=1, random_state=0).tolist()


@dataclass(frozen=True)
class Material:
    """Unlabelled texts: those that blocks are chosen on, and those that maps are fitted on."""

    chosen_on: Callable[[], list[str]]
    fitted_on: Callable[[], list[str]]


WIKITEXT, TASKS = "WikiText", "tasks"
MATERIALS = {WIKITEXT: Material(paragraphs, mixed), TASKS: Material(of_tasks, of_tasks)}


# --- filling the files -------------------------------------------------------------------------


def folder(name: str, on: str = WIKITEXT) -> Path:
    """Where the trials of a model are kept, by the texts that maps are fitted on."""
    return KEPT / (name.replace(" ", "-") + ("" if on == WIKITEXT else f"-{on}"))


def file_of(name: str, removed: Sequence[int], on: str = WIKITEXT) -> Path:
    """Where the trials of one subset are kept."""
    return folder(name, on) / f"{'-'.join(map(str, removed)) or 'full'}.json"


def chosen(name: str, backbone: Backbone, which: str, on: str) -> dict[str, list[int]]:
    """Number of blocks -> those that a rule removes; kept for all rules in one file."""
    file = folder(name, on) / "chosen.json"
    known: dict[str, dict[str, list[int]]] = json.loads(file.read_text()) if file.exists() else {}
    if which not in known:
        by = RULES[0] if which == KEEPING else which
        stays = builders(name, backbone) if which == KEEPING else ()
        eligible = [block for block in eligible_blocks(BLOCKS[name]) if block not in stays]
        measured = _measured(name, backbone, by, on)
        known[which] = {
            str(count): sorted(rule(by).choose(measured, eligible, count, 0).blocks)
            for count in counts_of(name)
        }
        write_json(file, known)
    return known[which]


def builders(name: str, backbone: Backbone | None = None) -> list[int]:
    """The blocks that build an attention sink; kept in a file, none where that was not measured."""
    file = folder(name) / "builders.json"
    if not file.exists() and backbone is not None:
        write_json(file, list(sink_builders(sample_ratios(backbone, 512))))
    found: list[int] = json.loads(file.read_text()) if file.exists() else []
    return found


def _measured(name: str, backbone: Backbone, which: str, on: str) -> Measured:
    """What a rule reads."""
    depth, texts = BLOCKS[name], MATERIALS[on].chosen_on()
    if rule(which).heals:
        tokens, longest = tokenize(backbone.tokenizer, texts, 512), max(counts_of(name))
        left = left_by_runs(backbone, eligible_blocks(depth), longest, tokens, _BATCH, silent)
        return Measured(
            Run(conform(pd.DataFrame({"metric": [], "value": []})), no_contributions(), {}),
            depth,
            left,
        )
    reads = tuple(dict.fromkeys(metric for each in RULES for metric in rule(each).reads))
    place = folder(name, on) / "scan"
    if not (place / "run.json").exists():
        source = READOUT_MODELS[name]()
        layerscope.scan(source, texts, metrics=reads, views=0, out=place, dtype=DTYPES[name])
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


def fill(name: str, rules: Sequence[str], counts: Sequence[int], on: str) -> None:
    """Heal and try what the rules choose, and random subsets if they are among them."""
    backbone = load(name)
    tests = tests_for(name, backbone)
    memo = Memo(backbone)
    with memo.entered():  # first, so that it is the full model that is remembered
        whole = tried(backbone, (), tests)
    if not file_of(name, ()).exists():
        write_json(file_of(name, ()), {"full": asdict(whole)})
    how = tests.settings.changed(batch_tokens=_BATCH)
    used = divided(tokenize(backbone.tokenizer, MATERIALS[on].fitted_on(), 512), how)
    by = criteria(backbone, vectors=True, text=True)
    bench = Bench(name, on, memo, tests, used, Judge(backbone, used, by, JUDGED))
    brief = Judge(backbone, used, by[:1], BRIEFLY)
    eligible = eligible_blocks(BLOCKS[name])
    for count in counts or counts_of(name):
        for each in rules:
            if each == RANDOM:
                for removed in random_subsets(eligible, count).subsets:
                    replace(bench, judge=brief).keep(removed)
                continue
            for texts in dict.fromkeys((on, WIKITEXT)):  # what paragraphs choose too
                removed = chosen(name, backbone, each, texts)[str(count)]
                bench.keep(tuple(removed), costly=each == RULES[0] and on == WIKITEXT)


@dataclass(frozen=True)
class Bench:
    """A model, the tests of its subsets, and the texts that they are healed on."""

    name: str
    on: str
    memo: Memo
    tests: TrialPlan
    used: HealingTexts
    judge: Judge

    def keep(self, removed: tuple[int, ...], costly: bool = False) -> None:
        """Try one subset, dropped and healed, unless its file is there."""
        file = file_of(self.name, removed, self.on)
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
        print(
            self.name, self.on, removed, healing.sentence(), dropped, better, sep="\n  ", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(BLOCKS), required=True)
    parser.add_argument("--rules", nargs="*", default=RULES, choices=(*RULES, KEEPING, RANDOM))
    parser.add_argument("--texts", default=WIKITEXT, choices=tuple(MATERIALS))
    parser.add_argument("--counts", nargs="*", type=int, default=(), help="else all budgets")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fill(given.model, given.rules, given.counts, given.texts)
