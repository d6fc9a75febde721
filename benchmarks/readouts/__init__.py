"""Readouts of real models on labelled tasks: vectors of every layer once, then scores without a model.

`python -m benchmarks.readouts encode` fills a bank a model (about an hour on one core; a run that was
killed goes on), `score` scores every single layer; `python -m benchmarks readouts` does both and prints
the tables. `criteria` compares criteria that choose a readout (another hour), `neighbors` those for texts
too short for crops (5 minutes after it). `LAYERSCOPE_READOUTS` is the folder, runs/readouts in the
repository by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import corpora, materials
from benchmarks.readouts.choice import choose, readout_tables
from benchmarks.readouts.layers import score, tables
from benchmarks.readouts.vectors import encode


def main(models: Sequence[str] = tuple(materials.READOUT_MODELS)) -> str:
    """Encode and score what is not there yet; return the tables."""
    torch.set_num_threads(1)
    texts = corpora.every_text()
    for model in models:
        encode(model, texts)
    single = tables(score(models))
    choose(models)
    return f"{readout_tables()}\n\n{single}"
