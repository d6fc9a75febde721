"""What a scan would take, measured on one batch of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from layerscope.analysis import run_pass
from layerscope.models import Backbone
from layerscope.preparation import Prepared
from layerscope.store import StateStore


@dataclass(frozen=True)
class Estimates:
    """What a scan would take.

    Attributes:
        texts: texts that would be measured.
        forward_passes: texts and views that would go through the model.
        tokens: their tokens, padding not counted.
        sites: places in the model that would be read.
        pass_seconds: time of the one pass, extrapolated from one batch by its tokens.
        memory_bytes: weights, one batch's states at one layer, and vectors waiting for the disk.
        disk_bytes: pooled vectors while the scan runs; the finished run is far smaller.
    """

    texts: int
    forward_passes: int
    tokens: int
    sites: int
    pass_seconds: float
    memory_bytes: int
    disk_bytes: int


def estimate(backbone: Backbone, prepared: Prepared) -> Estimates:
    """Time one batch of typical texts, and count the rest."""
    tokens = [len(text.ids) for text in prepared.texts]
    order = np.argsort(tokens[: prepared.plain])
    budget = prepared.settings.batch_tokens
    typical = order[len(order) // 2 :][: max(1, budget // max(1, tokens[order[len(order) // 2]]))]
    finished = set(range(len(tokens))) - set(typical.tolist())
    seconds = 0.0
    for _ in range(2):  # the first run warms up
        store = _Elsewhere(finished)
        started = time.perf_counter()
        run_pass(backbone, prepared, store)
        seconds = time.perf_counter() - started
        store.close()
    kinds = 2 if prepared.reference else 1
    vectors = len(tokens) * len(prepared.sites) * backbone.info.dim * 4 * kinds
    weights = sum(p.numel() * p.element_size() for p in backbone.model.parameters())
    states = max(budget, max(tokens)) * backbone.info.dim * 8 * 6
    return Estimates(
        texts=prepared.plain,
        forward_passes=len(tokens),
        tokens=sum(tokens),
        sites=len(prepared.sites),
        pass_seconds=seconds * sum(tokens) / sum(tokens[i] for i in typical),
        memory_bytes=weights + states + min(vectors, StateStore.BUDGET),
        disk_bytes=vectors,
    )


class _Elsewhere(StateStore):
    """A store that takes everything but one batch for done."""

    def __init__(self, done: set[int]) -> None:
        super().__init__()
        self._done = done

    def finished(self) -> set[int]:
        return self._done
