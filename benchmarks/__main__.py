"""`python -m benchmarks`: every figure that the project claims, measured here and now.

Ratios are of runs that alternate in one process; seconds depend on the machine and its neighbors.
Name some of the benchmarks to run only those: `python -m benchmarks startup memory`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import torch

from benchmarks import (
    dynamics,
    evaluation,
    memory,
    overhead,
    passes,
    precision,
    pruning,
    ranking,
    rules,
    scans,
    shipping,
    startup,
)

BENCHMARKS: dict[str, tuple[str, Callable[[], str]]] = {
    "startup": ("Start-up", startup.main),
    "precision": ("Precision of the spectra", precision.main),
    "overhead": ("Measures beside the bare forward pass", overhead.main),
    "passes": ("Shared passes against a pass for each measure", passes.main),
    "memory": ("Memory", memory.main),
    "dynamics": ("Measures of several layers", dynamics.main),
    "evaluation": ("Every layer on mteb's tasks", evaluation.main),
    "prune": ("Which rule drops the right blocks", pruning.main),
    "rank": ("Models ranked without labels", ranking.main),
    "rules": ("Which rule chooses the layer", rules.main),
    "scans": ("Measures of several layers of real models", scans.main),
    "shipping": ("Cut and pruned models beside the full ones", shipping.main),
}


def main(names: list[str]) -> None:
    """Run some benchmarks, all by default, and print their tables."""
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    for name in names or list(BENCHMARKS):
        title, run = BENCHMARKS[name]
        print(f"## {title}\n\n{run()}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
