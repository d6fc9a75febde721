"""Is the model cut after block k the model whose output is layer k; does it survive the disk?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from layerscope.doctor.layers import normed
from layerscope.doctor.passes import Gap, distance, gap, kept, run, trace, worst
from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import Subject
from layerscope.errors import InputError, RunError
from layerscope.models import load
from layerscope.surgery import bytes_of, refuse_surgery, skipping, smaller
from layerscope.surgery.saving import refuse_full_disk, write_transformers

_CUTS: Final = 5


def cut(subject: Subject) -> Finding:
    """The model without the blocks after k puts out layer k, through its final norm if it has one."""
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
    """Saved as `cut` saves it, and loaded again, the model has the same states at every layer."""
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
    """Return the worst difference after loading, and whether the texts are the same tokens."""
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
