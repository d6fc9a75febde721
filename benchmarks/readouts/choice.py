"""The readouts that are chosen without labels, and the baselines, on the labelled tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks import materials
from benchmarks.readouts.layers import LAYERS, short
from benchmarks.readouts.scores import SETS, VectorsOf, scored
from benchmarks.readouts.vectors import RESULTS, Vectors
from benchmarks.tables import markdown
from layerscope.analysis.readouts import compare_readouts
from layerscope.data.files import write_json
from layerscope.decisions.readouts import choose_readout
from layerscope.metrics.readouts import Fitted, Readout, embedding_filter, fit, loes_layers
from layerscope.models import loading
from layerscope.results.readouts import Candidate
from layerscope.states.store import Array

READOUTS = RESULTS / "readouts.json"


def compared(model: str) -> dict[str, Any]:
    """Choose a readout of a model on WikiText crops, and score it and the baselines on all tasks."""
    vectors = Vectors(model)
    first, second = vectors.crops()
    pairs = {place: np.stack(both) for place, both in enumerate(zip(first, second, strict=True))}
    started = time.process_time()
    table = compare_readouts(pairs, embedding=output_embedding(model))
    seconds = time.process_time() - started
    choices = {prefer: choose_readout(table, prefer=prefer) for prefer in ("quality", "cheap")}
    ranked = sorted(
        (each for each in table.candidates if each.readout is not None),
        key=lambda each: -each.score,
    )
    wanted = {name: table.candidates[place] for name, place in table.baselines.items()}
    wanted |= {f"chosen, {prefer}": found.chosen.candidate for prefer, found in choices.items()}
    wanted["best crop retrieval"] = ranked[0]
    singles = [
        each for each in ranked if len(each.readout.layers) == 1 and each.readout.map == "none"
    ]
    wanted["best single raw layer by crop retrieval"] = singles[0]
    best_map = choices["quality"].readout.map
    for name in dict.fromkeys((best_map, "z-score", "whitening-0.5")):
        alone = [
            each for each in ranked if len(each.readout.layers) == 1 and each.readout.map == name
        ]
        several = [
            each for each in ranked if len(each.readout.layers) > 1 and each.readout.map == name
        ]
        wanted[f"ablation: one layer, {name}"] = alone[0]
        wanted[f"ablation: several layers, {name}"] = several[0]
    several = [
        each for each in ranked if len(each.readout.layers) > 1 and each.readout.map == "none"
    ]
    wanted["ablation: several layers, no map"] = several[0]
    rows = {
        name: {"readout": each.name, "blocks": each.highest, "crop retrieval": round(each.score, 4)}
        | {
            "scores": scored(
                model, f"readout {each.name} on wikitext", _applied(vectors, each, pairs)
            )
        }
        for name, each in wanted.items()
    }
    sentences = {prefer: found.sentence for prefer, found in choices.items()}
    return {"seconds": round(seconds, 1), "candidates": len(table.candidates),
            "sentences": sentences, "rows": rows}  # fmt: skip


def _applied(vectors: Vectors, candidate: Candidate, pairs: Mapping[int, Array]) -> VectorsOf:
    """Return the texts -> vectors of a candidate, fitted on both crops of every paragraph."""
    if candidate.readout is not None:
        return fitted_on(vectors, candidate.readout, pairs)
    crops = {place: both.reshape(-1, both.shape[-1]) for place, both in pairs.items()}

    def at(place: int, texts: Sequence[str]) -> Array:
        return vectors.at(vectors.positions[place], texts).astype(np.float64)

    if candidate.name.startswith("LOES"):
        taken = loes_layers(crops)
        means = [crops[place].mean(0) for place in taken]
        return lambda texts: np.concatenate(
            [at(place, texts) - mean for place, mean in zip(taken, means, strict=True)], 1
        )
    matrix = embedding_filter(output_embedding(vectors.model))
    return lambda texts: at(vectors.blocks, texts) @ matrix.T


def fitted_on(vectors: Vectors, readout: Readout, pairs: Mapping[int, Array]) -> VectorsOf:
    """Return the texts -> vectors of a readout, fitted on both crops (2, text, dim) of every text.

    It is fitted when the first vectors are asked for, so that known scores cost nothing.
    """

    @cache
    def fitted() -> Fitted:
        shapes = {layer: (-1, pairs[layer].shape[-1]) for layer in readout.layers}
        return fit(readout, {layer: pairs[layer].reshape(s) for layer, s in shapes.items()})

    def of(texts: Sequence[str]) -> Array:
        sites = {layer: vectors.positions[layer] for layer in readout.layers}
        read = {layer: vectors.at(site, texts) for layer, site in sites.items()}
        return fitted().apply({layer: rows.astype(np.float64) for layer, rows in read.items()})

    return of


@cache
def output_embedding(model: str) -> Array | None:
    """Return the output embedding (token, dim) of a decoder, whose input one is the same; else None."""
    if model not in ("SmolLM2 135M", "Gemma 3 270M", "stories260k"):
        return None
    path = materials.READOUT_MODELS[model]()
    if path is None:
        return None
    backbone = loading.load(path)
    weight = backbone.model.get_input_embeddings().weight
    found: Array = weight.detach().float().numpy()
    return found


def readout_table(found: Mapping[str, Any], layers: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """Return the mean score of every readout over some tasks, with its gain over the last layer."""
    sites = layers["sites"]
    raw = np.array([layers["raw"][task] for task in tasks]) * 100
    own = raw[:, sites.index(layers["last"])]
    middle = raw[:, sites.index(layers["middle"])]
    best = raw[:, int(raw.mean(0).argmax())]
    rows = [{"": "best single layer, by labels", "readout": short(sites[int(raw.mean(0).argmax())]),
             "score": f"{best.mean():.2f}"} | _gains(best, own, middle, best)]  # fmt: skip
    for name, row in found["rows"].items():
        scores = 100 * np.array([row["scores"][task] for task in tasks])
        facts = {"": name, "readout": row["readout"], "score": f"{scores.mean():.2f}"}
        rows.append(facts | _gains(scores, own, middle, best) | {"blocks": row["blocks"]})
    return markdown(rows)


def _gains(scores: Array, own: Array, middle: Array, best: Array) -> dict[str, str]:
    found = {}
    for name, base in (("over last", own), ("over middle", middle), ("over best single", best)):
        gain = scores - base
        draws = np.random.default_rng(0).integers(0, len(gain), (2000, len(gain)))
        low, high = np.quantile(gain[draws].mean(1), [0.025, 0.975])
        found[name] = f"{gain.mean():+.2f} ({low:+.1f} to {high:+.1f})"
    return found


def choose(models: Sequence[str]) -> None:
    """Choose and score readouts of the encoded models; keep that in `READOUTS`."""
    found = json.loads(READOUTS.read_text()) if READOUTS.exists() else {}
    for model in models:
        found[model] = compared(model)
        write_json(READOUTS, found)


def readout_tables() -> str:
    """Return the tables of all readouts that were chosen and scored."""
    found = json.loads(READOUTS.read_text())
    layers = json.loads(LAYERS.read_text())["models"]
    models = [model for model in materials.READOUT_MODELS if model in found and model in layers]
    parts = [summary(found, layers, models, name) for name in SETS]
    for model in models:
        parts += [f"### {model}", *found[model]["sentences"].values()]
        for name, tasks in SETS.items():
            parts += [f"Mean of the {len(tasks)} {name} tasks (x 100):"]
            parts += [readout_table(found[model], layers[model], tuple(tasks))]
    return "\n\n".join(parts)


def summary(
    found: Mapping[str, Any], layers: Mapping[str, Any], models: Sequence[str], name: str
) -> str:
    """Return the chosen readout of each model beside the single layers, and the mean over models."""
    tasks, rows, gains = SETS[name], [], []
    for model in models:
        sites, raw = layers[model]["sites"], layers[model]["raw"]
        single = 100 * np.array([raw[task] for task in tasks])
        place = int(single.mean(0).argmax())
        own, middle = (single[:, sites.index(layers[model][each])] for each in ("last", "middle"))
        row = found[model]["rows"]["chosen, quality"]
        chosen = 100 * np.array([row["scores"][task] for task in tasks])
        gains.append(np.stack([chosen - own, chosen - middle, chosen - single[:, place]]))
        rows.append(
            {"model": model, "last": f"{own.mean():.1f}", "middle": f"{middle.mean():.1f}",
             "best layer by labels": f"{single[:, place].mean():.1f} ({short(sites[place])})",
             "readout without labels": f"**{chosen.mean():.1f}** ({row['readout']})"}
            | _gains(chosen, own, middle, single[:, place])
        )  # fmt: skip
    draws = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        models_drawn = draws.integers(0, len(gains), len(gains))
        one = [gains[m][:, draws.integers(0, len(tasks), len(tasks))].mean(1) for m in models_drawn]
        means.append(np.mean(one, 0))
    low, high = np.quantile(np.array(means), [0.025, 0.975], axis=0)
    mean = np.mean([each.mean(1) for each in gains], 0)
    said = [f"{m:+.2f} ({lo:+.1f} to {hi:+.1f})" for m, lo, hi in zip(mean, low, high, strict=True)]
    columns = ("over last", "over middle", "over best single")
    blank = dict.fromkeys(("last", "middle", "best layer by labels", "readout without labels"), "")
    rows.append({"model": "mean", **blank, **dict(zip(columns, said, strict=True))})
    return f"### {len(tasks)} {name} tasks (x 100)\n\n{markdown(rows)}"
