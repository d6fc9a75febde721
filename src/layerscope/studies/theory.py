"""The theorems of Skean et al. 2025 (section 3.4, appendix G) in numbers, and entropies of power laws.

The power laws are those of figure 7 of that paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from layerscope.metrics.inputs import ViewInputs
from layerscope.metrics.spectrum import effective_rank, eigenvalues, renyi_entropy
from layerscope.metrics.views import infonce_mi_bound
from layerscope.results.folder import versions
from layerscope.results.runs import Made, Needs
from layerscope.results.table import BLOCK, COLUMNS, Run, conform, no_contributions
from layerscope.settings import Convention

ORDERS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, math.inf)
DECAYS: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
SIZE: Final = 1000  # eigenvalues of a spectrum
PROMPTS: Final = 200
DIM: Final = 64
TOKENS: Final = 32
DRAWS: Final = 20


# --- theorem 1: effective rank and entropy ---------------------------------------------------------


def random_spectra(count: int = 2000, seed: int = 0) -> Iterator[Tensor]:
    """Yield spectra of random matrices of 2 to 40 rows, from flat to steep."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        rows, columns = torch.randint(2, 41, (2,), generator=generator).tolist()
        steepness = 3 * torch.rand((), generator=generator)
        scale = torch.arange(1, columns + 1, dtype=torch.float64) ** -steepness
        matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        yield eigenvalues(matrix * scale)


def effective_rank_and_entropy(count: int = 2000) -> tuple[float, float]:
    """Return for what share of random spectra `rank <= exp(S_1)` (as printed), and `>=`, holds."""
    pairs = [
        (float(effective_rank(values)), float(renyi_entropy(values).exp()))
        for values in random_spectra(count)
    ]
    printed = sum(rank <= entropy * (1 + 1e-9) for rank, entropy in pairs)
    reversed_ = sum(rank >= entropy * (1 - 1e-9) for rank, entropy in pairs)
    return printed / count, reversed_ / count


# --- theorems 2, 5 and 6: prompt entropy and dataset entropy ----------------------------------------


