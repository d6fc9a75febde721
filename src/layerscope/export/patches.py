"""New weights for blocks before removed ones: fitted in passes over texts, put in for a while."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from layerscope.config import Pooling
from layerscope.data.tokens import TokenizedText
from layerscope.export.trial import without
from layerscope.metrics.healing import (
    LinearMap,
    Moments,
    best_fit,
    refuse_few_tokens,
    token_weights,
)
from layerscope.models.backbone import Backbone, non_finite_states
from layerscope.models.residual import Writer, fold_weights, folded
from layerscope.states.encode import TokenPolicy
from layerscope.states.extract import Site, TokenStates, batches, extract
from layerscope.states.written import Form, Tap, Written


@dataclass(frozen=True)
class Patch:
    """The new weights of a block that heals the run of removed blocks after it.

    Attributes:
        block: its number in the full model, from 1.
        goal: the layer of the full model whose states its output is fitted to.
        module: path in it of the module whose weights change.
        form: whether the map is full or diagonal.
        ridge: by which it was fitted.
        left: the share of the squared error that is left after the run, on held-out tokens.
        weights: the new weights, by their names in the block.
    """

    block: int
    goal: int
    module: str
    form: Form
    ridge: float
    left: float
    weights: Mapping[str, Tensor] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {name: value for name, value in vars(self).items() if name != "weights"}


@dataclass(frozen=True)
class Step:
    """One block to fit anew: its number, and the layer of the full model that its output should be."""

    block: int
    goal: int


@dataclass(frozen=True)
class HealingTexts:
    """Texts that maps are fitted on, and others to choose by.

    Attributes:
        fit: to fit on.
        held_out: to choose ridge and form by, and to judge by.
        budget: padded tokens in one forward pass.
        policy: which tokens count in a text's vector.
        pooling: token states -> a text's vector.
    """

    fit: tuple[TokenizedText, ...]
    held_out: tuple[TokenizedText, ...]
    budget: int
    policy: TokenPolicy
    pooling: Pooling


class Goals:
    """States of the full model that maps bring the model without blocks back to.

    They are on disk, so that memory does not grow with the texts.

    Attributes:
        texts: whose tokens they are of.
        layers: of the full model.
    """

    def __init__(self, texts: Sequence[TokenizedText], layers: Iterable[int], dim: int) -> None:
        self.texts, self.layers, self.dim = tuple(texts), tuple(layers), dim
        self._ends = list(accumulate(len(text.ids) for text in texts))
        self._states: dict[int, Any] = {}
        self._room = tempfile.TemporaryDirectory(prefix="layerscope-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._states.clear()
        self._room.cleanup()

    @property
    def known(self) -> bool:
        """Whether the full model's states are there, or are being read."""
        return bool(self._states)

    def keep(self, layer: int, items: Iterable[int], states: Tensor) -> None:
        """Keep the states (token, dim) of texts, one text after the other."""
        rows = states.cpu().numpy()
        if layer not in self._states:
            file = Path(self._room.name) / f"{layer}.npy"
            self._states[layer] = open_memmap(file, "w+", rows.dtype, (self._ends[-1], self.dim))
        self._states[layer][self._rows(items)] = rows

    def of(self, layer: int, items: Iterable[int]) -> Tensor:
        """Return the states (token, dim) of texts, one text after the other."""
        return torch.from_numpy(self._states[layer][self._rows(items)])

    def _rows(self, items: Iterable[int]) -> Any:
        spans = [np.arange(self._ends[item] - len(self.texts[item].ids), self._ends[item])
                 for item in items]  # fmt: skip
        return np.concatenate(spans)


def refuse_few(
    backbone: Backbone, writers: Iterable[Writer], texts: Iterable[TokenizedText]
) -> None:
    """Raise an InputError if texts have fewer tokens than a map of one of the blocks has rows."""
    rows = backbone.info.dim + max(writer.offset for writer in writers)
    refuse_few_tokens(sum(len(text.ids) for text in texts), rows)


