"""Measure what a rule reads, and choose the blocks that go."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerscope.analysis.run import scan_backbone
from layerscope.data.texts import Texts
from layerscope.data.tokens import TokenizedText, tokenize
from layerscope.decisions import prune as prune_module
from layerscope.decisions.prune import Budget, Measured, Removal
from layerscope.export.request import PruneRequest
from layerscope.export.runs import left_by_runs
from layerscope.export.trial import without
from layerscope.models.backbone import Backbone
from layerscope.results.table import Run, conform, no_contributions
from layerscope.states.extract import Progress


def removals(
    backbone: Backbone,
    asked: PruneRequest,
    eligible: Sequence[int],
    budgets: Sequence[Budget],
    run: Run | None,
    texts: Texts,
    progress: Progress,
) -> list[Removal]:
    """Return which blocks go by each budget.

    Args:
        backbone: the full model.
        asked: rule and scheme.
        eligible: the blocks that may go.
        budgets: how many.
        run: a scan in place of measuring, or None.
        texts: to measure on.
        progress: called with stage, done and total.
    """

    def measured(removed: tuple[int, ...] = ()) -> Measured:
        if not asked.rule.reads:
            nothing = pd.DataFrame({"metric": [], "value": []})
            empty = Run(conform(nothing), no_contributions(), {})
            left = {}
            if asked.rule.heals:
                most = max(each.count for each in budgets)
                tokens = tokens_of(backbone, asked, texts.texts)
                batch = asked.settings.batch_tokens
                left = left_by_runs(backbone, eligible, most, tokens, batch, progress)
            return Measured(empty, backbone.depth - len(removed), left)
        if not removed and run is not None:
            return prune_module.measured_by(run, backbone.depth)
        with without(backbone, removed) as shorter:
            found = scan_backbone(shorter, texts, asked.scan, progress=progress)
            return prune_module.measured_by(found, shorter.depth)

    if asked.scheme == "greedy":
        most = max(each.count for each in budgets)
        longest = prune_module.one_by_one(asked.rule, measured, eligible, most, asked.seed)
        return [_first(longest, each.count) for each in budgets]
    full = measured()
    return [asked.rule.choose(full, eligible, each.count, asked.seed) for each in budgets]


def _first(removal: Removal, count: int) -> Removal:
    blocks = removal.blocks[:count]
    return Removal(blocks, {b: v for b, v in removal.scores.items() if b in blocks})


def tokens_of(
    backbone: Backbone, asked: PruneRequest, texts: Sequence[str]
) -> tuple[TokenizedText, ...]:
    """Return texts as tokens, at most as many of each as are measured."""
    return tuple(tokenize(backbone.tokenizer, texts, asked.settings.max_length))
