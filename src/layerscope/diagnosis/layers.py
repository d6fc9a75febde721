"""Checks of the layers: block order, layerscope's states, the cut model, save and reload."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from layerscope.diagnosis.results import Finding, judged, skipped
from layerscope.diagnosis.subject import Subject
from layerscope.diagnosis.trace import (
    NO_GAP,
    Gap,
    Inputs,
    Trace,
    distance,
    gap,
    kept,
    run,
    same,
    trace,
    worst,
)
from layerscope.errors import InputError, RunError
from layerscope.export.formats import bytes_of, refuse_full_disk, write_transformers
from layerscope.export.shorten import smaller
from layerscope.models.blocks import refuse_surgery, skipping
from layerscope.models.configs import text_config_of
from layerscope.models.loading import load
from layerscope.models.modes import evaluating

_REPORT = "report the architecture; until it is mended, trust no layer of this model"

# Architectures whose list has no embedding entry, so that entry k is layer k + 1.
_SHIFTED: Final = {"mamba", "mamba2", "falcon_mamba", "rwkv"}


def blocks(subject: Subject) -> Finding:
    """The model calls each block of the list once, in order, each on the output of the previous one."""
    depth = subject.backbone.depth
    wrong = next(filter(None, (_wrong_order(subject, seen) for seen in subject.traces)), "")
    good = (
        f"{depth} blocks, each called once and in order; what leaves each is bit for bit what enters "
        f"the next, on {len(subject.samples)} samples"
    )
    advice = (
        "the list of blocks is not the model's sequence of blocks: mend its row in the table of "
        "architectures, or the model's own code"
    )
    return judged(not wrong, wrong or good, advice)


def _wrong_order(subject: Subject, seen: Trace) -> str:
    """Return what is wrong with the blocks of one pass, "" if nothing is."""
    backbone = subject.backbone
    depth = backbone.depth
    claimed = getattr(text_config_of(backbone.model.config), "num_hidden_layers", depth)
    if claimed != depth:
        return f"the config says {claimed} blocks, the list has {depth}"
    if len(seen.blocks) != depth:
        return f"the model makes {len(seen.blocks)} calls of the {depth} blocks in the list"
    if swapped := _out_of_order(backbone.blocks, seen):
        return f"the model calls the block listed as {swapped[1]} at place {swapped[0]}"
    if broken := _broken_links(seen):
        return (
            f"what leaves block {broken[0]} is not what enters block {broken[0] + 1} "
            f"({len(broken)} of {depth - 1} links broken)"
        )
    return ""


def _out_of_order(listed: Sequence[nn.Module], seen: Trace) -> tuple[int, int] | None:
    """Return the first place where a different block is called, and that block's number."""
    for place, (call, block) in enumerate(zip(seen.blocks, listed, strict=True), start=1):
        if call.module is not block:
            return place, 1 + next(i for i, other in enumerate(listed) if other is call.module)
    return None


def _broken_links(seen: Trace) -> list[int]:
    """Return the blocks whose output is not the input of the next one."""
    pairs = enumerate(pairwise(seen.blocks), start=1)
    return [number for number, (one, other) in pairs if not same(one.left, other.entered)]


def hidden_states(subject: Subject) -> Finding:
    """The library's own list holds the same states, in one of the known patterns."""
    seen = subject.traces[0]
    if not seen.listed:
        return skipped(
            f"{subject.backbone.info.model_class} gives no hidden_states to compare with"
        )
    truth = [state[None] for state in subject.truth[0]][: subject.backbone.depth + 1]
    patterns = _patterns(truth, seen.last)
    kind = subject.backbone.info.architecture
    for name, expected in patterns.items():
        if len(expected) == len(seen.listed) and all(map(same, seen.listed, expected)):
            fits = (name == _NO_EMBEDDINGS) == (kind in _SHIFTED) or not subject.in_table
            said = f"{len(seen.listed)} entries, equal bit for bit: {name}"
            if not fits:
                said += f"; {kind}'s list is known to be another"
            return judged(fits, said, "the library's list has moved; do not read layers from it")
    return judged(False, _mismatch(subject, seen, patterns), _REPORT)


_NO_EMBEDDINGS: Final = (
    "no embeddings, then blocks 1 to L and the normed output, so entry k is layer k + 1"
)


def _patterns(truth: Sequence[Tensor], last: Tensor) -> dict[str, list[Tensor]]:
    """Return the expected list for each known pattern."""
    return {
        "embeddings, then blocks 1 to L, the last one raw": [*truth],
        "embeddings, blocks 1 to L - 1, then the output after the final norm": [*truth[:-1], last],
        _NO_EMBEDDINGS: [*truth[1:], last],
    }