def runs_of(removed: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Return removed blocks as runs of consecutive ones.

    >>> runs_of([7, 3, 4])
    ((3, 4), (7,))
    """
    runs: list[list[int]] = []
    for block in sorted(removed):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return tuple(map(tuple, runs))


@contextmanager
def healed(
    backbone: Backbone, removed: Iterable[int], patches: Iterable[Patch] = ()
) -> Iterator[Backbone]:
    """Run the model without some blocks and with patches in their place, then restore it exactly."""
    with patched(backbone, patches), without(backbone, removed) as shorter:
        yield shorter


@contextmanager
def patched(backbone: Backbone, patches: Iterable[Patch]) -> Iterator[Backbone]:
    """Run the model with the weights of patches, then restore its own."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(folded(backbone.blocks[patch.block - 1], patch.weights))
        yield backbone


def fitted_patches(
    backbone: Backbone,
    step: Step,
    removed: Sequence[int],
    writer: Writer,
    patches: Sequence[Patch],
    goals: tuple[Goals, Goals],
    budget: int,
) -> list[Patch]:
    """Return the best map of a step: of a plain block one, before a norm one of each form.

    Args:
        backbone: the full model.
        step: which block, and what its output should be.
        removed: blocks.
        writer: of the block.
        patches: of the runs before it.
        goals: of the texts to fit on, and of those to choose by.
        budget: padded tokens in one forward pass.
    """
    dim, device = backbone.info.dim, device_of(backbone)
    forms = _forms(writer)
    moments = [
        {form: Moments(dim, offset=writer.offset, device=device) for form in forms}
        for _ in range(2)
    ]
    for part, sums in zip(goals, moments, strict=True):
        for written, goal in _passed(backbone, step, removed, writer, patches, part, budget):
            goal = goal.to(written.left.device)
            wanted, weights = goal - written.left, token_weights(goal)
            for form in forms:
                sums[form].add(*written.regression(writer, form, wanted, weights))
        if not all(each.finite for each in sums.values()):
            raise non_finite_states(backbone, f" after block {step.block}")
    block = backbone.blocks[step.block - 1]
    found = []
    for form in forms:
        fitted, held_out = (sums[form] for sums in moments)
        choices = [best_fit(fitted, held_out, diagonal=form == "diagonal")]
        if len(forms) == 1:
            choices.append(best_fit(fitted, held_out, diagonal=True))
        best = min(choices, key=held_out.left)
        changed = _weights(block, writer, best, form)
        module = writer.linear if form == "full" else writer.norm
        found.append(
            Patch(step.block, step.goal, module, "diagonal" if best.diagonal else "full", best.ridge,
                  held_out.left(best), changed)
        )  # fmt: skip
    return found


def _forms(writer: Writer) -> tuple[Form, ...]:
    """Return what is fitted: through a norm, a full map is seen by its first order only."""
    if writer.kind == "plain":
        return ("full",)
    return ("full", "diagonal") if writer.linear else ("diagonal",)


def _weights(block: Any, writer: Writer, best: LinearMap, form: Form) -> dict[str, Tensor]:
    if writer.kind == "plain" or form == "diagonal":
        return fold_weights(block, writer, best.matrix, best.offset)
    norm: Any = block.get_submodule(writer.norm)
    gain = (norm.weight.detach().double() + writer.shift).to(best.change.device)
    inverse = gain / (gain.square() + 1e-6 * gain.square().mean())
    matrix = torch.eye(len(gain)).to(best.change) + best.change * inverse
    offset = None if best.offset is None else best.offset * inverse
    return fold_weights(block, writer, matrix, offset, linear=True)


def device_of(backbone: Backbone) -> torch.device:
    """Return the device that sums moments: some accelerators have no float64."""
    device = next(backbone.blocks[0].parameters()).device
    return device if device.type == "cuda" else torch.device("cpu")


def _passed(
    backbone: Backbone,
    step: Step,
    removed: Sequence[int],
    writer: Writer,
    patches: Sequence[Patch],
    part: Goals,
    budget: int,
) -> Iterator[tuple[Written, Tensor]]:
    """Yield, batch by batch, what a block writes and what the full model has at the goal."""
    gone = [block for block in removed if block < step.block]
    site = Site(step.block - len(gone))
    marks = [[True] * len(text.ids) for text in part.texts]
    # Until something is changed, the model is the full one, and one pass gives the goals as well.
    goals = () if part.known else tuple(map(Site, part.layers))
    with (
        healed(backbone, gone, patches) as student,
        Tap(student.blocks[site.layer - 1], writer) as tap,
    ):

        def read(tokens: TokenStates) -> Any:
            return tap.read(tokens) if tokens.site == site else tokens.states[tokens.real].clone()

        planned = batches(backbone, part.texts, marks, budget)
        for came in extract(student, planned, (site, *goals), read):
            for goal in goals:
                part.keep(goal.layer, came.items, came.by_site[goal])
            yield came.by_site[site], part.of(step.goal, came.items)
