"""What a pruning was, for the folder that it saves: the record, the card's evidence, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from layerscope.data import Texts
from layerscope.models import Backbone
from layerscope.provenance import versions
from layerscope.pruning.asking import Asked
from layerscope.pruning.comparing import Outcome
from layerscope.pruning.orders import Budget
from layerscope.pruning.trial import Cost, Trial
from layerscope.table import Run


def notes_of(asked: Asked, budgets: Sequence[Budget], run: Run | None) -> list[str]:
    """Return what there is to know of how the blocks were chosen."""
    notes = [
        f"budgets {', '.join(each.asked)} all remove {each} blocks."
        for each in budgets
        if len(each.asked) > 1
    ]
    if asked.rule.own_reading:
        notes.append(
            "the rule is our reading of Jiang, Yang, Tam 2026, whose own could not be read."
        )
    if run is not None and asked.scheme == "greedy" and asked.rule.reads:
        notes.append("the first block was chosen by the run, the others by new scans of the texts.")
    return notes


def record_of(
    backbone: Backbone,
    asked: Asked,
    eligible: Sequence[int],
    outcomes: Sequence[Outcome],
    full: Trial | None,
    spent: tuple[Cost, Cost] | None,
    texts: Texts,
    run: Run | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return plain values that say what was asked, what was found and by what."""
    measured = (run.record.get("data", {}) if run is not None else {}) or {
        "name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts.texts),
    }  # fmt: skip
    rule = asked.rule
    return {
        "command": "prune",
        "source": backbone.info.as_dict(),
        "rule": {"name": rule.name, "formula": rule.formula, "reads": rule.reads, "source": rule.source},
        "scheme": asked.scheme,
        "protect": list(asked.protect),
        "eligible": list(eligible),
        "data": measured if rule.reads else {},
        "settings": asked.settings.deciding() | {"seed": asked.seed},
        "outcomes": [_outcome(outcome) for outcome in outcomes],
        "full": None if full is None else asdict(full),
        "costs": None if spent is None else [asdict(cost) for cost in spent],
        "tasks": {
            plan.name: {"metric": plan.metric, "split": plan.split, "subset": plan.subset,
                        "revision": plan.revision}
            for plan in asked.plans
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "notes": list(notes),
    }  # fmt: skip


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "asked": list(outcome.budget.asked),
        "budget": str(outcome.budget),
        "removed": list(outcome.removed),
        "order": list(outcome.removal.blocks),
        "kinds": list(outcome.kinds),
        "scores": {str(block): score for block, score in outcome.removal.scores.items()},
        "trial": None if outcome.trial is None else asdict(outcome.trial),
        "comparisons": [asdict(found) for found in outcome.comparisons],
        "subsets": [asdict(trial) for trial in outcome.subsets],
        "total_subsets": outcome.total,
    }


def evidence_of(asked: Asked, outcome: Outcome, record: dict[str, Any]) -> list[str]:
    """Return the sentences of the model card on why these blocks, and what it cost."""
    rule, data = asked.rule, record["data"]
    on = f", measured on {data.get('texts')} texts of {data.get('name')}" if data else ""
    said = [f"Chosen by the rule {rule.name} ({rule.formula}, lowest first; {asked.scheme}){on}."]
    for found in outcome.comparisons:
        line = f"{found.name}: {found.change:+.1f} % against the full model"
        if found.random:
            line += (
                f"; {found.random.subsets} random subsets of as many blocks: median "
                f"{found.random.median:+.1f} %, p = {found.random.p:.2f}"
            )
        said.append(f"{line}.")
    return said
