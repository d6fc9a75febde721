"""New weights for blocks before removed ones: fitted in passes over texts, put in for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from layerscope.config import Pooling
from layerscope.data.tokens import TokenBatch, TokenizedText
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

_CHUNK: Final = 8192  # tokens whose goals are in memory at once


@dataclass(frozen=True)
class Patch:
    """The new weights of a block that heals the run of removed blocks after it.

    Attributes:
        block: its number in the full model, from 1.
        goal: the layer of the full model whose states its output is fitted to.
        module: path in it of the module whose weights change.
        form: whether the map is full or diagonal.
        ridge: by which it was fitted.
        left: the share of the squared error that is left behind the run, on held-out tokens.
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
    texts: HealingTexts,
) -> list[Patch]:
    """Return the best map of a step: of a plain block one, behind a norm one of each form."""
    dim, device = backbone.info.dim, device_of(backbone)
    forms = _forms(writer)
    moments = [
        {form: Moments(dim, offset=writer.offset, device=device) for form in forms}
        for _ in range(2)
    ]
    for part, sums in zip((texts.fit, texts.held_out), moments, strict=True):
        for written, goal in _passed(backbone, step, removed, writer, patches, part, texts.budget):
            wanted, weights = goal - written.left, token_weights(goal)
            for form in forms:
                sums[form].add(*written.regression(writer, form, wanted, weights))
        if not all(each.finite for each in sums.values()):
            raise non_finite_states(backbone, f" behind block {step.block}")
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
    texts: Sequence[TokenizedText],
    budget: int,
) -> Iterator[tuple[Written, Tensor]]:
    """Yield, batch by batch, what a block writes and what the full model has at the goal."""
    gone = [block for block in removed if block < step.block]
    place = step.block - len(gone)
    marks = [[True] * len(text.ids) for text in texts]
    after, site = Site(step.goal), Site(place)
    if not gone and not patches:  # the model is the full one so far, and one pass gives both
        with Tap(backbone.blocks[place - 1], writer) as tap:

            def read(tokens: TokenStates) -> Any:
                return (
                    tap.read(tokens) if tokens.site == site else tokens.states[tokens.real].clone()
                )

            for both in extract(
                backbone, batches(backbone, texts, marks, budget), (site, after), read
            ):
                yield both.by_site[site], both.by_site[after]
        return
    for chunk in _chunks(batches(backbone, texts, marks, budget)):
        goals: dict[int, Tensor] = {}
        for result in extract(backbone, chunk, (after,), _real_states):
            goals |= dict(zip(result.items, result.by_site[after], strict=True))
        with (
            healed(backbone, gone, patches) as student,
            Tap(student.blocks[place - 1], writer) as tap,
        ):
            for came in extract(student, chunk, (site,), tap.read):
                yield came.by_site[site], torch.cat([goals[item] for item in came.items])


def _chunks(planned: Iterable[TokenBatch]) -> Iterator[list[TokenBatch]]:
    chunk: list[TokenBatch] = []
    for batch in planned:
        chunk.append(batch)
        if sum(each.ids.numel() for each in chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _real_states(tokens: TokenStates) -> list[Tensor]:
    return [states[real].clone() for states, real in zip(tokens.states, tokens.real, strict=True)]