def _mismatch(subject: Subject, seen: Trace, patterns: dict[str, list[Tensor]]) -> str:
    """Describe where the list first differs from the pattern that it follows longest."""
    best = 0
    for expected in patterns.values():
        if len(expected) == len(seen.listed):
            equal = list(map(same, seen.listed, expected))
            best = max(best, equal.index(False))
    return (
        f"the {len(seen.listed)} entries of hidden_states follow no known pattern for "
        f"{subject.backbone.depth} blocks; they part from all at entry {best}"
    )


def extraction(subject: Subject) -> Finding:
    """What layerscope reads as layer k is the output of block k in a plain pass."""
    pairs = zip(subject.extracted(together=1), subject.truth, strict=True)
    found = worst(gap(ours, plain) for ours, plain in pairs)
    kind = "texts" if subject.images is None else "images"
    said = (
        f"layers 0 to {subject.backbone.depth} of {len(subject.samples)} {kind} against plain hooks: "
        f"{subject.place(found)}; {subject.allowed}"
    )
    return judged(found.size <= subject.tolerance, said, _REPORT)


def embeddings(subject: Subject) -> Finding:
    """Layer 0 has no context: another token at one position changes it there and nowhere else."""
    place, other = _altered(subject)
    before = subject.traces[-1].blocks[0].entered
    after = trace(subject.backbone, other).blocks[0].entered
    if before.shape != after.shape or before.ndim != 3:
        return judged(False, "what enters block 1 is no list of token states", _REPORT)
    moved = [
        i
        for i in range(before.shape[1])
        if distance(after[0, i : i + 1], before[0, i : i + 1]) > subject.tolerance
    ]
    listed = subject.traces[-1].listed
    first = bool(listed) and same(listed[0], before)
    what = "pixel" if place is None else "token"
    good = len(moved) == 1 if place is None else moved == [place]
    said = (
        f"one changed {what} changes layer 0 at {len(moved)} of {before.shape[1]} positions; "
        f"layer 0 {'is' if first else 'is not'} the first entry of the library's list"
    )
    if place is not None and first and moved == [place - 1, place, place + 1]:
        good = True
        said += "; the embeddings of this architecture are made of three tokens (MobileBERT)"
    return judged(good, said, f"layer 0 is not what the embeddings give: {_REPORT}")


def _altered(subject: Subject) -> tuple[int | None, Inputs]:
    """Return the longest sample with one token or pixel changed, and which token."""
    if subject.images is not None:
        images = subject.samples[-1]["pixel_values"].clone()
        images[0, 0, 0, 0] += 1
        return None, {"pixel_values": images}
    text = subject.ragged[-1]
    place = len(text.ids) // 2
    others = [
        token
        for each in subject.whole
        for token, special in zip(each.ids, each.special, strict=True)
        if token != text.ids[place] and not special
    ]
    new = others[0] if others else max(0, text.ids[place] - 1)
    return place, subject.alone([*text.ids[:place], new, *text.ids[place + 1 :]])


def final_norm(subject: Subject) -> Finding:
    """The final norm follows block L: applied to layer L's state, it gives the model's own output."""
    backbone = subject.backbone
    if backbone.final_norm is None:
        found = worst(_each(subject, lambda seen: distance(seen.last[0], seen.blocks[-1].left[0])))
        said = f"no final norm, and layer {backbone.depth} is the model's output: "
        advice = "something stands after the last block that the table of architectures lacks"
        return judged(found.size <= subject.tolerance, said + _size(found), advice)
    advice = (
        "the module taken for the final norm is another: mend its row in the table of architectures"
    )
    for seen in subject.traces:
        if len(seen.norms) != 1 or not same(seen.norms[0].entered, seen.blocks[-1].left):
            said = f"the final norm is called {len(seen.norms)} times in a pass, not once on layer "
            return judged(False, f"{said}{backbone.depth}", advice)
    found = worst(_each(subject, lambda seen: _normed_gap(subject, seen)))
    said = (
        f"called once, on layer {backbone.depth}; applied to it again, it gives the model's output: "
        f"{_size(found)}; {subject.allowed}"
    )
    return judged(found.size <= subject.tolerance, said, advice)


def _each(subject: Subject, measure: Callable[[Trace], float]) -> list[Gap]:
    return [Gap(measure(seen), subject.backbone.depth) for seen in subject.traces] or [NO_GAP]


