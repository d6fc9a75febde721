"""The tables of results/theory.md: `python -m benchmarks theory`."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.tables import markdown
from layerscope.studies.theory import (
    DIM,
    DRAWS,
    PROMPTS,
    SIZE,
    TOKENS,
    bounds,
    effective_rank_and_entropy,
    expected_order_2,
    extremes,
    orders,
)


def orders_table() -> str:
    """Return the entropies, with the share of the ten largest eigenvalues behind each."""
    rows: dict[float, dict[str, Any]] = {}
    for each in orders():
        cell = f"{each['entropy']:.3f} ({100 * each['share_of_first_10']:.0f} %)"
        rows.setdefault(each["decay"], {"decay": each["decay"]})[f"S_{each['order']:g}"] = cell
    return markdown(list(rows.values()))


def main() -> str:
    """Return all tables."""
    printed, reversed_ = effective_rank_and_entropy()
    return f"""### Theorem 1

Of 2,000 random spectra, effective rank <= exp(S_1), as printed, holds for
{100 * printed:.1f} %; effective rank >= exp(S_1) for {100 * reversed_:.1f} %.

### Theorems 2, 5, 6: does the prompt entropy decide the dataset entropy?

{PROMPTS} prompts of {TOKENS} tokens in {DIM} dimensions, means over {DRAWS} draws, nats.
{PROMPTS} random directions have {expected_order_2():.3f}; the first two rows differ as printed by
2 ln {TOKENS} = {2 * math.log(TOKENS):.3f}.

{markdown(extremes())}

### Theorem 3: ln N - InfoNCE <= I(X; Z) <= H(Z)

{PROMPTS} texts with two equal views, temperature 0.01.

{markdown(bounds())}

### Entropies of power laws

S_order of {SIZE} eigenvalues i^-decay, nats; in brackets the share of the ten largest in the
sum of p^order.

{orders_table()}
"""
