"""What a pruning came to, budget by budget: its record, and the sentences on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from layerscope.data.images import Images
from layerscope.data.texts import Texts
from layerscope.decisions.prune import Budget, Removal
from layerscope.export.heal import Healing
from layerscope.export.patches import Patch
from layerscope.export.request import PruneRequest
from layerscope.export.trial import Comparison, Cost, Trial
from layerscope.models.backbone import Backbone
from layerscope.results.display import in_words_of
from layerscope.results.folder import versions
from layerscope.results.table import Run
from layerscope.settings import Part


@dataclass(frozen=True)
class BudgetOutcome:
    """What one budget came to.

    Attributes:
        budget: how many blocks.
        removal: which, in the order in which they go, and by what scores.
        kinds: of these blocks, in ascending order of the blocks: the config's layer types, or the
            class of the block.
        trial: of the model without them, None if nothing was tried.
        comparisons: test by test.
        subsets: the trials of the random subsets.
        total: the number of all subsets of this size.
        healing: what healing came to, None where it was not tried.
        dropped: where healing was kept, the trial of the model without it.
        part: what of the blocks goes, None for all of them.
    """

    budget: Budget
    removal: Removal
    kinds: tuple[str, ...]
    trial: Trial | None = None
    comparisons: tuple[Comparison, ...] = ()
    subsets: tuple[Trial, ...] = field(default=(), repr=False)
    total: int = 0
    healing: Healing | None = None
    dropped: Trial | None = None
    part: Part | None = None

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The weights that healing changes in the model that is tried and saved."""
        return self.healing.patches if self.healing is not None and self.healing.kept else ()

    @property
    def removed(self) -> tuple[int, ...]:
        """The blocks that go, ascending."""
        return tuple(sorted(self.removal.blocks))


def record_of(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    outcomes: Sequence[BudgetOutcome],
    full: Trial | None,
    spent: tuple[Cost, Cost] | None,
    texts: Texts,
    run: Run | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return plain values that say what was asked, what was found and by what."""
    measured = (run.record.get("data", {}) if run is not None else {}) or {
        "name": texts.name, "fingerprint": texts.fingerprint, "texts": len(texts.texts),
        **({"kind": texts.noun} if isinstance(texts, Images) else {}),
    }  # fmt: skip
    rule = asked.rule
    return {
        "command": "prune",
        "source": backbone.info.as_dict(),
        "rule": {"name": rule.name, "formula": rule.formula, "reads": rule.reads, "source": rule.source},
        "scheme": asked.scheme,
        "parts": asked.parts,
        "protect": asked.protect if asked.protect == "auto" else list(asked.protect),
        "eligible": list(eligible),
        "data": measured if rule.reads else {},
        "settings": asked.settings.deciding() | {"seed": asked.seed},
        "outcomes": [_outcome(outcome) for outcome in outcomes],
        "full": None if full is None else asdict(full),
        "costs": None if spent is None else [asdict(cost) for cost in spent],
        "tasks": {
            plan.name: {"type": plan.kind, "metric": plan.metric, "split": plan.split,
                        "subset": plan.subset, "revision": plan.revision, "source": plan.source}
            for plan in asked.plans
        },
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "notes": list(notes),
    }  # fmt: skip


def _outcome(outcome: BudgetOutcome) -> dict[str, Any]:
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
        "healing": None if outcome.healing is None else outcome.healing.as_dict(),
        "dropped": None if outcome.dropped is None else asdict(outcome.dropped),
        "total_subsets": outcome.total,
    }


def failures_of(full: Trial, outcomes: Sequence[BudgetOutcome]) -> list[str]:
    """Return what there is to know of tests without a value."""
    said = [f"{task} was not compared: {why}" for task, why in full.failed.items()]
    said += [
        f"{task} has no change in percent, as the full model scores {score:.4g}."
        for task, score in full.scores.items()
        if score <= 0
    ]
    for outcome in outcomes:
        if outcome.trial is not None:
            failed = {k: v for k, v in outcome.trial.failed.items() if k not in full.failed}
            said += [
                f"without {outcome.removed}, {task} fails: {why}" for task, why in failed.items()
            ]
        said += [
            f"{found.lacking} random subsets of {outcome.budget} blocks have no {found.name}, and are "
            "left out."
            for found in outcome.comparisons
            if found.lacking
        ]
    return said


def evidence_of(asked: PruneRequest, outcome: BudgetOutcome, record: dict[str, Any]) -> list[str]:
    """Return the sentences of the model card on why these blocks, and what it cost."""
    rule, data = asked.rule, record["data"]
    on = f", measured on {data.get('texts')} texts of {data.get('name')}" if data else ""
    said = [f"Chosen by the rule {rule.name} ({rule.formula}, lowest first; {asked.scheme}){on}."]
    if outcome.healing is not None:
        said.append(outcome.healing.sentence())
    for found in outcome.comparisons:
        line = f"{found.name}: {found.change:+.1f} % against the full model"
        if found.random:
            healed = (
                "" if found.dropped is None else f"; without healing {found.random.value:+.1f} %"
            )
            line += (
                f"{healed}; {found.random.subsets} random subsets of as many blocks: median "
                f"{found.random.median:+.1f} %, p = {found.random.p:.2f}"
            )
        said.append(f"{line}.")
    return list(in_words_of({"data": data}, tuple(said)))
