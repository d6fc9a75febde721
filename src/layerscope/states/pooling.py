"""Pooling of token states into one vector per text, and detection of an attention sink."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from layerscope.config import FirstToken, Pooling
from layerscope.data.tokens import TokenizedText
from layerscope.models.backbone import Backbone
from layerscope.states.extract import TokenStates, batches, extract, sites_of


def pool(tokens: TokenStates, pooling: Pooling) -> Tensor:
    """Return one vector per text, (text, dim).

    `first` and `last` take the first and last real token, special or not, because models trained for
    them represent the text there (CLS, EOS). The others use only the tokens that count;
    `weighted_mean` weights these by their rank, 1, 2, 3... (Muennighoff 2022, SGPT).
    """
    match pooling:
        case Pooling.FIRST:
            return _at(tokens.states, tokens.real.int().argmax(dim=1))
        case Pooling.LAST:
            positions = torch.arange(tokens.real.shape[1], device=tokens.real.device)
            return _at(tokens.states, (tokens.real * positions).argmax(dim=1))
        case Pooling.MAX:
            hidden = tokens.states.masked_fill(~tokens.counted[..., None], -torch.inf)
            return hidden.amax(dim=1)
        case Pooling.MEAN:
            return mean(tokens.states, tokens.counted.to(tokens.states.dtype))
        case Pooling.WEIGHTED_MEAN:
            places = tokens.counted.cumsum(dim=1) * tokens.counted
            return mean(tokens.states, places.to(tokens.states.dtype))


def mean(states: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean (text, dim) of states (text, token, dim); weights (text, token)."""
    total = weights.sum(dim=1, keepdim=True)
    pooled = (weights[:, None] @ states)[:, 0] / total
    if bool(pooled.isfinite().all()):
        return pooled
    # Zero times NaN is NaN: states at positions that do not count must not reach the mean.
    clean = states.masked_fill((weights == 0)[..., None], 0)
    return (weights[:, None] @ clean)[:, 0] / total


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), places]


# SmolLM2's first token reaches 146 x the median norm, Gemma 3's BOS more; encoders stay near 1.
SINK_RATIO: Final = 10.0
_TEXTS: Final = 16
_TOKENS: Final = 64


def first_token_ratio(backbone: Backbone, texts: Sequence[TokenizedText]) -> float | None:
    """Return how far the first token's norm exceeds the others', at the worst layer after a block.

    None if no text has another ordinary token, or if the states are not finite (which the pass itself
    handles).
    """
    return worst_ratio(first_token_ratios(backbone, texts))


def worst_ratio(ratios: Mapping[int, float]) -> float | None:
    """Return the greatest ratio of the layers after a block; None without any."""
    return max((ratio for layer, ratio in ratios.items() if layer), default=None)


def first_token_ratios(backbone: Backbone, texts: Sequence[TokenizedText]) -> dict[int, float]:
    """Return layer -> the norm of position 0 over the median norm of the other ordinary tokens.

    The median over the first texts, of layers 0 to L; those whose states are not finite are left out,
    all of them if no text has another ordinary token.
    """
    short = [
        TokenizedText(text.ids[:_TOKENS], text.special[:_TOKENS], truncated=False)
        for text in texts
        if not all(text.special[1:_TOKENS])
    ][:_TEXTS]
    if not short:
        return {}
    counted = [text.counted(special_tokens=False, first_token=False) for text in short]
    sites = [s for s in sites_of(backbone, range(backbone.depth + 1)) if s.stage == "block"]
    given = batches(backbone, short, counted, _TEXTS * _TOKENS)
    [*results] = extract(backbone, given, sites, _ratios)
    found = {
        site.layer: float(torch.cat([result.by_site[site] for result in results]).nanmedian())
        for site in results[0].by_site
    }
    return {layer: ratio for layer, ratio in found.items() if math.isfinite(ratio)}


def sink_builders(ratios: Mapping[int, float]) -> tuple[int, ...]:
    """Return the blocks that build an attention sink, of the ratios of `first_token_ratios`.

    Those after which position 0 is a sink and across which it grew as many times as makes a sink: one
    block does so in most decoders that have one (Sun et al. 2024, Massive Activations in Large Language
    Models), and later blocks rely on it.
    """
    return tuple(
        layer
        for layer, ratio in ratios.items()
        if ratio >= SINK_RATIO and ratio >= SINK_RATIO * ratios.get(layer - 1, math.inf)
    )


def decided(first_token: FirstToken, ratio: float | None) -> FirstToken:
    """Return the policy on the first token with `auto` decided: drop it if it is a sink."""
    if first_token is not FirstToken.AUTO:
        return first_token
    return FirstToken.KEEP if ratio is None or ratio < SINK_RATIO else FirstToken.DROP


def _ratios(tokens: TokenStates) -> torch.Tensor:
    """Return the norm of the first token over the median norm of the counted tokens, (text,)."""
    norms = tokens.states.norm(dim=-1)
    others = norms.masked_fill(~tokens.counted, torch.nan).nanmedian(dim=1).values
    first = norms.gather(1, tokens.real.int().argmax(dim=1, keepdim=True))[:, 0]
    ratios: torch.Tensor = first / others.clamp(min=torch.finfo(norms.dtype).tiny)
    return ratios
