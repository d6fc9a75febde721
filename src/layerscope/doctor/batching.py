"""Is a text's state its own, whatever stands beside it in a batch?"""

from __future__ import annotations

from statistics import median_high
from typing import Final

import torch

from layerscope.doctor.passes import NO_GAP, Gap, gap, trace, worst
from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import Subject
from layerscope.tokenization import PaddingSide

BATCH: Final = 16
_SHORT: Final = 32


def padding(subject: Subject) -> Finding:
    """A text's tokens have the same states alone and in the batches that layerscope makes."""
    if subject.images is not None:
        return skipped("images of one size need no padding")
    if len({len(text.ids) for text in subject.ragged}) == 1:
        return skipped("one text, or all of one length: nothing to pad; give more texts")
    advice = (
        "the attention mask or the position ids do not reach the attention; check the model's code, and "
        "that the tokenizer pads with the id that the model's config names"
    )
    texts = f"{len(subject.ragged)} texts"
    if subject.backbone.padding == "none":
        found = _padded(subject, "right")
        said = (
            f"{texts} in batches of one length against each alone: {_size(found)}, as padding changes "
            f"the states of {subject.backbone.info.model_class}; {subject.allowed}"
        )
        return judged(found.size <= subject.tolerance, said, advice)
    right, left = _padded(subject, "right"), _padded(subject, "left")
    said = f"{texts} in one batch against each alone: right {_size(right)}, left {_size(left)}"
    if subject.backbone.padding == "right":
        said += (
            ", as this architecture has other states behind padding; layerscope pads on the right"
        )
        left = NO_GAP
    found = right | left
    return judged(found.size <= subject.tolerance, f"{said}; {subject.allowed}", advice)


def _padded(subject: Subject, side: PaddingSide) -> Gap:
    pairs = zip(subject.extracted(together=BATCH, side=side), subject.truth, strict=True)
    return worst(gap(together, alone) for together, alone in pairs)


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