def orthonormal_tokens(generator: torch.Generator) -> Tensor:
    """Return prompts (prompt, token, dim) of the largest prompt entropy: each has orthonormal tokens."""
    noise = torch.randn(PROMPTS, DIM, TOKENS, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(noise).Q
    return basis.mT


def equal_tokens(generator: torch.Generator) -> Tensor:
    """Return prompts of the least prompt entropy: each has one random unit vector L times."""
    noise = torch.randn(PROMPTS, 1, DIM, generator=generator, dtype=torch.float64)
    unit: Tensor = noise / noise.norm(dim=-1, keepdim=True)
    return unit.expand(-1, TOKENS, -1)


def same_prompts(generator: torch.Generator) -> Tensor:
    """Return prompts of the largest prompt entropy that are one prompt, its tokens permuted."""
    tokens = orthonormal_tokens(generator)[0]
    orders = [torch.randperm(TOKENS, generator=generator) for _ in range(PROMPTS)]
    return torch.stack([tokens[order] for order in orders])


def order_2(prompts: Tensor) -> tuple[float, float, float]:
    """Return the mean prompt entropy, and the dataset entropy without and with division by the trace.

    Dataset entropies are of order 2, of the means over tokens, not centered.
    """
    prompt = float(renyi_entropy(eigenvalues(prompts[0]), 2.0))
    values = eigenvalues(prompts.mean(1))
    return prompt, float(-values.square().sum().log()), float(renyi_entropy(values, 2.0))


def expected_order_2(n: int = PROMPTS, dim: int = DIM) -> float:
    """Return the entropy of order 2 of n independent uniform directions: -ln E exp(-S_2)."""
    return -math.log((1 + (n - 1) / dim) / n)


EXTREMES: Final = {
    "largest: orthonormal tokens, random": orthonormal_tokens,
    "least: one random vector L times": equal_tokens,
    "largest: the same tokens in another order": same_prompts,
}


def extremes() -> list[dict[str, Any]]:
    """Return the entropies at the extremes of prompt entropy, means over draws."""
    rows = []
    for name, make in EXTREMES.items():
        generator = torch.Generator().manual_seed(0)
        found = torch.tensor([order_2(make(generator)) for _ in range(DRAWS)]).mean(0).tolist()
        words = ("prompt entropy S_2", "dataset, as printed", "dataset, divided by the trace")
        cells = {word: f"{value:.3f}" for word, value in zip(words, found, strict=True)}
        rows.append({"prompt entropy is": name} | cells)
    return rows


# --- theorem 3: InfoNCE and the entropy of the representation --------------------------------------


def groups(k: int, dim: int, *, n: int = PROMPTS) -> Tensor:
    """Return n unit vectors in k equal groups: on the axes, or on a circle where k exceeds dim."""
    if k <= dim:
        directions = torch.eye(dim, dtype=torch.float64)[:k]
    else:
        angles = 2 * math.pi * torch.arange(k, dtype=torch.float64) / k
        directions = torch.stack([angles.cos(), angles.sin()], 1)
    return directions.repeat_interleave(n // k, 0)


def infonce_and_entropies(k: int, dim: int) -> tuple[float, float, float]:
    """Return `ln N - InfoNCE`, H(Z) = ln k, and the matrix-based entropy of Z, for equal views.

    Z takes k values, each for N / k texts, so I(X; Z) = H(Z) = ln k.
    """
    vectors = groups(k, dim)
    inputs = ViewInputs(torch.stack([vectors, vectors], 1))
    bound = infonce_mi_bound(inputs, Convention.NORMALIZED, temperature=0.01)
    return bound.value, math.log(k), float(renyi_entropy(eigenvalues(vectors)))


def bounds() -> list[dict[str, Any]]:
    """Return theorem 3 for groups of texts in several and in two dimensions."""
    rows = []
    for k, dim in ((4, 64), (20, 64), (20, 2), (200, 2)):
        bound, entropy, matrix = infonce_and_entropies(k, dim)
        rows.append(
            {
                "values of Z": k, "dimensions": dim, "ln N - InfoNCE": f"{bound:.3f}",
                "H(Z)": f"{entropy:.3f}", "matrix-based S_1": f"{matrix:.3f}",
                "<= H(Z)": bound <= entropy + 1e-9, "<= S_1": bound <= matrix + 1e-9,
            }
        )  # fmt: skip
    return rows


# --- entropies of power laws ---------------------------------------------------------------------


def power_law(decay: float, size: int = SIZE) -> Tensor:
    """Return eigenvalues i ** -decay."""
    return torch.arange(1, size + 1, dtype=torch.float64) ** -decay


def share_of_first(decay: float, order: float, first: int = 10) -> float:
    """Return the share of the first eigenvalues in the sum of p ** order, which decides S_order."""
    if math.isinf(order):
        return 1.0
    weights = power_law(decay) ** order
    return float(weights[:first].sum() / weights.sum())


def orders() -> list[dict[str, float]]:
    """Return S_order of each power law: the data of the figure."""
    return [
        {
            "decay": decay, "order": order,
            "entropy": float(renyi_entropy(power_law(decay), order)),
            "share_of_first_10": share_of_first(decay, order),
        }
        for decay in DECAYS
        for order in ORDERS
    ]  # fmt: skip


# --- as the runs of cells --------------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """A cell that needs neither a model nor texts.

    Attributes:
        rows: makes its rows: metric, perturbation (of which case), value.
    """

    rows: Callable[[], list[tuple[str, str, float]]]

    def estimate(self) -> Needs:
        """Return that it takes seconds and next to no memory."""
        return Needs(10.0)

    def run(self) -> Made:
        """Compute it."""
        site = {
            "model": "",
            "data": "",
            "level": "theory",
            "layer": 0,
            "depth": 0.0,
            "stage": BLOCK,
        }
        found = [
            site | {"metric": metric, "perturbation": case, "value": value}
            for metric, case, value in self.rows()
        ]
        record = {"model": {"name": ""}, "data": {"name": ""}, "versions": versions()}
        table = conform(pd.DataFrame(found, columns=list(COLUMNS)))
        return Made(Run(table, no_contributions(), record))


def power_law_rows() -> list[tuple[str, str, float]]:
    """Return S_order of each power law, a case a decay and order."""
    return [
        ("entropy", f"decay {each['decay']:g}, order {each['order']:g}", each["entropy"])
        for each in orders()
    ]


def theorem_rows() -> list[tuple[str, str, float]]:
    """Return what the theorems say in numbers, and what is found."""
    printed, reversed_ = effective_rank_and_entropy()
    rows = [
        ("theorem 1: share of spectra", "effective rank <= exp(S_1), as printed", printed),
        ("theorem 1: share of spectra", "effective rank >= exp(S_1)", reversed_),
    ]
    for each in extremes():
        case = each.pop("prompt entropy is")
        rows += [(f"theorems 2, 5, 6: {name}", case, float(value)) for name, value in each.items()]
    for each in bounds():
        case = f"{each.pop('values of Z')} values in {each.pop('dimensions')} dimensions"
        rows += [(f"theorem 3: {name}", case, float(value)) for name, value in each.items()]
    return rows
