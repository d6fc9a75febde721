"""Checks of numbers: batching, padding, the range of the dtype, constant layers, memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median_high
from typing import Final

import torch
from torch import Tensor, nn

from layerscope.data.tokens import PaddingSide
from layerscope.diagnosis.results import Finding, LayerFacts, judged, skipped
from layerscope.diagnosis.subject import Subject
from layerscope.diagnosis.trace import NO_GAP, Gap, gap, trace, worst

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
            ", as this architecture has other states after padding; layerscope pads on the right"
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


_DEAD = 1e-6  # tokens that differ by less, as a share of the largest state, are equal
_IDLE = 1e-3  # a block that changes its tokens by less is reported


def facts(subject: Subject) -> tuple[LayerFacts, ...]:
    """Return numbers of each layer, the final norm last."""
    depth = subject.backbone.depth
    layers = [torch.cat(states) for states in zip(*subject.truth, strict=True)]
    changes = [None, *(_change(*pair) for pair in pairwise(layers[: depth + 1])), None]
    return tuple(
        LayerFacts(
            layer=min(place, depth),
            stage="block" if place <= depth else "final_norm",
            largest=_largest(state),
            finite=bool(state.isfinite().all()),
            change=changes[place],
            spread=_spread(state),
            weights=weight_of(subject.backbone.blocks[place - 1]) if 1 <= place <= depth else None,
        )
        for place, state in enumerate(layers)
    )


def _largest(state: Tensor) -> float | None:
    finite = state[state.isfinite()]
    return float(finite.abs().max()) if finite.numel() else None


def _spread(state: Tensor) -> float | None:
    if not bool(state.isfinite().all()):
        return None
    size = _largest(state)
    if not size:
        return 0.0
    return float((state.amax(dim=0) - state.amin(dim=0)).max()) / size


def _change(before: Tensor, after: Tensor) -> float | None:
    """Return the median over tokens of |after - before| / |before|."""
    sizes = before.norm(dim=-1)
    shares = ((after - before).norm(dim=-1) / sizes)[sizes > 0]
    return float(shares.median()) if shares.numel() and bool(shares.isfinite().all()) else None


def number_range(subject: Subject) -> Finding:
    """Every state is finite and fits the dtype that the model runs in."""
    info = subject.backbone.info
    found = facts(subject)
    broken = [fact for fact in found if not fact.finite]
    if broken:
        places = ", ".join(_name(fact) for fact in broken[:4])
        said = f"NaN or infinity in {len(broken)} of {len(found)} layers ({places}) in {info.dtype}"
        return judged(False, said, "run it with --dtype float32, or bfloat16 if it was trained so")
    top = max(found, key=lambda fact: fact.largest or 0.0)
    size = top.largest or 0.0
    limits = {name: torch.finfo(getattr(torch, name)).max for name in _formats(info.dtype)}
    holds = ", ".join(f"{name} {_words(limit)}" for name, limit in limits.items())
    said = f"largest |state| {_words(size)} ({_name(top)}); the formats hold: {holds}"
    if over := [_name(fact) for fact in found if (fact.largest or 0.0) > limits["float16"]]:
        said += f"; float16 would overflow from {over[0]} on ({len(over)} of {len(found)})"
    return judged(size <= limits[info.dtype], said, "run it with --dtype float32")


def _formats(dtype: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((dtype, "bfloat16", "float16")))


def _words(size: float) -> str:
    return f"{size:,.0f}" if 1e3 <= size < 1e7 else f"{size:.3g}"


def _name(fact: LayerFacts) -> str:
    return f"layer {fact.layer}" if fact.stage == "block" else "the final norm"


def constant_layers(subject: Subject) -> Finding:
    """No layer is zero or the same for every token, and no block returns its input unchanged."""
    found = facts(subject)
    dead = [fact for fact in found if fact.spread is not None and fact.spread <= _DEAD]
    if dead:
        kind = "zero" if not dead[0].largest else "the same for every token of every text"
        said = f"{_name(dead[0])} is {kind}, and {len(dead) - 1} more"
        return judged(False, said, "a weight is lost or zeroed there; get the checkpoint anew")
    layers = [torch.cat(states) for states in zip(*subject.truth, strict=True)]
    pairs = enumerate(pairwise(layers[: subject.backbone.depth + 1]), start=1)
    idle = [number for number, (before, after) in pairs if torch.equal(before, after)]
    if idle:
        said = f"block {idle[0]} gives exactly what it takes, and {len(idle) - 1} more do"
        advice = "the block does nothing: its weights are zero, or it was disabled; cut or prune it"
        return judged(False, said, advice)
    changes = {fact.layer: fact.change for fact in found if fact.change is not None}
    least = min(changes, key=lambda layer: changes[layer])
    faint = f" (below {_IDLE:g}, hardly anything)" if changes[least] < _IDLE else ""
    said = (
        f"tokens differ in every layer and no block gives back what it took; the one that changes its "
        f"tokens least is block {least}, by {changes[least]:.2g} of their norm{faint}"
    )
    return judged(True, said, "")


def memory(subject: Subject) -> Finding:
    """Every block has weights in memory, and their size is known."""
    backbone = subject.backbone
    sizes = [weight_of(block) for block in backbone.blocks]
    distinct = dict.fromkeys(backbone.blocks)
    rest = weight_of(backbone.model) - sum(weight_of(block) for block in distinct)
    away = sum(weight.is_meta for weight in backbone.model.parameters())
    element = next(backbone.model.parameters()).element_size()
    shared = (
        ""
        if len(distinct) == backbone.depth
        else f", {len(distinct)} stand for all {backbone.depth}"
    )
    said = (
        f"{_sizes(sizes)}{shared}; all besides the blocks weighs {_bytes(rest)}; a token's state takes "
        f"{backbone.info.dim * element:,} bytes a layer"
    )
    if away:
        said += f"; {away} weights are not in memory"
    advice = (
        "a block without weights is no block: mend the table of architectures, or load it whole"
    )
    return judged(min(sizes) > 0 and not away, said, advice)


def _sizes(sizes: Sequence[int]) -> str:
    if min(sizes) == max(sizes):
        return f"each block weighs {_bytes(sizes[0])}"
    return (
        f"a block weighs {_bytes(min(sizes))} to {_bytes(max(sizes))}, {_bytes(sum(sizes))} in all"
    )


def weight_of(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"
