"""Measures of the token states of one text: how spread out they are, and how sharply they turn.

Every function returns one float64 number a text, NaN where the text has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerscope.metrics.inputs import TokenInputs
from layerscope.metrics.spectrum import clamped_entropy, eigenvalues, renyi_entropy, smaller_gram
from layerscope.settings import Convention


def reference_pooling_rows(inputs: TokenInputs) -> Tensor:
    """Return the centered unit tokens (text, token, dim), whose mean is what the authors pool.

    Padding is zero, so the mean is the sum over tokens divided by the number that counts.
    """
    return inputs.unit


def prompt_entropy(inputs: TokenInputs, convention: Convention, *, alpha: float = 1.0) -> Tensor:
    """Matrix-based entropy of each text's tokens, in nats; 0 to `ln min(T, D)`.

    Under `normalized` at most `ln min(T - 1, D)`. NaN for fewer than 2 tokens, or when all tokens
    are zero (all equal, where centered). Skean et al. 2025, eq. 1.

    Returns:
        (text,) float64.
    """
    if convention is Convention.REFERENCE:
        texts = zip(inputs.unit, inputs.mask, strict=True)
        entropies = [_reference_entropy(unit[mask], alpha) for unit, mask in texts]
        return torch.stack(entropies) if entropies else inputs.lengths.double()
    # Below order 1 the smallest eigenvalues rule, and float32 cannot tell them from rounding.
    exact = alpha < 1
    values = eigenvalues(inputs.prepared(convention)) if exact else inputs.eigenvalues(convention)
    entropy = renyi_entropy(values, alpha).double()
    return torch.where(inputs.lengths >= 2, entropy, torch.nan)


def _reference_entropy(rows: Tensor, alpha: float) -> Tensor:
    """Return the authors' entropy of one text's centered unit tokens (token, dim)."""
    if len(rows) < 2:
        return torch.tensor(torch.nan, dtype=torch.float64, device=rows.device)
    return clamped_entropy(smaller_gram(rows.double()), alpha)


def prompt_entropy_normalized(
    inputs: TokenInputs, convention: Convention, *, alpha: float = 1.0
) -> Tensor:
    """Prompt entropy over the most it can be: `ln min(T - 1, D)` when centered, 0 to 1.

    `paper` rows are not centered and can reach `ln min(T, D)`; the authors' code divides by that
    too, so `reference` does. NaN also where that maximum is 0.
    """
    lengths = inputs.lengths.double()
    ranks = lengths - 1 if convention is Convention.NORMALIZED else lengths
    most = ranks.clamp(max=inputs.states.shape[-1]).log()
    return prompt_entropy(inputs, convention, alpha=alpha) / torch.where(most > 0, most, torch.nan)


def prompt_entropy_per_log_length(
    inputs: TokenInputs, convention: Convention, *, alpha: float = 1.0
) -> Tensor:
    """Prompt entropy over `ln T`, the authors' logN form; 0 to 1."""
    return prompt_entropy(inputs, convention, alpha=alpha) / inputs.lengths.double().log()


def curvature(inputs: TokenInputs, convention: Convention) -> Tensor:
    """Mean angle between successive steps of the token trajectory, in radians; 0 to pi.

    0 on a straight line, pi/2 for a random walk, 2 pi/3 for independent tokens. A step of length
    zero has no direction: its two angles are left out. NaN where no angle is left, so for
    fewer than 3 tokens. `reference` is what the authors' code computes: the angle between the
    centered unit tokens themselves, from an arc cosine that is NaN when rounding exceeds 1.
    Skean et al. 2025, section 3.3.2; Hosseini, Fedorenko 2023.

    Returns:
        (text,) float64.
    """
    rows = inputs.prepared(convention)
    pairs = inputs.mask[:, 1:] & inputs.mask[:, :-1]
    if convention is Convention.REFERENCE:
        rows = rows.double()
        angles = torch.arccos((rows[:, 1:] * rows[:, :-1]).sum(-1))
        return _mean_where(angles, pairs)
    steps = rows[:, 1:] - rows[:, :-1]
    lengths = steps.norm(dim=-1)
    moved = pairs & (lengths > 0)
    steps.mul_(torch.where(moved, lengths, torch.inf).reciprocal()[..., None])
    before, after = steps[:, :-1], steps[:, 1:]
    # Kahan: accurate near 0 and pi, where the arc cosine of a rounded cosine is not, and never NaN.
    angles = 2 * torch.atan2((after - before).norm(dim=-1), (after + before).norm(dim=-1))
    return _mean_where(angles.double(), moved[:, 1:] & moved[:, :-1])


def _mean_where(values: Tensor, kept: Tensor) -> Tensor:
    """Return the mean (text,) of values (text, position) where kept; NaN where none is."""
    total: Tensor = torch.where(kept, values, 0).sum(-1)
    return total / kept.sum(-1)
