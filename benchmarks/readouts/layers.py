"""Every single layer of the encoded models on the labelled tasks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import corpora, materials
from benchmarks.readouts.scores import SETS, scored, task_plans
from benchmarks.readouts.vectors import RESULTS, Vectors, folder_of, say
from benchmarks.tables import markdown
from layerscope.data.files import write_atomically
from layerscope.decisions.rules import middle_layer, two_thirds_layer
from layerscope.evaluation.run import unit
from layerscope.states.bank import description
from layerscope.states.extract import Site

LAYERS = RESULTS / "readouts-layers.json"
FORMS = {"raw": "as they are", "unit": "at unit length"}
_LENGTH_MATTERS = ("Classification", "Clustering")


def layer_scores(model: str) -> dict[str, Any]:
    """Return the scores of every single layer of a model, with its baselines' layers.

    "raw" are of the vectors as they are, "unit" of the same at unit length, as sentence-transformers
    models often give them: cosines stay what they are, classifiers and k-means see other vectors.
    """
    vectors = Vectors(model)
    started = time.process_time()
    forms = {form: _by_task(vectors, form) for form in FORMS}
    say(f"{model}: all layers scored, {time.process_time() - started:.0f} s of the CPU")
    return {
        "blocks": vectors.blocks,
        "sites": [str(site) for site in vectors.sites],
        "last": str(vectors.positions[-1]),
        "middle": str(Site(middle_layer(vectors.blocks))),
        "two thirds": str(Site(two_thirds_layer(vectors.blocks))),
        **forms,
    }


def _by_task(vectors: Vectors, form: str) -> dict[str, list[float]]:
    """Return each task's scores at all sites in one form of the vectors."""
    found: dict[str, list[float]] = {task: [] for task in corpora.TASKS}
    for site in vectors.sites:
        raw = partial(vectors.at, site)
        scores = scored(vectors.model, f"{site} raw", raw)
        if form == "unit":
            others = [task for task in corpora.TASKS if task_plans()[task].kind in _LENGTH_MATTERS]
            made = scored(
                vectors.model, f"{site} unit", lambda texts, raw=raw: unit(raw(texts)), others
            )
            scores = {**scores, **made}
        for task, value in scores.items():
            found[task].append(round(value, 6))
    return found


def layer_table(found: Mapping[str, Any], tasks: Sequence[str], form: str) -> str:
    """Return what the baselines score on average over some tasks, a row a model."""
    rows = []
    for model, layers in found.items():
        sites = layers["sites"]
        mean = 100 * np.mean([layers[form][task] for task in tasks], axis=0)
        best = int(mean.argmax())
        row: dict[str, Any] = {"model": model, "L": layers["blocks"]}
        for name in ("last", "middle", "two thirds"):
            row[name] = f"{mean[sites.index(layers[name])]:.2f}"
        row["last block, raw"] = f"{mean[sites.index(str(Site(layers['blocks'])))]:.2f}"
        rows.append(row | {"best by labels (layer)": f"{mean[best]:.2f} ({short(sites[best])})"})
    return markdown(rows)


def task_table(layers: Mapping[str, Any]) -> str:
    """Return what the baselines of one model score on each task."""
    sites, rows = layers["sites"], []
    for task, scores in layers["raw"].items():
        best = int(np.argmax(scores))
        row: dict[str, Any] = {"task": task}
        for name in ("last", "middle", "two thirds"):
            row[name] = f"{100 * scores[sites.index(layers[name])]:.2f}"
        rows.append(row | {"best (layer)": f"{100 * scores[best]:.2f} ({short(sites[best])})"})
    return markdown(rows)


def short(site: str) -> str:
    """Return a site's name as the tables give it."""
    return site.removeprefix("block.").replace("final_norm.", "norm ")


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of single layers."""
    parts = ["### Subsets", markdown(corpora.sizes())]
    for form, said in FORMS.items():
        for name, tasks in SETS.items():
            parts += [f"### Single layers {said}, mean of the {len(tasks)} {name} tasks (x 100)"]
            parts += [layer_table(found, tuple(tasks), form)]
    for model, layers in found.items():
        parts += [f"### {model}, task by task (x 100)", task_table(layers)]
    return "\n\n".join(parts)


def score(models: Sequence[str]) -> dict[str, Any]:
    """Score every single layer of the encoded models and keep that in `LAYERS`."""
    found = json.loads(LAYERS.read_text())["models"] if LAYERS.exists() else {}
    for model in models:
        if description(folder_of(model) / "bank") is not None:
            found[model] = layer_scores(model)
    ordered = {model: found[model] for model in materials.READOUT_MODELS if model in found}
    sets = {name: list(tasks) for name, tasks in SETS.items()}
    whole = {"sets": sets, "subsets": corpora.sizes(), "models": ordered}
    write_atomically(LAYERS, readable(whole).encode())
    return ordered


def readable(content: Mapping[str, Any]) -> str:
    """Return plain values as JSON with a list a line, not a number a line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"
