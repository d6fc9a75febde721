"""What the dynamics family costs on one thread: all of it, its growth, and GFMI on many samples.

Run: `python -m benchmarks dynamics` (about 10 minutes), or `python -m benchmarks.dynamics --quick`.
Layers are synthetic: a spectrum that decays like that of hidden states, moving smoothly over depth.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from layerscope.metrics import filtration
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.geometry import LayerStack
from layerscope.metrics.pairs import Pairs


def synthetic(layers: int, samples: int, dim: int) -> list[Tensor]:
    """Return float32 vectors (sample, dim) of layers that turn a little from one to the next."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, dim + 1) ** -0.5
    rows = torch.randn(samples, dim, generator=generator) * scales
    found = []
    for _ in range(layers):
        found.append(rows)
        turn = torch.randn(dim, dim, generator=generator) / math.sqrt(dim)
        rows = rows + 0.5 * torch.tanh(rows @ turn)
    return found


def family(layers: Sequence[Tensor]) -> None:
    """Compute every measure of the family with its limits, as a scan does."""
    stack = LayerStack(layers.__getitem__, len(layers))
    for measure in CATALOGUE:
        if measure.level == "pair":
            measure.function(stack)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def many_samples(samples: int = 20_000, dim: int = 384) -> tuple[float, float]:
    """Return CPU seconds of GFMI by edges of a layer, and the GiB above the input at its peak."""
    one, other = synthetic(2, samples, dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    final = filtration.filtration(Pairs(other))
    middle = time.process_time()
    layer = filtration.filtration(Pairs(one))
    filtration.gfmi_edge(filtration.joint_counts(layer, final))
    taken = time.process_time() - middle
    return taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def main(sizes: Sequence[int] = (1000, 2000, 4000, 8000), *, quick: bool = False) -> str:
    """Return the figures, of one thread.

    Args:
        sizes: numbers of samples for the whole family.
        quick: leave out GFMI at many samples.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # Many samples first, as the peak memory of a process never falls.
    lines = []
    if not quick:
        taken, gigabytes = many_samples()
        lines.append(f"gfmi_edge, N = 20,000, D = 384: {taken:.1f} CPU s, {gigabytes:.2f} GiB more")
    times = []
    for samples in sizes:
        layers = synthetic(13, samples, 768)
        processor = time.process_time()
        times.append(seconds(lambda layers=layers: family(layers)))
        processor = time.process_time() - processor
        lines.append(
            f"whole family, 13 layers, N = {samples:,}, D = 768: {times[-1]:.1f} s "
            f"({processor:.1f} s of processor time)"
        )
    if len(sizes) > 1:
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        lines.append(f"growth from N = {sizes[0]:,} to {sizes[-1]:,}: N^{slope:.2f}")
    torch.set_num_threads(before)
    return "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the whole family at N = 2,000 only")
    given = parser.parse_args()
    print(main((2000,), quick=True) if given.quick else main())
