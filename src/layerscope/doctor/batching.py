"""Is a text's state its own, whatever stands beside it in a batch?"""

from __future__ import annotations

import inspect
from statistics import median_high
from typing import Final

import torch

from layerscope.doctor.passes import Gap, distance, gap, trace, worst
from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import Subject
from layerscope.tokenization import PaddingSide

BATCH: Final = 16
_SHORT: Final = 32


def padding(subject: Subject) -> Finding:
    """A text's tokens have the same states padded on the right, on the left, and not at all."""
    if subject.images is not None:
        return skipped("images of one size need no padding")
    if len({len(text.ids) for text in subject.ragged}) == 1:
        return skipped("one text, or all of one length: nothing to pad; give more texts")
    right, left = _padded(subject, "right"), _padded(subject, "left")
    said = f"{len(subject.ragged)} texts in one batch against each alone: right {_size(right)}, "
    if left.size > subject.tolerance >= right.size and _counts_from_the_left(subject):
        said += (
            f"left {_size(left)}, as this model counts positions from the left edge and takes no "
            f"position ids; layerscope pads on the right; {subject.allowed}"
        )
        return judged(True, said, "")
    found = right | left
    said += f"left {_size(left)}; {subject.allowed}"
    advice = (
        "the attention mask or the position ids do not reach the attention; check the model's code, and "
        "that the tokenizer pads with the id that the model's config names"
    )
    return judged(found.size <= subject.tolerance, said, advice)


def _padded(subject: Subject, side: PaddingSide) -> Gap:
    pairs = zip(subject.extracted(together=BATCH, side=side), subject.truth, strict=True)
    return worst(gap(together, alone) for together, alone in pairs)


def _counts_from_the_left(subject: Subject) -> bool:
    """Whether left padding moves the positions of a model that cannot be told them.

    Its embeddings then differ before any attention, so it is not the mask.
    """
    if "position_ids" in inspect.signature(subject.backbone.model.forward).parameters:
        return False
    pairs = zip(subject.extracted(together=BATCH, side="left"), subject.truth, strict=True)
    return any(distance(moved[0], alone[0]) > subject.tolerance for moved, alone in pairs)


def _size(found: Gap) -> str:
    return "equal" if found.size == 0 else f"{found.size:.1e}"


def batch_size(subject: Subject) -> Finding:
    """A sample's states are the same alone and among 16."""
    if subject.images is not None:
        samples = [sample["pixel_values"] for sample in subject.samples]
        name = "pixel_values"
    else:
        length = min(_SHORT, median_high(len(text.ids) for text in subject.whole))
        longer = [text.ids[:length] for text in subject.whole if len(text.ids) >= length]
        samples = [subject.alone(ids)["input_ids"] for ids in longer]
        name = "input_ids"
    rows = [samples[place % len(samples)] for place in range(BATCH)]
    together = trace(subject.backbone, {name: torch.cat(rows)})
    alone = [
        trace(subject.backbone, {name: sample}).states(subject.backbone)
        for sample in samples[:BATCH]
    ]
    found = worst(
        gap(together.states(subject.backbone, row), alone[row % len(samples)])
        for row in range(BATCH)
    )
    said = (
        f"{BATCH} samples of one length together against each alone: {subject.place(found)}; "
        f"{subject.allowed}"
    )
    advice = (
        "what else is in a batch changes a text's states: look for batch statistics, a capacity shared "
        "among experts, or code that mixes rows; until then, run with one text a batch"
    )
    return judged(found.size <= subject.tolerance, said, advice)
