"""`python -m benchmarks`: every figure that the project claims, measured here and now.

Ratios are of runs that alternate in one process; seconds depend on the machine and its neighbors.
Name some of the benchmarks to run only those: `python -m benchmarks startup memory`. `architectures`
takes names of architectures as well: `python -m benchmarks architectures --only llama --only bert`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence

import torch

from benchmarks import (
    architectures,
    coverage,
    dynamics,
    evaluation,
    healing_tables,
    memory,
    overhead,
    passes,
    precision,
    pruning,
    ranking,
    readouts,
    rules,
    scans,
    shipping,
    speed,
    startup,
    studies,
    theory,
    views,
    vision,
)

BENCHMARKS: dict[str, tuple[str, Callable[[], str]]] = {
    "architectures": ("What works on which architecture", architectures.main),
    "speed": ("What commands cost, with limits", speed.main),
    "startup": ("Start-up", startup.main),
    "precision": ("Precision of the spectra", precision.main),
    "overhead": ("Measures beside the bare forward pass", overhead.main),
    "passes": ("Shared passes against a pass for each measure", passes.main),
    "memory": ("Memory", memory.main),
    "coverage": ("How often limits hold what they should", coverage.main),
    "dynamics": ("Measures of several layers", dynamics.main),
    "evaluation": ("Every layer on mteb's tasks", evaluation.main),
    "heal": ("What healing gives back", healing_tables.main),
    "prune": ("Which rule drops the right blocks", pruning.main),
    "rank": ("Models ranked without labels", ranking.main),
    "readouts": ("Readouts on labelled tasks", readouts.main),
    "rules": ("Which rule chooses the layer", rules.main),
    "scans": ("Measures of several layers of real models", scans.main),
    "vision": ("Models of images", vision.main),
    "views": ("Shorter copies of fewer texts", views.main),
    "shipping": ("Cut and pruned models beside the full ones", shipping.main),
    "studies": ("Studies of the papers", studies.main),
    "theory": ("Theorems and entropy orders", theory.main),
}


def main(names: Sequence[str], only: Sequence[str]) -> None:
    """Run some benchmarks, all by default, and print their tables."""
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}\n")
    for name in names or list(BENCHMARKS):
        title, run = BENCHMARKS[name]
        found = architectures.main(only) if name == "architectures" else run()
        print(f"## {title}\n\n{found}\n", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--only", action="append", default=[], help="an architecture to measure again"
    )
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    main(given.names, given.only)
