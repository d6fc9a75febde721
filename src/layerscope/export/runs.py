"""The error that maps in place of runs of blocks leave, for all runs from one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.export.patches import device_of, refuse_few
from layerscope.export.shorten import refuse_quantized
from layerscope.metrics.healing import Moments, fit, token_weights
from layerscope.models.backbone import Backbone, non_finite_states
from layerscope.models.residual import Writer, writer_of
from layerscope.states.extract import Progress, Site, TokenStates, batches, extract
from layerscope.states.written import Form, Tap, Written

_GOALS: Final = 64  # random directions in which a run's error is estimated
_RIDGE: Final = 0.03


def left_by_runs(
    backbone: Backbone,
    eligible: Collection[int],
    longest: int,
    texts: Sequence[TokenizedText],
    budget: int,
    progress: Progress,
) -> dict[tuple[int, int], float]:
    """Return (first block, blocks) of runs -> the mean squared error that a map in their place leaves.

    The error of a token counts as a share of its length before the run, so that all runs from one block
    share one Gram matrix; it is estimated in 64 random directions. So a block takes dim (dim + 64 n)
    numbers, n the blocks of the longest run, and not n dim^2.

    Args:
        backbone: the full model.
        eligible: the blocks that may go.
        longest: most blocks of a run.
        texts: to measure on.
        budget: padded tokens in one forward pass.
        progress: called with stage, done and total.

    Raises:
        InputError: no block takes a map, weights are packed, or texts are too few.
        NonFiniteError: states are NaN or infinite.
    """
    refuse_quantized(backbone)
    writers = _writers(backbone, eligible)
    refuse_few(backbone, writers.values(), texts)
    sums = _Sums(backbone, writers, longest)
    marks = [[True] * len(text.ids) for text in texts]
    sites = [Site(layer) for layer in range(min(writers), backbone.depth + 1)]
    done = 0
    with sums:
        for result in extract(backbone, batches(backbone, texts, marks, budget), sites, sums.read):
            progress("fitting maps", done, len(texts))
            done += len(result.items)
    progress("fitting maps", len(texts), len(texts))
    return sums.errors(eligible)


def _writers(backbone: Backbone, eligible: Collection[int]) -> Mapping[int, Writer]:
    """Return where blocks before eligible ones write, of those in which a map can be folded."""
    found: dict[int, Writer] = {}
    refusals: list[InputError] = []
    for block in sorted({block - 1 for block in eligible} - {0}):
        try:
            found[block] = writer_of(backbone, block)
        except InputError as error:
            refusals.append(error)
    if not found and refusals:
        raise refusals[0]
    if not found:
        raise InputError("no block may go that has one before it to be healed in; lower --protect.")
    return found


class _Sums:
    """Moments of every block that takes a map, with the goals of all runs after it side by side."""

    def __init__(self, backbone: Backbone, writers: Mapping[int, Writer], longest: int) -> None:
        self.backbone, self.writers, self.longest = backbone, writers, longest
        dim, device = backbone.info.dim, device_of(backbone)
        self.goals = min(dim, _GOALS)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(dim, self.goals, generator=generator, dtype=torch.float64)
        self.directions = (torch.linalg.qr(drawn).Q * (dim / self.goals) ** 0.5).to(device)
        self.moments = {
            block: Moments(dim, self._runs(block) * self.goals, offset=each.offset, device=device)
            for block, each in writers.items()
        }
        self.taps = {
            block: Tap(backbone.blocks[block - 1], each) for block, each in writers.items()
        }
        self.written: dict[int, tuple[Written, Tensor]] = {}
        self.seen: dict[int, Tensor] = {}
        self.stack = ExitStack()

    def _runs(self, block: int) -> int:
        return min(self.longest, self.backbone.depth - block)

    def __enter__(self) -> _Sums:
        for tap in self.taps.values():
            self.stack.enter_context(tap)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def read(self, tokens: TokenStates) -> None:
        """Keep what a layer has, and add a block to its moments once all goals of its runs are seen."""
        layer = tokens.site.layer
        states = tokens.states[tokens.real]
        self.seen[layer] = states.to(self.directions.device).double() @ self.directions
        if layer in self.writers:
            self.written[layer] = self.taps[layer].read(tokens), token_weights(states)
        for block in [each for each in self.written if each + self._runs(each) == layer]:
            written, weights = self.written.pop(block)
            after = range(block + 1, layer + 1)
            wanted = torch.cat([self.seen[each] - self.seen[block] for each in after], dim=1)
            writer = self.writers[block]
            form: Form = "full" if writer.linear else "diagonal"
            self.moments[block].add(*written.regression(writer, form, wanted, weights))
        for old in [each for each in self.seen if each <= layer - self.longest]:
            del self.seen[old]

    def errors(self, eligible: Collection[int]) -> dict[tuple[int, int], float]:
        """Return what maps leave of every run of eligible blocks."""
        found: dict[tuple[int, int], float] = {}
        for block, sums in self.moments.items():
            if not sums.finite:
                raise non_finite_states(self.backbone, f" after block {block}")
            errors: Any = sums.errors(fit(sums, _RIDGE)).reshape(-1, self.goals).sum(dim=1)
            errors = errors * sums.weight / sums.tokens
            for length, error in enumerate(errors.tolist(), start=1):
                if set(range(block + 1, block + length + 1)) <= set(eligible):
                    found[block + 1, length] = error
        return found
