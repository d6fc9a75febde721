"""Is position 0 an attention sink? Measured, since a mean that counts one is ruled by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from layerscope.extraction import batches, extract, sites_of
from layerscope.models import Backbone
from layerscope.settings import FirstToken
from layerscope.states import TokenStates
from layerscope.tokenization import TokenizedText

# SmolLM2's first token reaches 146 x the median norm, Gemma 3's BOS more; encoders stay near 1.
SINK_RATIO: Final = 10.0
_TEXTS: Final = 16
_TOKENS: Final = 64


def first_token_ratio(backbone: Backbone, texts: Sequence[TokenizedText]) -> float | None:
    """Return how far the first token's norm exceeds the others', at the worst layer.

    At each block the norm of position 0 is divided by the median norm of the other ordinary tokens,
    and the median is taken over the first texts. None if no text has another ordinary token, or the
    states are not finite (what to do about that, the pass decides).
    """
    short = [
        TokenizedText(text.ids[:_TOKENS], text.special[:_TOKENS], truncated=False)
        for text in texts
        if not all(text.special[1:_TOKENS])
    ][:_TEXTS]
    if not short:
        return None
    counted = [text.counted(special_tokens=False, first_token=False) for text in short]
    sites = [s for s in sites_of(backbone, range(1, backbone.depth + 1)) if s.stage == "block"]
    given = batches(backbone, short, counted, _TEXTS * _TOKENS)
    [*results] = extract(backbone, given, sites, _ratios)
    worst = [
        float(torch.cat([result.by_site[site] for result in results]).nanmedian())
        for site in results[0].by_site
    ]
    return max((ratio for ratio in worst if math.isfinite(ratio)), default=None)


def decided(first_token: FirstToken, ratio: float | None) -> FirstToken:
    """Return a policy on the first token with `auto` decided: left out where it is a sink."""
    if first_token is not FirstToken.AUTO:
        return first_token
    return FirstToken.KEEP if ratio is None or ratio < SINK_RATIO else FirstToken.DROP


def _ratios(tokens: TokenStates) -> torch.Tensor:
    """Return first norm over median norm of the counted tokens, (text,)."""
    norms = tokens.states.norm(dim=-1)
    others = norms.masked_fill(~tokens.counted, torch.nan).nanmedian(dim=1).values
    first = norms.gather(1, tokens.real.int().argmax(dim=1, keepdim=True))[:, 0]
    ratios: torch.Tensor = first / others.clamp(min=torch.finfo(norms.dtype).tiny)
    return ratios
