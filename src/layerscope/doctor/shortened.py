"""Is the model cut after block k the model whose output is layer k; does it survive the disk?"""

from __future__ import annotations

from typing import Final

from layerscope.doctor.layers import normed
from layerscope.doctor.passes import Gap, distance, kept, run, worst
from layerscope.doctor.records import Finding, judged, skipped
from layerscope.doctor.subject import Subject
from layerscope.errors import InputError
from layerscope.surgery import refuse_surgery, skipping

_CUTS: Final = 5


def cut(subject: Subject) -> Finding:
    """The model without the blocks after k puts out layer k, through its final norm if it has one."""
    backbone = subject.backbone
    try:
        refuse_surgery(backbone)
    except InputError as refusal:
        return skipped(str(refusal))
    layers = cut_layers(backbone.depth)
    found = worst(Gap(_cut_gap(subject, layer), layer) for layer in layers)
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
