"""Token states of a text -> one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.settings import Pooling
from layerscope.states import TokenStates


def pool(tokens: TokenStates, pooling: Pooling) -> Tensor:
    """Return one vector a text, (text, dim).

    `first` and `last` take the first and last real token, special or not, since that is where models
    trained for them put the text (CLS, EOS). The others see only the tokens that count;
    `weighted_mean` weighs them by their place among those, 1, 2, 3... (Muennighoff 2022, SGPT).
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
    # Zero times NaN is NaN: what stands where nothing counts must not reach the mean.
    clean = states.masked_fill((weights == 0)[..., None], 0)
    return (weights[:, None] @ clean)[:, 0] / total


def _at(states: Tensor, places: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), places]