def _normed_gap(subject: Subject, seen: Trace) -> float:
    return distance(normed(subject, seen.blocks[-1].left)[0], seen.last[0])


def normed(subject: Subject, state: Tensor) -> Tensor:
    """Apply the model's final norm, if it has one, to a stored state."""
    norm = subject.backbone.final_norm
    if norm is None:
        return state
    weight = next(norm.parameters(), next(subject.backbone.model.parameters()))
    with evaluating(norm):
        return kept(norm(state.to(weight.device, next(subject.backbone.model.parameters()).dtype)))


def _size(found: Gap) -> str:
    return "no difference at all" if found.size == 0 else f"at most {found.size:.1e} apart"


_CUTS: Final = 5


def cut(subject: Subject) -> Finding:
    """The model without the blocks after k outputs layer k, through its final norm if it has one."""
    backbone = subject.backbone
    try:
        refuse_surgery(backbone)
    except InputError as refusal:
        return skipped(str(refusal))
    gaps: list[Gap] = []
    refusals: list[str] = []
    for layer in cut_layers(backbone.depth):
        try:
            gaps.append(Gap(_cut_gap(subject, layer), layer))
        except InputError as refusal:
            refusals.append(str(refusal))
    if not gaps:
        return skipped(refusals[0])
    found = worst(gaps)
    layers = [each.place for each in gaps]
    through = "" if backbone.final_norm is None else "the final norm of "
    said = (
        f"cut at {', '.join(map(str, layers))}, its output is {through}that layer: "
        f"{subject.place(found)}; {subject.allowed}"
    )
    advice = "do not cut or prune this model: what its blocks do depends on how many there are"
    return judged(found.size <= subject.tolerance, said, advice)


def cut_layers(depth: int) -> list[int]:
    """Return at most five layers to cut at, evenly spaced.

    >>> cut_layers(6), cut_layers(30), cut_layers(1)
    ([1, 2, 3, 4, 5], [1, 8, 15, 22, 29], [1])
    """
    last = max(1, depth - 1)
    count = min(_CUTS, last)
    steps = max(1, count - 1)
    return sorted({1 + round(step * (last - 1) / steps) for step in range(count)})


def _cut_gap(subject: Subject, layer: int) -> float:
    backbone, sample = subject.backbone, subject.samples[-1]
    with skipping(backbone, range(layer + 1, backbone.depth + 1)) as shorter:
        given = kept(run(shorter.model, sample)[0])
    expected = normed(subject, subject.truth[-1][layer][None])
    return distance(given[0], expected[0])


def reload(subject: Subject) -> Finding:
    """Saved as by `cut` and reloaded, the model has the same states at every layer."""
    backbone = subject.backbone
    try:
        whole = smaller(backbone, range(backbone.depth))
    except InputError as refusal:
        return skipped(str(refusal))
    size = bytes_of(whole)
    with tempfile.TemporaryDirectory(prefix="layerscope-doctor-") as room:
        folder = Path(room, "model")
        try:
            refuse_full_disk(folder, size)
        except RunError as full:
            return skipped(f"{full} (TMPDIR says where)")
        write_transformers(whole, backbone.tokenizer, folder)
        found, ids = _read_back(subject, folder)
    said = (
        f"{size / 1e6:,.1f} MB saved and loaded again: over all layers {subject.place(found)}; "
        f"{subject.allowed}"
    )
    if not ids:
        said = "the saved tokenizer reads the texts as other tokens"
    advice = "do not ship this model by cut or prune; its checkpoint does not say all that it is"
    return judged(ids and found.size <= subject.tolerance, said, advice)


def _read_back(subject: Subject, folder: Path) -> tuple[Gap, bool]:
    """Return the worst difference after reloading, and whether the tokens of the texts are equal."""
    options = subject.origin.options.changed(
        revision=None,
        dtype=subject.backbone.info.dtype,
        device=subject.backbone.device,
        device_map=None,
    )
    again = load(folder, options)
    pairs = zip(subject.samples, subject.truth, strict=True)
    found = worst(gap(trace(again, sample).states(again), truth) for sample, truth in pairs)
    return found, _same_tokens(again.tokenizer, subject.backbone.tokenizer, subject.texts)


def _same_tokens(one: Any, other: Any, texts: tuple[str, ...]) -> bool:
    return all(
        one(text, verbose=False)["input_ids"] == other(text, verbose=False)["input_ids"]
        for text in texts
    )
