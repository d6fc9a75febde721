"""What the dynamics family costs on one thread: all of it, its growth, and GFMI on many samples.

Run: `python benchmarks/dynamics.py` (about 10 minutes; `--quick` leaves out all but the first).
Layers are synthetic: a spectrum that decays like that of hidden states, moving smoothly over depth.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.metrics import filtration, neighbors, similarity, subspaces
from layerscope.metrics.geometry import LayerGeometry, frenet_error, known, layer_geometry
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
    final = layer_geometry(layers[-1], components=True)
    rest = [layer_geometry(rows, final, components=True) for rows in layers[:-1]]
    geometry = [*rest, final]
    between(geometry)
    for rows, following in pairwise(layers):
        similarity.procrustes_angle(rows, following)
        similarity.angular_distance(rows, following)


def between(geometry: Sequence[LayerGeometry]) -> None:
    """Compute what takes two layers or more."""
    frames = [layer.frame for layer in geometry]
    for k in (16, 32, 64):
        path = subspaces.frenet(frames, k)
        frenet_error(geometry, path.k)
        for layer in geometry:
            subspaces.noise_floor(layer.halves, path.k)
    for space in subspaces.Space:
        subspaces.frenet(frames, 32, space)
        subspaces.grassmann_distances(frames, 32, space)
    lists = [known(layer.cosine) for layer in geometry]
    for k in (5, 10, 20, 50):
        neighbors.mutual_neighbors(lists, k)
    last = geometry[-1]
    for layer in geometry:
        filtration.gfmi_edge(known(layer.joint))
        filtration.gfmi_knn(known(layer.cosine), known(last.cosine))
        filtration.gfmi_component(
            known(_there(layer.tree)),
            known(_there(last.tree)),
            known(layer.thresholds),
            known(last.thresholds),
        )
        distances = known(layer.euclidean)
        neighbors.two_nn(distances)
        neighbors.gride(distances, 16)
        neighbors.levina_bickel(distances)
    similarity.cka_matrix([layer.kernel for layer in geometry])


def _there(part: Any) -> Any:
    assert part is not None
    return part


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def many_samples(samples: int = 20_000, dim: int = 384) -> None:
    """Print the time of GFMI by edges at many samples, and its memory above the input."""
    one, other = synthetic(2, samples, dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    final = filtration.filtration(Pairs(other))
    middle = time.perf_counter()
    layer = filtration.filtration(Pairs(one))
    value = filtration.gfmi_edge(filtration.joint_counts(layer, final))
    end = time.perf_counter()
    above = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(
        f"gfmi_edge, N = {samples:,}, D = {dim}: {value:.6f} in {end - middle:.1f} s "
        f"(final layer {middle - start:.1f} s), {above:.2f} GiB above the input"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the whole family at N = 2,000 only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread")
    if not arguments.quick:
        many_samples()  # first, as the peak memory of a process never falls
    sizes = [2000] if arguments.quick else [1000, 2000, 4000, 8000]
    times = []
    for samples in sizes:
        layers = synthetic(13, samples, 768)
        processor = time.process_time()
        times.append(seconds(lambda layers=layers: family(layers)))
        processor = time.process_time() - processor
        print(
            f"whole family, 13 layers, N = {samples:,}, D = 768: {times[-1]:.1f} s "
            f"({processor:.1f} s of processor time)",
            flush=True,
        )
    if len(sizes) > 1:
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        print(f"growth from N = {sizes[0]:,} to {sizes[-1]:,}: N^{slope:.2f}")


if __name__ == "__main__":
    main()
