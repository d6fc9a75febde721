"""Measure what a rule reads, and choose the blocks that may go and those that do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from layerscope.analysis.run import scan_backbone
from layerscope.config import FirstToken
from layerscope.data.texts import Texts
from layerscope.data.tokens import TokenizedText, length_limit
from layerscope.decisions import prune as prune_module
from layerscope.decisions.prune import Budget, Measured, Removal
from layerscope.export.request import PruneRequest
from layerscope.export.runs import left_by_runs
from layerscope.export.trial import without
from layerscope.models.backbone import Backbone
from layerscope.models.processing import read
from layerscope.results.table import Run, conform, no_contributions
from layerscope.settings import Part
from layerscope.states.encode import TokenPolicy, sample_ratios
from layerscope.states.extract import Progress, Site, TokenStates, batches, extract, sites_of
from layerscope.states.pooling import decided, pool, sink_builders, worst_ratio


def with_first_token(
    backbone: Backbone, asked: PruneRequest, eligible: Sequence[int]
) -> tuple[PruneRequest, tuple[int, ...], list[str]]:
    """Decide on the full model whether position 0 counts, and which blocks stay as they make it a sink.

    No subset of the blocks shall decide either anew. Returns the request, the blocks that may go, and
    what to say of those that stay.
    """
    settings, ratios = asked.settings, dict[int, float]()
    limit = length_limit(backbone.tokenizer, backbone.model.config, settings.max_length)
    if settings.first_token is FirstToken.AUTO or asked.protect == "auto":
        ratios = sample_ratios(backbone, limit)
    first = decided(settings.first_token, worst_ratio(ratios))
    asked = asked.changed(settings=settings.changed(first_token=first, max_length=limit))
    builders = sink_builders(ratios) if asked.protect == "auto" else ()
    said = [
        f"block {block} stays: across it the first token's norm becomes {ratios[block]:.0f} times the "
        "others' (an attention sink), which later blocks rely on; --protect 1,1 lets it go."
        for block in builders
        if block in eligible
    ]
    return asked, tuple(block for block in eligible if block not in builders), said


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
        if asked.part is not None and asked.rule.reads:
            rows = _steps_of_parts(backbone, asked, asked.part, texts, progress)
            found = Run(conform(rows), no_contributions(), {})
            return Measured(found, backbone.depth)
        if not asked.rule.reads:
            nothing = pd.DataFrame({"metric": [], "value": []})
            empty = Run(conform(nothing), no_contributions(), {})
            left = {}
            if asked.rule.heals:
                most = max(each.count for each in budgets)
                tokens = tokens_of(backbone, asked, texts.samples)
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


def _steps_of_parts(
    backbone: Backbone, asked: PruneRequest, part: Part, texts: Texts, progress: Progress
) -> pd.DataFrame:
    """Return what two measures of steps are across the attention or the MLP of each block.

    The mean angle of a text's vector, and 1 - the mean cosine of each token, before and after it.
    """
    tokens, policy = (
        tokens_of(backbone, asked, texts.samples),
        TokenPolicy.of_config(asked.settings),
    )
    after_attention = "attn_residual" if "mlp_norm" in backbone.stages else "attn_norm"
    middle = "attn_residual" if part == "attention" else after_attention
    sites = sites_of(backbone, None, ("block", middle))
    before: list[tuple[Tensor, Tensor]] = []

    def steps(states: TokenStates) -> tuple[Tensor, Tensor]:
        now = states.states.float(), pool(states, asked.settings.pools).double().cpu()
        cosines = torch.zeros(len(now[1]))
        angles = torch.zeros(len(now[1]))
        if states.site.layer:
            marks = states.counted.to(now[0])
            of_tokens = torch.cosine_similarity(now[0], before[-1][0], dim=2)
            cosines = ((of_tokens * marks).sum(1) / marks.sum(1)).cpu()
            turned = torch.cosine_similarity(now[1], before[-1][1], dim=1).clamp(-1, 1)
            angles = turned.acos() / math.pi
        before[:] = [now]
        return 1 - cosines, angles

    sums: dict[Site, list[tuple[Tensor, Tensor]]] = {}
    marks = [policy.counted(text) for text in tokens]
    done = 0
    for result in extract(backbone, batches(backbone, tokens, marks, asked.settings.batch_tokens),
                          sites, steps):  # fmt: skip
        progress("measuring parts", done, len(tokens))
        done += len(result.items)
        for site, found in result.by_site.items():
            sums.setdefault(site, []).append(found)
    progress("measuring parts", len(tokens), len(tokens))
    wanted = middle if part == "attention" else "block"
    return pd.DataFrame(
        {"metric": name, "level": "pair", "layer": site.layer, "other_layer": site.layer - 1,
         "value": float(torch.cat([each[place] for each in found]).mean())}
        for site, found in sums.items() if site.stage == wanted and site.layer
        for place, name in enumerate(("block_influence", "angular_distance"))
    )  # fmt: skip


def tokens_of(
    backbone: Backbone, asked: PruneRequest, samples: Sequence[Any]
) -> tuple[TokenizedText, ...]:
    """Return texts or images as tokens, at most as many of each text as are measured."""
    return tuple(read(backbone, samples, asked.settings.max_length))
