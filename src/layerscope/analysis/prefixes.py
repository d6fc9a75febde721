"""Prefixes: the measures of a text's tokens, made on its first tokens alone.

In a causal model a token's state depends on no later token, so the states that one pass over a text
leaves hold those of all its prefixes (figure 5 of Skean et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.metrics import catalogue
from layerscope.models.backbone import Backbone
from layerscope.settings import PrefixConfig
from layerscope.states.extract import Site, TokenStates, batches, extract

_TOKENS: Final = 64
# How far the states of a text's first half may be from those of the half alone, by precision: rounding
# in a causal model; reading both ways changes them by far more.
_ROUNDING: Final = {torch.float64: 1e-6, torch.float32: 1e-3}
_COARSE: Final = 0.05


def check_prefixes(settings: PrefixConfig) -> None:
    """Refuse measures that need more than the tokens of one text.

    Raises:
        InputError: one that does.
    """
    others = [each.name for each in catalogue.select(settings.metrics) if each.level != "prompt"]
    if others:
        known = ", ".join(each.name for each in catalogue.CATALOGUE if each.level == "prompt")
        raise InputError(
            f"expected measures of the tokens of one text for prefixes, got {', '.join(others)}; there "
            f"are: {known}."
        )


def prefixes_of(
    backbone: Backbone,
    texts: Sequence[TokenizedText],
    marks: Sequence[Sequence[bool]],
    site: Site,
    every: int,
) -> tuple[int, ...]:
    """Return every, 2 every, 3 every, ... tokens, as far as the longest text reaches.

    Args:
        backbone: the model.
        texts: their tokens.
        marks: which of these count.
        site: the last one that is read.
        every: tokens that count, from one prefix to the next.

    Raises:
        InputError: the model reads both ways, or no text has so many tokens.
    """
    longest = max(map(sum, marks))
    if longest < every:
        raise InputError(
            f"expected texts of at least {every} tokens that count, the longest has {longest}; give "
            "longer texts, or a smaller `every`."
        )
    if _reads_both_ways(backbone, max(texts, key=lambda text: len(text.ids)), site):
        raise InputError(
            f"prefixes need a causal model, and in {backbone.info.name} later tokens change the states "
            "of earlier ones; take perturbations like 'length 64 tokens' instead."
        )
    return tuple(range(every, longest + 1, every))


def _reads_both_ways(backbone: Backbone, text: TokenizedText, site: Site) -> bool:
    """Whether later tokens change the states of a text's first half at a site."""
    length = min(len(text.ids), _TOKENS)
    parts = [
        TokenizedText(text.ids[:end], text.special[:end], truncated=True)
        for end in (length, length // 2)
    ]
    whole, half = (_states(backbone, part, site) for part in parts if part.ids)
    rounding = _ROUNDING.get(next(backbone.model.parameters()).dtype, _COARSE)
    return float((whole[: len(half)] - half).norm()) > rounding * float(half.norm())


def _states(backbone: Backbone, text: TokenizedText, site: Site) -> Tensor:
    def keep(tokens: TokenStates) -> Tensor:
        return tokens.states[tokens.real].double().cpu()

    given = batches(backbone, [text], [[True] * len(text.ids)], len(text.ids))
    [result] = extract(backbone, given, [site], keep)
    return result.by_site[site]
