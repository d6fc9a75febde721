"""`python -m benchmarks.readouts STEP`: one step, for all models or for those named."""

from __future__ import annotations

import argparse

import torch

from benchmarks import corpora, materials, readouts
from benchmarks.readouts import (
    ablations,
    choice,
    criteria_results,
    labels,
    layers,
    neighbors,
    vectors,
)

parser = argparse.ArgumentParser(prog="python -m benchmarks.readouts", description=readouts.__doc__)
steps = [
    "encode",
    "score",
    "choose",
    "tables",
    "measures",
    "ablate",
    "ship",
    "criteria",
    "neighbors",
    "labels",
    "all",
]
parser.add_argument("step", choices=steps)
parser.add_argument("--model", action="append", choices=list(materials.READOUT_MODELS))
given = parser.parse_args()
chosen = given.model or list(materials.READOUT_MODELS)
torch.set_num_threads(1)
if given.step == "encode":
    for model in chosen:
        vectors.encode(model, corpora.every_text())
elif given.step == "tables":
    print(choice.readout_tables())
elif given.step == "measures":
    print(ablations.measure_table(chosen))
elif given.step == "ablate":
    print("\n\n".join(ablations.ablation(model) for model in chosen))
elif given.step == "ship":
    print("\n\n".join(ablations.shipped(model) for model in chosen))
elif given.step == "criteria":
    print(criteria_results.tables(criteria_results.measure(chosen)))
elif given.step == "neighbors":
    print(neighbors.tables(neighbors.measure(chosen)))
elif given.step == "labels":
    print(labels.table())
elif given.step == "choose":
    choice.choose(chosen)
    print(choice.readout_tables())
else:
    print(readouts.main(chosen) if given.step == "all" else layers.tables(layers.score(chosen)))
